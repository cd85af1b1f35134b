"""Where names lead to while swaps are in force."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec
import pytest

from policies.base import Candidate, Choice, Question
from proxy import catalog, config_file, discovery
from proxy.auth import ANONYMOUS
from proxy.http import Exchange
from proxy.inventory import FoundModel, FoundProvider, Inventory
from proxy.price_book import PriceBook
from proxy.swaps import core
from proxy.swaps import moves as module
from proxy.swaps.core import Plan, Swap
from proxy.swaps.moves import Aim, Moves, OldBehindNew, meaningless
from proxy.target_table import build_table
from proxy.targets import Target, TargetTable, VirtualModel
from proxy.wire import chat
from proxy.yaml_file import YamlFile

BASE = """\
providers:
  up: {base_url: "http://up/v1"}
targets:
  - {target: up/old, alias: [nick], price: {input: 1, output: 1}}
  - {target: up/new, price: {input: 3, output: 3}}
  - {target: up/newer, price: {input: 5, output: 5}}
  - {target: up/between, price: {input: 2, output: 2}}
  - {target: up/embed, vector_space: one}
  - {target: up/embed-too, vector_space: one}
  - {target: up/embed-other, vector_space: two}
models:
  auto: {targets: [up/old, up/between]}
  cheap: {policy: cheapest, targets: [up/between, up/old]}
  tiered: {targets: [up/between], downgrade: [{at_percent: 80, targets: [up/old]}]}
  vectors: {targets: [up/embed]}
