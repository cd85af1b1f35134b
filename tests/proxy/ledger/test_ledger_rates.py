from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import rates
from proxy.ledger.protocol import Limits, Rate, RateRefusal
from proxy.ledger.rates import Counted, Meter, RateBook
from tests.proxy.ledger.making import NOON


def meters(**limits: int) -> list[Meter]:
    return [Meter("key:k", Limits(**limits))]


def admit(of: list[Meter], now: float, tokens: int = 0, number: int = 1) -> Counted | RateRefusal:
    refused = rates.refusal(of, now, tokens, number)
    return refused or rates.count(of, now, tokens, number, is_open=True)


@given(
    limit=st.integers(0, 5),
    steps_ms=st.lists(st.integers(0, 20_000) | st.sampled_from([0, 99, 100, 60_000, 60_100])),
)
def test_any_sixty_seconds_admit_the_limit_and_no_more(limit: int, steps_ms: list[int]) -> None:
    """A refusal is right, too: to a tenth of a second, and with a wait that is true."""
    minute, now_ms = meters(requests_per_minute=limit), NOON * 1000
    admitted: list[int] = []
    for step_ms in steps_ms:
        now_ms += step_ms
        answer = admit(minute, now_ms / 1000)
        exact = [at for at in admitted if at > now_ms - 60_000]
        if isinstance(answer, Counted):
            assert len(exact) < limit
            admitted.append(now_ms)
            continue
        recent = [at for at in admitted if at > now_ms - 60_101]
        assert len(recent) >= limit
        if limit:
            assert answer.retry_ms > 0
            then = (now_ms + answer.retry_ms) / 1000
            assert rates.refusal(minute, then, 0, 1) is None
            # Asking about later must not have changed what is counted now.
            minute = meters(requests_per_minute=limit)
            for at in admitted:
                rates.count(minute, at / 1000, 0, 1, is_open=True)


@given(
    limit=st.integers(0, 100),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0, 0.05, 1, 30, 59.9, 60.2, -0.1, -45, -100]),
            st.integers(0, 120),
            st.integers(0, 150),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_tokens_count_as_held_until_they_are_settled_whatever_the_clock_does(
    limit: int, steps: list[tuple[float, int, int, bool]]
) -> None:
    minute = meters(tokens_per_minute=limit)
    now, passed = float(NOON), 0.0  # `passed` is what has really gone by, at least
    counted: list[tuple[float, float, list[int], Counted]] = []
    for step, tokens, used, settles in steps:
        now, passed = now + step, passed + max(0.0, step)
        answer = admit(minute, now, tokens)
        must = sum(amount[0] for _, at, amount, _ in counted if at > passed - 60)
        may = sum(amount[0] for began, _, amount, _ in counted if began >= now - 60.11)
        if isinstance(answer, RateRefusal):
            assert may + tokens > limit
            assert (answer.retry_ms == 0) == (tokens > limit)
        else:
            assert must + tokens <= limit
            counted.append((now, passed, [tokens], answer))
        if settles and counted:
            _, _, amount, place = counted[used % len(counted)]
            # Settled once; what is changed is what still counts.
            if amount[-1] >= 0:
                place.settle(used)
                amount[0], amount[1:] = used, [-1]


def test_a_settlement_after_the_clock_went_back_changes_its_own_entry() -> None:
    minute = meters(tokens_per_minute=100)
    first = admit(minute, NOON, 50)
    assert isinstance(first, Counted)
    assert isinstance(admit(minute, NOON - 1, 0), Counted)
    second = admit(minute, NOON, 40)
    assert isinstance(second, Counted)
    first.settle(0)
    assert minute[0].tokens.total == 40
    minute[0].tokens.expire(NOON + 59.95)
    assert minute[0].tokens.total == 40
    second.settle(0)
    assert minute[0].tokens.total == 0


def test_concurrency_is_what_is_open() -> None:
    of = meters(concurrent=2)
    first = admit(of, NOON)
    admit(of, NOON)
    assert admit(of, NOON) == RateRefusal("key:k", "concurrent", 2, 1_000)
    assert isinstance(first, Counted)
    first.settle(0)
    assert isinstance(admit(of, NOON), Counted)


