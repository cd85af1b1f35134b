"""A replay decides what was decided then; under another configuration it says what would change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Denial, Prompt
from policies.weights import Weights
from proxy import config_file, replay_report, serve
from proxy.asked import Asked, asked
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.config import Circuit
from proxy.errors import ApiError
from proxy.figures import Figures
from proxy.ledger.answers import Done
from proxy.ledger.protocol import Quality
from proxy.past_figures import Declared, Measured
from proxy.price_book import PriceBook
from proxy.pricing import Usage
from proxy.replay import Answer, Replay, answers_of
from proxy.replay_report import About
from proxy.routing import Decision, Router, conversation_of
from proxy.targets import CurrentTable
from proxy.wishes import Wishes
from tests.proxy.test_routing import CONFIG, _parsed, texts, weights, wishes

MODELS = {
    **CONFIG["models"],
    "learned": {"targets": ["up/*"], "policy": {"name": "learned", "share": 0.4}},
    "turns": {"targets": ["up/*"], "policy": {"name": "balanced", "by": "round_robin"}},
}
ABOUT = About(policy="draft.yaml", since="then", until="now", figures="declared")
Load = Callable[[dict[str, Any]], CurrentTable]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("replay")

    def loaded(config: dict[str, Any]) -> CurrentTable:
        file = folder / "router.yaml"
        file.write_text(yaml.safe_dump(config))
        found = config_file.load(file, {})
        return serve.resolve(found, {}, PriceBook.load(), looks=False).tables

    return loaded


@pytest.fixture(scope="module")
def table(load: Load) -> CurrentTable:
    return load({**CONFIG, "models": MODELS})


@pytest.fixture(scope="module")
def router(table: CurrentTable) -> Router:
    clock = SystemClock()
    return Router(
        table=table,
        figures=Figures(clock),
        circuits=Circuits(Circuit(), clock),
        secret=b"key",
        clock=clock,
    )


def _recorded(
    router: Router, model: str, text: str, wish: Wishes, left: float | None, **more: Any
) -> tuple[Decision, Asked, Prompt]:
    """A decision as it is made live, and what is written down of it."""
    request = _parsed(model, text, **more)
    found = router.find(ANONYMOUS, model)
    scopes = ("global", "tag:t")
    at = 1_700_000_000.0
    decision = router.decide(
        found, request, wish, caller_id="k", scopes=scopes, budget_left=left, at=at
    )
    prompt = decision.question.prompt
    if not prompt.turns:
        prompt = request.prompt()
    question = asked(
        decision,
        request_id="req_1",
        at=at,
        key_id="k",
        scopes=scopes,
        capability=request.capability,
        prompt=prompt,
        conversation=conversation_of(b"key", "k", prompt),
        wishes=wish,
        tier="",
        swap=None,
    )
    return decision, question.completed(prompt, decision.question.analysis), prompt


def _written(value: Asked) -> Asked:
    return msgspec.json.decode(msgspec.json.encode(value), type=Asked)


class Again:
    """A replay of requests whose answers are known."""

    def __init__(
        self, table: CurrentTable, answers: dict[str, Answer], draft: CurrentTable
    ) -> None:
        self._answers = answers
        self._replay = Replay(draft(), Declared(), SystemClock(), served=table())
        self.report = self._replay.report

    def add(self, question: Asked, prompt: Prompt | None) -> None:
        self._replay.add(question, prompt, self._answers.get(question.request_id))


def _replay(
    table: CurrentTable,
    answers: dict[str, Answer] | None = None,
    *,
    draft: CurrentTable | None = None,
) -> Again:
    return Again(table, answers or {}, draft or table)


@given(
    model=st.sampled_from(sorted(MODELS)),
    text=texts,
    wish=wishes,
    weighed=weights,
    left=st.none() | st.floats(0, 1),
    maximum=st.none() | st.integers(1, 5000),
    stream=st.booleans(),
    keeps=st.booleans(),
)
def test_a_replay_decides_what_was_decided_live_without_a_word_of_the_prompt(
    table: CurrentTable,
    router: Router,
    model: str,
    text: str,
    wish: Wishes,
    weighed: Any,
    left: float | None,
    maximum: int | None,
    stream: bool,
    keeps: bool,
) -> None:
    if model == "weighted":
        wish = replace(wish, weights=weighed)
    more: dict[str, Any] = {"stream": stream}
    if maximum is not None:
        more["max_tokens"] = maximum
    router.take_turn()
    decision, question, prompt = _recorded(router, model, text, wish, left, **more)
    question = _written(question)
    again = _replay(table)
    again.add(question, prompt if keeps else None)
    report = again.report
    assert (report.same_decisions, report.changed) == (1, 0)
    assert question.decision == decision.id
    reason = "refused now" if isinstance(decision.outcome, Denial) else "no answer then"
    assert dict(report.left_out) == {reason: 1}


@given(text=st.text(min_size=12))
def test_nothing_that_was_said_is_in_what_is_written_down(router: Router, text: str) -> None:
    canary = "zqxjkv-canary-0815"
    _, question, _ = _recorded(router, "learned", f"{canary} {text}", Wishes(), None)
    assert canary.encode() not in msgspec.json.encode(question)


def _done(target: str, cost: int = 1000, number: int = 1, **more: Any) -> Done:
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "number": number,
        "reason": "",
        "target": target,
        "outcome": "ok",
        "status": 200,
        "cost_nanousd": cost,
        "usage": Usage(input_tokens=1000, output_tokens=500),
        "first_token_s": 0.5,
        "total_s": 1.0,
        **more,
    }
    return Done(**fields)


def test_the_same_configuration_costs_what_it_cost(table: CurrentTable, router: Router) -> None:
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    assert question.target == "up/b"  # up/a takes longer than the model's limit
    failed = _done("up/b", cost=77, outcome="upstream_error", first_token_s=None)
    answers = answers_of([failed, _done("up/c", cost=12_345, number=2)])
    again = _replay(table, answers)
    again.add(question, None)
    report = again.report
    assert (report.compared, report.changed) == (1, 0)
    assert report.then.total_nanousd == report.now.total_nanousd == 77 + 12_345
    assert dict(report.now.requests) == {"up/c": 1}


def test_another_policy_moves_requests_and_money(
    load: Load, table: CurrentTable, router: Router
) -> None:
    cheaper = load({**CONFIG, "models": {**MODELS, "ordered": {"targets": ["up/a"]}}})
    _, question, _ = _recorded(router, "ordered", "Write code to sort", Wishes(), None)
    answers = answers_of([_done(question.target, cost=1000)])
    again = _replay(table, answers, draft=cheaper)
    again.add(_written(question), None)
    report = again.report
    (change,) = report.changes
    assert (change.then, change.now) == (question.target, "up/a")
    # 1,000 tokens at $8 and 500 at $16 per million.
    assert change.cost_now == report.now.total_nanousd == 16_000_000
    assert report.now.mean_latency_ms == 2400
    assert report.now.mean_quality == pytest.approx(0.82)
    shown = replay_report.as_json(report, ABOUT)
    assert json.loads(json.dumps(shown))["now"]["targets"] == {
        "up/a": {"requests": 1, "cost_usd": 0.016}
    }


def test_who_judges_an_answer_does_not_give_it(table: CurrentTable, router: Router) -> None:
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    judgement = _done("up/c", cost=30, number=2, reason="judge")
    again = _replay(table, answers_of([_done("up/b", cost=1000), judgement]))
    again.add(question, None)
    assert dict(again.report.then.requests) == {"up/b": 1}
    assert again.report.then.total_nanousd == 1030


@pytest.mark.parametrize("policy", ["race", "cascade", "consensus"])
def test_what_an_ensemble_costs_is_not_told_by_one_attempt(
    load: Load, table: CurrentTable, router: Router, policy: str
) -> None:
    """Nor what one attempt costs by an ensemble's; the same one again costs what it did."""
    model = {"targets": ["up/b", "up/c"], "policy": policy}
    several = load({**CONFIG, "models": {**MODELS, "ordered": model}})
    answers = answers_of([_done("up/b"), _done("up/c", number=2)])
    _, alone, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    together = msgspec.structs.replace(alone, policy=policy)
    for question, served, draft in [(alone, table, several), (together, several, table)]:
        again = _replay(served, answers, draft=draft)
        again.add(question, None)
        assert dict(again.report.left_out) == {"asked otherwise": 1}
    reloaded = _replay(table, answers)  # it serves otherwise by now
    reloaded.add(together, None)
    assert dict(reloaded.report.left_out) == {"asked otherwise": 1}
    same = _replay(several, answers, draft=several)
    same.add(together, None)
    assert same.report.now.total_nanousd == same.report.then.total_nanousd == 2000


