"""The load over equals: shares, turns, two choices, conversations that stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError

from policies import registry
from policies.base import Candidate, Question

PLAIN = Question(needs=frozenset({"chat"}), input_tokens=100)


def _equals(count: int, **changes: object) -> list[Candidate]:
    values: dict[str, object] = {
        "capabilities": frozenset({"chat"}),
        "context_length": None,
        "input_nanousd": 1_000_000,
        "output_nanousd": 1_000_000,
        "latency_ms": 500.0,
        **changes,
    }
    return [Candidate(name=f"p/{i}", **values) for i in range(count)]  # type: ignore[arg-type]


def _first(options: dict[str, object], question: Question, found: list[Candidate]) -> str:
    return registry.make("balanced", options).decide(question, found)[0].target


def _counts(options: dict[str, object], found: list[Candidate], turns: int) -> Counter[str]:
    return Counter(
        _first(options, msgspec.structs.replace(PLAIN, turn=turn), found) for turn in range(turns)
    )


def test_round_robin_gives_everyone_the_same() -> None:
    assert set(_counts({"by": "round_robin"}, _equals(3), 300).values()) == {100}


def test_weighted_gives_everyone_their_share() -> None:
    options: dict[str, object] = {"by": "weighted", "shares": {"p/0": 3, "p/1": 1}}
    counts = _counts(options, _equals(2), 4000)
    assert 2850 <= counts["p/0"] <= 3150


def test_least_busy_goes_where_nothing_is_open_and_takes_turns_among_equals() -> None:
    found = _equals(3)
    busy = [replace(found[0], in_flight=4), replace(found[1], in_flight=1), found[2]]
    assert set(_counts({"by": "least_busy"}, busy, 30)) == {"p/2"}
    assert set(_counts({"by": "least_busy"}, found, 300).values()) == {100}


def test_latency_takes_the_better_of_two_and_never_the_worst() -> None:
    found = _equals(4)
    found[1] = replace(found[1], latency_ms=5000.0)
    counts = _counts({"by": "latency"}, found, 2000)
    assert counts["p/1"] == 0
    assert all(counts[f"p/{i}"] > 400 for i in (0, 2, 3))


def test_latency_counts_those_that_wait_already() -> None:
    fast, slow = _equals(2)
    fast = replace(fast, latency_ms=100.0, in_flight=9)
    assert set(_counts({"by": "latency"}, [fast, slow], 50)) == {"p/1"}


def test_cost_and_region_come_first_and_equals_take_turns() -> None:
    found = _equals(3)
    dear = [replace(found[0], input_nanousd=10**9), *found[1:]]
    assert set(_counts({"by": "cost"}, dear, 40)) == {"p/1", "p/2"}
    there = [replace(found[0], region="us"), *(replace(c, region="eu") for c in found[1:])]
    assert set(_counts({"by": "region", "regions": ["eu", "us"]}, there, 40)) == {"p/1", "p/2"}


@given(st.integers(0, 2**64 - 1), st.integers(0, 5), st.integers(0, 10**9))
def test_a_conversation_stays_and_moves_only_from_a_target_that_is_gone(
    conversation: int, broken: int, turn: int
) -> None:
    found = _equals(6)
    asked = msgspec.structs.replace(PLAIN, conversation=conversation)
    options: dict[str, object] = {"by": "round_robin", "sticky": True}
    home = _first(options, asked, found)
    assert _first(options, msgspec.structs.replace(asked, turn=turn), found) == home
    # What is measured of it moves nobody; once it goes, whoever was not there stays.
    failing = [replace(c, reliability=0.1) if i == broken else c for i, c in enumerate(found)]
    assert _first(options, asked, failing) == home
    gone = [c for i, c in enumerate(found) if i != broken]
    moved = _first(options, asked, gone)
    assert moved == home if home != f"p/{broken}" else moved != home
    assert _first(options, asked, found) == home


def test_conversations_spread_over_all_targets() -> None:
    counts = Counter(
        _first({"sticky": True}, msgspec.structs.replace(PLAIN, conversation=i * 2**40), _equals(4))
        for i in range(2000)
    )
    assert all(400 <= count <= 600 for count in counts.values())


@pytest.mark.parametrize(
    "options",
    [
        {"by": "random"},
        {"by": "region"},
        {"regions": ["eu"]},
        {"shares": {"a": 1}},
        {"by": "weighted", "shares": {"a": 0}},
        {"stick": True},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        registry.make("balanced", options)