def test_a_request_larger_than_the_limit_is_told_not_to_wait() -> None:
    assert admit(meters(tokens_per_minute=10), NOON, 11) == RateRefusal("key:k", "tokens", 10, 0)


def test_of_several_limits_the_one_that_is_in_the_way_for_longest_is_told() -> None:
    book = RateBook()
    book.set("key:k", Limits(requests_per_minute=1, concurrent=1))
    book.set("team:t", Limits(tokens_per_minute=100))
    book.set("target:a/b", Limits(tokens_per_minute=5))
    team, both = book.meters_of(["team:t"]), book.meters_of(["key:k", "team:t", "target:a/b"])
    assert isinstance(admit(both, NOON, 1), Counted)
    assert isinstance(admit(team, NOON + 30, 98), Counted)
    assert admit(both, NOON + 30, 3) == RateRefusal("team:t", "tokens", 100, 60_100)
    assert admit(both, NOON + 30, 1) == RateRefusal("key:k", "requests", 1, 30_100)
    hopeless = admit(both, NOON + 30, 101)
    assert hopeless == RateRefusal("team:t", "tokens", 100, 0)


def test_a_limit_of_zero_is_not_waited_for() -> None:
    for kind, limits in (
        ("requests", Limits(requests_per_minute=0)),
        ("tokens", Limits(tokens_per_minute=0)),
        ("concurrent", Limits(concurrent=0)),
    ):
        meter = Meter("key:k", limits)
        assert admit([meter], NOON, 1) == RateRefusal("key:k", kind, 0, 0)  # type: ignore[arg-type]


def test_only_targets_limit_fallbacks_and_all_count_their_tokens() -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100)
    of = [Meter("key:k", limits), Meter("target:a/b", limits), Meter("provider:a", limits)]
    assert isinstance(admit(of[:1], NOON, 10, number=2), Counted)
    assert (of[0].requests.total, of[0].tokens.total) == (0, 10)
    for meter in of[1:]:
        assert isinstance(admit([meter], NOON, 10, number=2), Counted)
        assert isinstance(admit([meter], NOON, 10, number=2), RateRefusal)


def test_a_caller_sees_the_tightest_limit_but_no_targets() -> None:
    of = [
        Meter("key:k", Limits(requests_per_minute=10, tokens_per_minute=1_000)),
        Meter("team:t", Limits(requests_per_minute=5)),
        Meter("target:a/b", Limits(requests_per_minute=1)),
    ]
    rates.count(of, NOON, 300, 1, is_open=True)
    requests, tokens = rates.tightest(of, NOON + 10)
    assert requests == Rate(5, 4, 50_100)
    assert tokens == Rate(1_000, 700, 50_100)
    assert rates.tightest(of[2:], NOON) == (None, None)
    assert rates.tightest(of, NOON + 60.1) == (Rate(5, 5, 0), Rate(1_000, 1_000, 0))


def test_a_changed_limit_keeps_what_was_counted() -> None:
    book = RateBook()
    assert not book
    book.set("key:k", Limits(requests_per_minute=5))
    rates.count(book.meters_of(["key:k"]), NOON, 0, 1, is_open=True)
    book.set("key:k", Limits(requests_per_minute=1))
    (meter,) = book.meters_of(["team:t", "key:k"])
    assert rates.refusal([meter], NOON, 0, 1) == RateRefusal("key:k", "requests", 1, 60_100)
    book.replace({"key:k": meter.limits}, {"target:a/b": Limits(concurrent=1)})
    assert [meter.scope for meter in book.meters_of(["key:k", "target:a/b"])] == ["target:a/b"]


@pytest.mark.parametrize("seconds", [59.9, 60.0])
def test_nothing_leaves_before_its_minute_is_over(seconds: float) -> None:
    of = meters(requests_per_minute=1)
    admit(of, NOON + 0.05)
    assert isinstance(admit(of, NOON + 0.05 + seconds - 0.001), RateRefusal)
