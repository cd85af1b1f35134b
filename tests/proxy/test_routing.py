"""From a request to a decision: the same for the same request, whoever is asked and how often."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Candidate, Choice, Denial, Question, Route, Sense
from policies.constraints import Constraints
from policies.weights import CRITERIA, Weights
from proxy import config_file, serve
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.config import Circuit
from proxy.errors import ApiError
from proxy.figures import Figures
from proxy.price_book import PriceBook
from proxy.pricing import Usage
from proxy.routing import Decision, Router, or_else
from proxy.targets import VirtualModel
from proxy.wire import chat
from proxy.wishes import Wishes

NAMES = ("a", "b", "c", "d")
CONFIG: dict[str, Any] = {
    "providers": {"up": {"base_url": "http://127.0.0.1:9/v1"}},
    "targets": [
        {
            "target": f"up/{name}",
            "price": {"input": price, "output": 2 * price},
            "context_length": context,
            "latency_ms": 300 * price,
            "quality": {"general": 0.5 + price / 100, "coding": 0.9 - price / 100},
            **({"capabilities": ["chat"]} if name == "d" else {}),
        }
        for name, price, context in zip(NAMES, (8, 1, 3, 2), (9000, 500, 3000, 2000), strict=True)
    ],
    "models": {
        "weighted": {"targets": ["up/*"], "policy": "weighted"},
        "sticky": {"targets": ["up/*"], "policy": {"name": "balanced", "sticky": True}},
        "cheapest": {"targets": ["up/*"], "policy": "cheapest"},
        "ordered": {"targets": ["up/*"], "constraints": {"max_latency_ms": 2000}},
    },
    "rules": [
        {"name": "code", "when": {"tasks": ["coding"]}, "targets": ["up/a", "up/c"]},
        {"name": "poor", "when": {"budget_left": 0.2}, "constraints": {"max_input_price": 3}},
        {"name": "thrifty", "when": {"scopes": ["key:k_1"]}, "weights": {"cost": 1}},
    ],
}


@pytest.fixture(scope="module")
def routers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Router, Router]:
    """Two of them, as two workers have them."""
    file = tmp_path_factory.mktemp("routing") / "router.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    loaded = config_file.load(file, {})
    table = serve.resolve(loaded, {}, PriceBook.load(), looks=False).tables
    clock = SystemClock()
    first, second = (
        Router(
            table=table,
            figures=Figures(clock),
            circuits=Circuits(loaded.circuit, clock),
            secret=b"key",
            clock=clock,
        )
        for _ in range(2)
    )
    return first, second


def _parsed(model: str, text: str, **more: Any) -> chat.ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return chat.parse(json.dumps(body).encode())


texts = st.text(max_size=300) | st.sampled_from(
    ("What is 2+2?", "Write a Python function that sorts", "word " * 700, "字" * 3000, "x" * 40_000)
)
wishes = st.builds(
    Wishes,
    constraints=st.lists(
        st.builds(
            Constraints,
            max_latency_ms=st.none() | st.floats(1, 3000),
            max_cost_per_request=st.none() | st.floats(0, 0.1),
            excluded_models=st.frozensets(st.sampled_from(NAMES)),
        ),
        max_size=2,
    ).map(tuple),
    sort=st.sampled_from((None, "price", "latency", "throughput")),
    order=st.lists(st.sampled_from((*NAMES, "up", "nobody")), max_size=3).map(tuple),
    allows_fallbacks=st.booleans(),
)
weights = st.none() | st.dictionaries(
    st.sampled_from(CRITERIA), st.floats(0.01, 10), min_size=1
).map(lambda amounts: Weights(**amounts))


def _decide(router: Router, request: chat.ChatRequest, wish: Wishes, left: float | None) -> Any:
    """The decision, or why there is none."""
    try:
        return router.decide(
            router.find(ANONYMOUS, request.model), request, wish, budget_left=left, at=0.0
        )
    except ApiError as error:
        return error.message


@given(
    model=st.sampled_from((*CONFIG["models"], "up/a")),
    text=texts,
    maximum=st.none() | st.integers(1, 3000),
    tools=st.booleans(),
    wish=wishes,
    weights=weights,
    left=st.none() | st.floats(0, 1),
)
def test_dry_and_live_agree_on_every_worker_and_no_wish_is_broken(
    routers: tuple[Router, Router],
    model: str,
    text: str,
    maximum: int | None,
    tools: bool,
    wish: Wishes,
    weights: Weights | None,
    left: float | None,
) -> None:
    extra: dict[str, Any] = {} if maximum is None else {"max_tokens": maximum}
    if tools:
        extra["tools"] = [{"type": "function", "function": {"name": "f"}}]
    request = _parsed(model, text, **extra)
    if weights is not None and model == "weighted":
        wish = Wishes(
            weights=weights, constraints=wish.constraints, sort=wish.sort, order=wish.order,
            allows_fallbacks=wish.allows_fallbacks,
        )  # fmt: skip
    dry, again, elsewhere = (_decide(r, request, wish, left) for r in (*routers, routers[0]))
    if isinstance(dry, str):
        assert dry == again == elsewhere
        return
    assert isinstance(dry, Decision)
    assert dry.id == again.id == elsewhere.id
    assert dry.outcome == again.outcome == elsewhere.outcome
    names = {candidate.name: candidate for candidate in dry.candidates}
    told = {rejection.target for rejection in dry.outcome.rejections}
    if isinstance(dry.outcome, Denial):
        assert told == set(names)
        return
    for choice in dry.outcome.choices:
        assert choice.target not in told
        for limits in wish.constraints:
            candidate = names[choice.target]
            cost = candidate.cost_nanousd(dry.question)
            assert limits.max_latency_ms is None or candidate.latency_ms <= limits.max_latency_ms
            if limits.max_cost_per_request is not None:
                assert cost is not None and cost <= limits.max_cost_per_request * 1e9
            assert choice.target.removeprefix("up/") not in limits.excluded_models


class _Clock:
    """Stands still but for what is asked of it: figures fade with time."""

    now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_ten_thousand_requests_go_where_they_are_said_to_go(routers: tuple[Router, Router]) -> None:
    """Asked first, then sent, then counted: what is measured meanwhile changes the next answer."""
    lot = random.Random(5)
    clock = _Clock()
    figures = Figures(clock)
    table = routers[0].table
    router = Router(
        table=lambda: table,
        figures=figures,
        circuits=Circuits(Circuit(), clock),
        secret=b"key",
        clock=clock,
    )
    prompts = ("Hi", "Prove that 17 is prime", "Write a Python class", "Übersetze: Haus", "x" * 700)
    requests = [_parsed(model, text) for model in CONFIG["models"] for text in prompts]
    first: set[str] = set()
    for _ in range(10_000):
        request = lot.choice(requests)
        wish = Wishes(
            constraints=(Constraints(max_latency_ms=lot.choice((300, 900, 5000))),),
            order=lot.choice(((), (), ("a",), ("d",))),
        )
        left = lot.choice((None, 0.05, 0.4, 1.0))
        dry = _decide(router, request, wish, left)
        live = _decide(router, request, wish, left)
        assert (dry.id, dry.outcome) == (live.id, live.outcome)
        router.take_turn()
        if isinstance(live.outcome, Denial):
            continue
        chosen = live.outcome.choices[0].target
        first.add(chosen)
        target = table.targets[chosen]
        figures.began(target)
        clock.now += lot.random()
        figures.ended(
            target,
            outcome="ok" if lot.random() < 0.9 else "upstream_error",
            status=200,
            usage=Usage(input_tokens=10, output_tokens=50),
            first_token_s=lot.random(),
            total_s=2.0,
        )
    assert len(first) == len(NAMES)


def test_the_narrowest_weights_win(routers: tuple[Router, Router]) -> None:
    """The request's, then those of a rule for its key, then the model's own."""

    def first(scopes: tuple[str, ...] = (), **weights: float) -> str:
        wishes = Wishes(weights=Weights(**weights)) if weights else Wishes()
        found = routers[0].find(ANONYMOUS, "weighted")
        decision = routers[0].decide(found, _parsed("weighted", "Hi"), wishes, scopes=scopes)
        assert isinstance(decision.outcome, Route)
        assert decision.outcome.choices[0].scores is not None
        return "/".join(decision.outcome.choices[0].scores)

    assert first() == "cost/latency/quality/reliability/capabilities"
    assert first(("key:k_1",)) == "cost"
    assert first(("key:k_2",)) == first()
    assert first(("key:k_1",), quality=1) == "quality"


def test_the_id_tells_decisions_apart(routers: tuple[Router, Router]) -> None:
    def id_of(model: str, text: str, left: float | None = None) -> str:
        decision = _decide(routers[0], _parsed(model, text), Wishes(), left)
        assert isinstance(decision, Decision)
        return decision.id

    ids = {
        id_of("weighted", "Hello"),
        id_of("weighted", "Hello there, how are you today?"),
        id_of("weighted", "Hello", 0.1),
        id_of("cheapest", "Hello"),
        id_of("ordered", "Hello"),
    }
    assert len(ids) == 5


def test_a_conversation_keeps_its_target_as_it_grows(routers: tuple[Router, Router]) -> None:
    def first(*said: str) -> str:
        messages = [
            {"role": "user" if i % 2 == 0 else "assistant", "content": text}
            for i, text in enumerate(said)
        ]
        request = chat.parse(json.dumps({"model": "sticky", "messages": messages}).encode())
        decision = _decide(routers[0], request, Wishes(), None)
        routers[0].take_turn()
        assert not isinstance(decision.outcome, Denial)
        return str(decision.outcome.choices[0].target)

    for i in range(20):
        assert len({first(f"Question {i}", *["more", "and more"] * n) for n in range(4)}) == 1
    assert len({first(f"Question {i}") for i in range(40)}) == len(NAMES)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("word" * 9_001, False),  # the longest context is 9,000
        ("word " * 6_000, True),
        (" " * 60_000 + "x", True),  # spaces run together
        ("नमस्ते " * 3_000, True),
    ],
)
def test_what_seems_too_long_is_tried_only_where_its_script_says_twice_the_truth(
    routers: tuple[Router, Router], text: str, accepted: bool
) -> None:
    decision = _decide(routers[0], _parsed("cheapest", text), Wishes(), None)
    assert isinstance(decision.outcome, Denial) is not accepted


@pytest.mark.parametrize("chosen", [(), ("up/c",), ("up/b", "up/none")])
def test_a_policy_cannot_choose_nothing_or_what_is_no_candidate(
    routers: tuple[Router, Router], chosen: tuple[str, ...]
) -> None:
    """One of the operator's own may try: it fails alike asked in advance and live."""

    class Own:
        name = "own"
        reads: frozenset[Sense] = frozenset()

        def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
            return tuple(Choice(target=name, reason="mine") for name in chosen)

    found = routers[0].find(ANONYMOUS, "cheapest")
    assert isinstance(found, VirtualModel)
    limits = (Constraints(excluded_models=frozenset({"up/c"})),)
    with pytest.raises(RuntimeError, match="'own'"):
        routers[0].decide(
            replace(found, policy=Own()), _parsed("cheapest", "Hi"), Wishes(constraints=limits)
        )