def test_a_price_that_changed_is_in_what_it_would_cost(
    load: Load, table: CurrentTable, router: Router
) -> None:
    targets = [{**target, "price": {"input": 0, "output": 4}} for target in CONFIG["targets"]]
    dearer = load({**CONFIG, "models": MODELS, "targets": targets})
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    answers = answers_of([_done("up/b", cost=5_000_000)])  # with what tokens do not tell
    again = _replay(table, answers, draft=dearer)
    again.add(question, None)
    # 1,000 x $1 + 500 x $2 per million then, 500 x $4 now: the same but for nothing.
    assert again.report.now.total_nanousd == 5_000_000


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"swap": 3}, "swapped"),
        ({"model": "gone"}, "no such model"),
    ],
)
def test_what_cannot_be_replayed_is_counted_with_its_reason(
    table: CurrentTable, router: Router, changes: dict[str, Any], why: str
) -> None:
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    again = _replay(table)
    again.add(msgspec.structs.replace(question, **changes), None)
    assert dict(again.report.left_out) == {why: 1}
    assert again.report.compared == 0


OWN = """
from policies.base import Choice

class Policy:
    name = "own"
    reads = frozenset({"prompt"})

    def decide(self, question, candidates):
        order = sorted(candidates, key=lambda c: c.name, reverse="up" in question.prompt.text)
        return tuple(Choice(target=c.name, reason="own") for c in order)
"""


