"""A month's estimate: whole nano-USD, never too low by a rounding, and only what is known."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.protocol import Reserve, Settle
from proxy.planning import (
    DAYS,
    NO_HISTORY,
    Estimate,
    History,
    Load,
    Taken,
    estimate,
    histories,
    mixed_nanousd,
)
from proxy.pricing import Price, Usage, cost_nanousd
from tests.proxy.ledger.making import NOON, Books, a_settlement, an_attempt

CHEAP = Price(input=1_000_000_000, output=2_000_000_000, source="test")
DEAR = Price(input=10_000_000_000, output=20_000_000_000, source="test")
PRICES = {"up/a": CHEAP, "up/b": DEAR, "up/unpriced": None}


def _taken(target: str, attempts: int, read: int = 100, written: int = 50, **more: int) -> Taken:
    usage = Usage(input_tokens=read, output_tokens=written, **more)
    return Taken(target=target, attempts=attempts, usage=usage)


def test_without_history_the_first_of_the_route_is_taken_for_all() -> None:
    load = Load(requests_per_day=10, tokens=1000, output_tokens=200)
    found = estimate("auto", load, NO_HISTORY, PRICES, ("up/b", "up/a"))
    assert not found.is_measured
    assert [part.target for part in found.parts] == ["up/b"]
    # 300 requests of 800 tokens at $10 and 200 at $20 a million
    assert found.cost_nanousd == 300 * (800 * 10_000 + 200 * 20_000)


def test_the_shares_of_the_ledger_count() -> None:
    history = History(requests=4, taken=(_taken("up/a", 3), _taken("up/b", 1)))
    load = Load(requests_per_day=1, tokens=300, output_tokens=100)
    found = estimate("auto", load, history, PRICES, ("up/b",))
    assert found.is_measured
    cheap, dear = 200 * 1_000 + 100 * 2_000, 200 * 10_000 + 100 * 20_000
    assert [part.cost_nanousd for part in found.parts] == [
        -(-DAYS * 3 * cheap // 4),
        -(-DAYS * dear // 4),
    ]


def test_attempts_that_were_billed_besides_count_too() -> None:
    """Of a race every attempt is paid for, and so is an answer that broke."""
    once = History(requests=10, taken=(_taken("up/a", 10),))
    twice = History(requests=10, taken=(_taken("up/a", 20),))
    load = Load(requests_per_day=5, tokens=100)
    costs = [estimate("auto", load, each, PRICES, ()).cost_nanousd for each in (once, twice)]
    assert costs[1] == 2 * costs[0] > 0


def test_tokens_are_split_as_they_were() -> None:
    load = Load(requests_per_day=1, tokens=900)
    measured = estimate(
        "auto", load, History(requests=2, taken=(_taken("up/a", 2, 200, 100),)), PRICES, ()
    )
    declared = estimate("auto", load, NO_HISTORY, PRICES, ("up/a",))
    assert (measured.input_tokens, measured.output_tokens) == (600, 300)
    assert (declared.input_tokens, declared.output_tokens) == (675, 225)


def test_what_was_read_from_caches_is_read_from_caches() -> None:
    price = Price(input=10_000_000_000, output=0, cached_input=1_000_000_000, source="test")
    load = Load(requests_per_day=1, tokens=1000, output_tokens=0)
    history = History(requests=1, taken=(_taken("up/a", 1, 400, 0, cached_tokens=300),))
    found = estimate("auto", load, history, {"up/a": price}, ())
    assert found.cost_nanousd == DAYS * (250 * 10_000 + 750 * 1_000)


def test_what_has_no_price_or_is_gone_is_named_and_not_counted() -> None:
    taken = (_taken("up/a", 1), _taken("up/unpriced", 1), _taken("up/gone", 1))
    found = estimate(
        "auto",
        Load(requests_per_day=1, tokens=10),
        History(requests=3, taken=taken),
        PRICES,
        ("up/a",),
    )
    assert not found.is_whole
    known, unpriced, gone = found.parts
    assert known.cost_nanousd == found.cost_nanousd > 0
    assert (unpriced.cost_nanousd, "price" in unpriced.problem) == (None, True)
    assert (gone.cost_nanousd, "configured" in gone.problem) == (None, True)
    nothing = estimate("auto", Load(requests_per_day=1, tokens=10), NO_HISTORY, PRICES, ())
    assert not nothing.is_whole


@given(
    per_day=st.integers(1, 10**9),
    tokens=st.integers(1, 10**6),
    attempts=st.lists(st.integers(1, 10**6), min_size=1, max_size=4),
    requests=st.integers(1, 10**6),
    rates=st.lists(st.integers(0, 10**13), min_size=4, max_size=4),
)
def test_it_is_the_exact_sum_rounded_up(
    per_day: int, tokens: int, attempts: list[int], requests: int, rates: list[int]
) -> None:
    names = [f"up/{place}" for place in range(len(attempts))]
    prices = {
        name: Price(input=rate, output=rate, source="test")
        for name, rate in zip(names, rates, strict=False)
    }
    taken = tuple(_taken(name, count) for name, count in zip(names, attempts, strict=True))
    load = Load(requests_per_day=per_day, tokens=tokens)
    found = estimate("auto", load, History(requests=requests, taken=taken), prices, ())
    usage = Usage(input_tokens=found.input_tokens, output_tokens=found.output_tokens)
    assert usage.input_tokens + usage.output_tokens == tokens
    exact = sum(
        Fraction(per_day * DAYS * count, requests) * cost_nanousd(prices[name], usage)
        for name, count in zip(names, attempts, strict=True)
    )
    assert exact <= found.cost_nanousd < exact + len(names)


@given(
    costs=st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**6)), min_size=1, max_size=5)
)
def test_the_mix_lies_between_its_models(costs: list[tuple[int, int]]) -> None:
    found = [_of_cost(cost, requests) for cost, requests in costs]
    mixed = mixed_nanousd(found)
    asked = [cost for cost, requests in costs if requests]
    if not asked:
        assert mixed is None
    else:
        assert mixed is not None
        assert min(asked) * DAYS <= mixed <= max(asked) * DAYS


def _of_cost(cost: int, requests: int) -> Estimate:
    price = Price(input=0, output=0, per_request=cost, source="test")
    history = (
        History(requests=requests, taken=(_taken("up/a", requests),)) if requests else NO_HISTORY
    )
    load = Load(requests_per_day=1, tokens=1)
    found = estimate("m", load, history, {"up/a": price}, ("up/a",))
    assert found.cost_nanousd == cost * DAYS
    return found


def test_the_history_is_what_the_ledger_says(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    try:
        for counter, (request, target, outcome) in enumerate(
            (
                ("r1", "up/a", "upstream_error"),
                ("r1", "up/b", "ok"),
                ("r2", "up/a", "ok"),
                ("r3", "up/a", "client_gone"),
                ("r4", "up/a", "open"),
            ),
            start=1,
        ):
            attempt = an_attempt(books.number(counter), target=target, request_id=request)
            books.do(Reserve(1, attempt))
            if outcome != "open":
                books.do(Settle(1, a_settlement(attempt.attempt, 60, outcome=outcome)))  # type: ignore[arg-type]
        found = histories(books.path)["auto"]
        assert found.requests == 4
        assert {taken.target: taken.attempts for taken in found.taken} == {"up/a": 2, "up/b": 1}
        assert histories(books.path, since=NOON + 86_400) == {}
    finally:
        books.close()