def _without(routers: tuple[Router, Router], *out: str) -> Router:
    """A router of the same targets, where some have failed too often."""
    circuits = Circuits(Circuit(), SystemClock())
    for name in out:
        for _ in range(5):
            circuits.begin(name).end("failed", "it broke")
    made = copy(routers[0])
    made._circuits = circuits
    return made


@given(
    model=st.sampled_from(tuple(CONFIG["models"])),
    text=texts,
    out=st.sets(st.sampled_from(NAMES)),
)
def test_what_is_out_is_left_out_unless_nothing_else_is_left(
    routers: tuple[Router, Router], model: str, text: str, out: set[str]
) -> None:
    request = _parsed(model, text)
    usual = _decide(routers[0], request, Wishes(), None).outcome
    router = _without(routers, *(f"up/{name}" for name in out))
    decision = _decide(router, request, Wishes(), None)
    assert decision.outcome.__class__ is usual.__class__
    left_out = {r.target for r in decision.outcome.rejections if r.code == "circuit"}
    if isinstance(usual, Denial):
        assert not left_out
        return
    could = {choice.target for choice in usual.choices}
    chosen = {choice.target for choice in decision.outcome.choices}
    is_out = {f"up/{name}" for name in out}
    assert decision.is_last_resort == (could <= is_out)
    assert chosen == could - left_out
    assert left_out == (could & is_out) - (chosen if decision.is_last_resort else set())
    assert len(chosen) == 1 or not chosen & is_out


def test_another_model_comes_before_a_last_resort(routers: tuple[Router, Router]) -> None:
    router = _without(routers, "up/a", "up/c")
    rule = "Write a Python function that sorts"
    first = _decide(router, _parsed("ordered", rule), Wishes(), None)
    other = _decide(router, _parsed("cheapest", "Hi"), Wishes(), None)
    assert first.is_last_resort
    both = or_else(first, other)
    assert [choice.target for choice in both.outcome.choices] == ["up/b", "up/d", "up/c"]
    assert not both.is_last_resort
    assert both.model_of("up/b") == "cheapest"
    assert both.model_of("up/c") == "ordered"
    usual = or_else(_decide(routers[0], _parsed("ordered", rule), Wishes(), None), other)
    assert [choice.target for choice in usual.outcome.choices] == ["up/c", "up/b", "up/d"]