def test_a_policy_of_the_operators_own_needs_the_prompts(
    load: Load, table: CurrentTable, router: Router, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    model = {"targets": ["up/*"], "policy": str(tmp_path / "own.py")}
    draft = load({**CONFIG, "models": {**MODELS, "ordered": model}})
    _, question, prompt = _recorded(router, "ordered", "upside down", Wishes(), None)
    again = _replay(table, {"req_1": Answer(_done("up/b"), 1000)}, draft=draft)
    again.add(question, None)
    assert dict(again.report.left_out) == {"prompt not kept": 1}
    again.add(question, prompt)
    assert [change.now for change in again.report.changes] == ["up/d"]


def test_a_tier_that_a_budget_had_reached_is_asked_again(
    load: Load, table: CurrentTable, router: Router
) -> None:
    model = {"targets": ["up/a"], "downgrade": [{"at_percent": 80, "targets": ["up/d"]}]}
    draft = load({**CONFIG, "models": {**MODELS, "ordered": model}})
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    answers = {"req_1": Answer(_done("up/b"), 1000)}
    for tier, expected in (("", "up/a"), ("50%", "up/a"), ("80%", "up/d"), ("90%", "up/d")):
        again = _replay(table, answers, draft=draft)
        again.add(msgspec.structs.replace(question, tier=tier), None)
        assert [change.now for change in again.report.changes] == [expected]


def test_names_that_the_client_wished_for_stand_behind(
    load: Load, table: CurrentTable, router: Router
) -> None:
    draft = load({**CONFIG, "models": {**MODELS, "ordered": {"targets": ["tier:local"]}}})
    wish = Wishes(models=("up/c", "nobody/knows"))
    _, question, _ = _recorded(router, "ordered", "Hello", wish, None)
    again = _replay(table, {"req_1": Answer(_done("up/b"), 1000)}, draft=draft)
    again.add(_written(question), None)
    assert [change.now for change in again.report.changes] == ["up/c"]


def test_what_targets_have_shown_takes_the_place_of_what_is_declared(table: CurrentTable) -> None:
    target = table().targets["up/a"]
    attempts = [_done("up/a", first_token_s=0.25, total_s=1.25) for _ in range(8)]
    attempts += [_done("up/a", outcome="timeout", first_token_s=None)] * 2
    attempts += [_done("up/a", outcome="not_dispatched", first_token_s=None)] * 5
    shown = Measured(attempts, [Quality("up/a", "chat", 20, 0)]).candidate(target)
    assert shown.latency_ms == 250
    assert shown.reliability == pytest.approx(0.8)
    assert shown.tokens_per_second == pytest.approx(499)
    assert shown.quality_of("chat") == pytest.approx(0.29)
    few = Measured(attempts[:4], []).candidate(target)
    assert few is target.candidate
    assert Declared().candidate(target) is target.candidate


def test_a_wish_that_the_draft_does_not_heed_is_refused(
    load: Load, table: CurrentTable, router: Router
) -> None:
    models = {"weighted": {"targets": ["up/*"]}}
    draft = load({**CONFIG, "models": models, "rules": CONFIG["rules"][:2]})
    wish = Wishes(weights=Weights(cost=1))
    _, question, _ = _recorded(router, "weighted", "Hello", wish, None)
    again = _replay(table, draft=draft)
    again.add(_written(question), None)
    assert dict(again.report.left_out) == {"refused now": 1}
    with pytest.raises(ApiError):
        Router(
            table=draft,
            figures=Declared(),
            circuits=Circuits(Circuit(), SystemClock()),
            secret=b"",
            clock=SystemClock(),
        ).decide(draft().models["weighted"], _parsed("weighted", "Hello"), wish)


@pytest.mark.negative(number=39)
def test_the_page_needs_nothing_else_and_runs_nothing(
    load: Load, table: CurrentTable, router: Router
) -> None:
    draft = load({**CONFIG, "models": {**MODELS, "ordered": {"targets": ["up/a"]}}})
    _, question, _ = _recorded(router, "ordered", "Hello", Wishes(), None)
    hostile = '<script>alert("x")</script>'
    named = msgspec.structs.replace(question, request_id=hostile, target=hostile)
    again = _replay(table, {hostile: Answer(_done(hostile), 1000)}, draft=draft)
    again.add(named, None)
    page = replay_report.page(again.report, replace(ABOUT, policy=hostile))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page  # nothing is fetched from anywhere
    assert page.count("<rect") == 2 * 2 + 2
    for drawing in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(drawing)  # our own