"""


def a_table(text: str = BASE) -> TargetTable:
    built = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    return build_table(built, catalog.load(), PriceBook.load(), today=date(2026, 11, 20))


TABLE = a_table()


class Told:
    """What a ledger would say."""

    def __init__(self, *swaps: Swap) -> None:
        self.swaps: Mapping[int, Swap] = {swap.swap_id: swap for swap in swaps}
        self.began: set[int] = set()

    def began_moved(self, swap_id: int, conversation: int) -> bool:
        return conversation in self.began

    def begin_conversation(self, swap_id: int, conversation: int) -> None:
        self.began.add(conversation)


def a_swap(number: int = 1, state: str = "completed", percent: int = 100, **fields: Any) -> Swap:
    plan = Plan(**{"name": "auto", "source": "up/old", "target": "up/new", **fields})
    begun = core.opened(number, plan, 0)
    return msgspec.structs.replace(begun, state=state, percent=percent)


async def _nothing(*_: object) -> Any:
    raise AssertionError


def an_exchange(**headers: str) -> Exchange:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Exchange({"type": "http", "headers": sent}, _nothing, _nothing)


def aimed(told: Told, name: str = "auto", *texts: str, table: TargetTable = TABLE) -> Aim:
    roles = ("user", "assistant")
    messages = [
        {"role": roles[i % 2], "content": text} for i, text in enumerate(texts or ("Hello",))
    ]
    request = chat.parse(msgspec.json.encode({"model": name, "messages": messages}))
    found = table.find(name)
    assert found is not None
    moves = Moves(told, b"secret")
    return moves.aimed(name, found, table, ANONYMOUS, an_exchange(), request)[0]


def targets_of(aim: Aim) -> list[str]:
    assert isinstance(aim, VirtualModel)
    return [target.name for target in aim.targets]


def choices_of(aim: Aim) -> list[str]:
    assert isinstance(aim, VirtualModel)
    question = Question(needs=frozenset({"chat"}), input_tokens=1)
    return [choice.target for choice in aim.policy.decide(question, aim.candidates)]


def test_the_new_target_stands_where_the_old_one_stood() -> None:
    assert targets_of(aimed(Told(a_swap()))) == ["up/new", "up/between"]
    assert targets_of(aimed(Told(a_swap()), "cheap")) == ["up/between", "up/old"]


def test_the_old_target_is_behind_the_new_one_while_it_drains() -> None:
    assert choices_of(aimed(Told(a_swap(state="draining")))) == ["up/new", "up/old", "up/between"]


def test_what_a_policy_thinks_of_the_new_target_does_not_keep_the_share_from_moving() -> None:
    """By prices alone the old one would go first, and nothing would be moved."""
    draining = a_swap(state="draining", name="cheap")
    assert choices_of(aimed(Told(draining), "cheap")) == ["up/new", "up/old", "up/between"]
    completed = a_swap(name="cheap")
    assert choices_of(aimed(Told(completed), "cheap")) == ["up/between", "up/new"]


def test_a_target_that_cannot_take_a_request_leaves_it_to_the_other() -> None:
    class Ordered:
        name = "ordered"

        def decide(self, question: Question, candidates: Any) -> tuple[Choice, ...]:
            return tuple(Choice(target=one.name, reason="") for one in candidates)

    def candidate(name: str) -> Candidate:
        return Candidate(
            name=name,
            capabilities=frozenset(),
            context_length=None,
            input_nanousd=None,
            output_nanousd=None,
        )

    policy = OldBehindNew(Ordered(), old="o", new="n")
    question = Question(needs=frozenset(), input_tokens=1)
    for names, expected in ((("a", "o"), "ao"), (("n", "a"), "na"), (("a", "o", "n"), "ano")):
        choices = policy.decide(question, [candidate(name) for name in names])
        assert "".join(choice.target for choice in choices) == expected


def test_a_target_is_never_there_twice() -> None:
    told = Told(a_swap(target="up/between"))
    assert targets_of(aimed(told)) == ["up/between"]


def test_cheaper_selves_move_too() -> None:
    moved = aimed(Told(a_swap(name="tiered")), "tiered")
    assert isinstance(moved, VirtualModel)
    assert [targets_of(tier.model) for tier in moved.downgrades] == [["up/new"]]


def test_an_alias_leads_to_the_new_target() -> None:
    told = Told(a_swap(name="nick"))
    moved = aimed(told, "nick")
    assert isinstance(moved, Target)
    assert moved.name == "up/new"
    unmoved = aimed(told, "up/old")
    assert isinstance(unmoved, Target)
    assert unmoved.name == "up/old"


def test_swaps_of_a_name_apply_one_after_the_other() -> None:
    first = a_swap(1)
    second = a_swap(2, source="up/new", target="up/newer")
    assert targets_of(aimed(Told(second, first))) == ["up/newer", "up/between"]
    preparing = msgspec.structs.replace(second, state="preparing", percent=0)
    assert targets_of(aimed(Told(first, preparing))) == ["up/new", "up/between"]


def test_a_share_is_drawn_by_request_and_none_is_moved_at_first() -> None:
    told = Told(a_swap(state="shifting", percent=50))
    first = [targets_of(aimed(told))[0] for _ in range(200)]
    assert 40 < first.count("up/new") < 160


def test_all_workers_draw_alike_for_a_conversation() -> None:
    told = Told(a_swap(state="shifting", percent=50, keeps_conversations=True))
    for number in range(50):
        text = f"story {number}"
        began = {targets_of(aimed(told, "auto", text))[0] for _ in range(5)}
        assert len(began) == 1
        assert targets_of(aimed(told, "auto", text, "Well", "Go on"))[0] in began
    assert 0 < len(told.began) < 50


def test_what_began_before_stays_at_the_old_target_until_the_swap_is_over() -> None:
    draining = a_swap(state="draining", keeps_conversations=True)
    before = ("auto", "An old story", "Once", "Go on")
    assert targets_of(aimed(Told(draining), *before)) == ["up/old", "up/between"]
    completed = a_swap(keeps_conversations=True)
    assert targets_of(aimed(Told(completed), *before)) == ["up/new", "up/between"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, None),
        ({"name": "nick"}, None),
        ({"name": "tiered"}, None),
        ({"name": "nobody"}, "there is no virtual model and no alias 'nobody'"),
        ({"name": "up/old"}, "there is no virtual model and no alias 'up/old'"),
        ({"target": "up/nothing"}, "there is no target 'up/nothing'"),
        ({"target": "new"}, "there is no target 'new'; write 'up/new'"),
        (
            {"source": "up/newer"},
            "'auto' does not lead to 'up/newer', but to up/between, up/old",
        ),
        ({"target": "up/embed"}, "'up/embed' has no chat, which 'up/old' has"),
        ({"name": "vectors", "source": "up/embed", "target": "up/embed-too"}, None),
        (
            {"name": "vectors", "source": "up/embed", "target": "up/embed-other"},
            "the vectors of 'up/embed-other' are of the space 'two', those of 'up/embed' of "
            "'one': no index may hold both",
        ),
    ],
)
def test_swaps_that_make_no_sense(fields: dict[str, str], problem: str | None) -> None:
    assert Moves(Told(), b"s").problem(a_swap(**fields).plan, TABLE) == problem


def test_a_second_swap_begins_where_the_first_one_led() -> None:
    moves = Moves(Told(a_swap()), b"s")
    plan = a_swap(2, source="up/new", target="up/newer").plan
    assert moves.problem(plan, TABLE) is None
    assert "but to up/between, up/new" in (moves.problem(a_swap(2).plan, TABLE) or "")


def test_a_target_is_in_use_as_long_as_any_name_leads_to_it() -> None:
    assert Moves(Told(), b"s").uses("up/old", TABLE)
    swaps = [a_swap(i, name=n) for i, n in enumerate(("auto", "cheap", "tiered", "nick"), 1)]
    for left_out in swaps:
        told = Told(*(swap for swap in swaps if swap is not left_out))
        assert Moves(told, b"s").uses("up/old", TABLE)
    assert not Moves(Told(*swaps), b"s").uses("up/old", TABLE)
    assert Moves(Told(*swaps), b"s").uses("up/new", TABLE)


def test_what_the_configuration_no_longer_has_is_not_moved() -> None:
    swaps = [a_swap(1), a_swap(2, source="up/new", target="up/newer")]
    assert meaningless(swaps, TABLE) == []
    other = a_table(BASE.replace("auto: {targets: [up/old, ", "auto: {targets: [up/newer, "))
    assert meaningless(swaps, other) == swaps
    assert targets_of(aimed(Told(*swaps), table=other)) == ["up/newer", "up/between"]
    nameless = a_table(BASE.replace("auto:", "manual:"))
    assert meaningless(swaps, nameless) == swaps


def test_vectors_of_two_spaces_do_not_meet_when_the_configuration_changes() -> None:
    text = BASE.replace("{target: up/embed, ", "{target: up/embed, alias: [index], ")
    swap = a_swap(name="index", source="up/embed", target="up/embed-too")
    before = a_table(text)
    found = before.target("index")
    assert found is not None
    assert Moves(Told(swap), b"secret").effective("index", found, before).name == "up/embed-too"
    after = a_table(text.replace("embed-too, vector_space: one", "embed-too, vector_space: three"))
    assert Moves(Told(swap), b"secret").effective("index", found, after).name == "up/embed"
    assert meaningless([swap], after) == [swap]


def test_what_a_long_history_has_no_effect_of_is_found_in_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: Any = {"source": "up/old", "target": "up/new"}
    back: Any = {"source": "up/new", "target": "up/old"}
    swaps = [a_swap(number, **(there if number % 2 else back)) for number in range(1, 101)]
    looked: list[int] = []
    moved = module.moved

    def counted(found: Aim, swap: Swap, table: TargetTable) -> Aim | None:
        looked.append(swap.swap_id)
        return moved(found, swap, table)

    monkeypatch.setattr(module, "moved", counted)
    assert meaningless(swaps, TABLE) == []
    assert looked == list(range(1, 101))


def test_no_virtual_model_is_moved_to_a_demonstration_beside_real_targets() -> None:
    text = BASE.replace("targets:\n", "targets:\n  - {target: demo/m, price: free}\n", 1)
    table = a_table(text.replace("providers:\n", "providers:\n  demo: {adapter: scripted}\n"))
    problem = Moves(Told(), b"s").problem(a_swap(target="demo/m").plan, table)
    assert problem == "'demo/m' is a demonstration, which no virtual model leads to here"
    assert Moves(Told(), b"s").problem(a_swap(name="nick", target="demo/m").plan, table) is None


def test_a_swap_stays_in_force_when_what_was_found_goes() -> None:
    text = BASE + "  nearby: {targets: [near/*]}\n"
    text = text.replace("targets:\n", "targets:\n  - {target: near/*, price: free}\n", 1)
    text = text.replace("providers:\n", 'providers:\n  near: {base_url: "http://127.0.0.1:9/v1"}\n')
    config = config_file.build(YamlFile.parse(text, "router.yaml"), {})

    def table_with(*names: str) -> TargetTable:
        models = tuple(FoundModel(name=name) for name in names)
        near = FoundProvider(
            name="near",
            adapter="openai_compatible",
            by="9",
            base_url="http://127.0.0.1:9/v1",
            models=models,
        )
        found, facts, _ = discovery.with_found(config, Inventory(providers=(near,)))
        book, today = PriceBook.load(), date(2026, 11, 20)
        return build_table(found, catalog.load(), book, today=today, found=facts)

    told = Told(
        a_swap(1, name="nearby", source="near/m", target="up/old"),
        a_swap(2, name="nearby", source="up/old", target="up/new"),
    )
    for table in (table_with("m"), table_with()):
        assert targets_of(aimed(told, "nearby", table=table)) == ["up/new"]
        assert meaningless(told.swaps.values(), table) == []
    assert targets_of(aimed(told, "nearby", table=table_with("other"))) == ["near/other"]


def test_what_has_a_price_is_not_moved_to_what_has_none() -> None:
    table = a_table(BASE.replace("models:\n", "  - {target: up/unknown}\nmodels:\n", 1))
    problem = Moves(Told(), b"s").problem(a_swap(target="up/unknown").plan, table)
    assert problem == "'up/unknown' has no price, so that no budget admits it; see 'unpriced'"
