from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import base
from proxy.measured import UNKNOWN, Measurements


def test_speed_is_that_of_the_stream_after_its_first_payload() -> None:
    seen = Measurements()
    seen.answered("a/m", now=5.0, output_tokens=101, first_token_s=1.0, s=3.0)
    found = seen.of("a/m")
    assert (found.tokens_per_second, found.first_token_s, found.answered_at) == (50.0, 1.0, 5.0)
    # A whole answer, and a short one, say nothing of the speed.
    seen.answered("a/m", now=6.0, output_tokens=1000, first_token_s=None, s=1.0)
    seen.answered("a/m", now=7.0, output_tokens=1, first_token_s=1.0, s=1.0)
    assert seen.of("a/m").tokens_per_second == 50.0
    assert seen.of("b/m") == UNKNOWN


@given(st.lists(st.tuples(st.integers(4, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))))
def test_a_mean_never_leaves_what_was_seen(attempts: list[tuple[int, float, float]]) -> None:
    seen, speeds, firsts = Measurements(), [], []
    for tokens, first_s, rest_s in attempts:
        seen.answered("m", now=0, output_tokens=tokens, first_token_s=first_s, s=first_s + rest_s)
        speeds.append((tokens - 1) / ((first_s + rest_s) - first_s))
        firsts.append(first_s)
        found = seen.of("m")
        assert found.tokens_per_second is not None
        assert found.first_token_s is not None
        assert min(speeds) * 0.999 <= found.tokens_per_second <= max(speeds) * 1.001
        assert min(firsts) * 0.999 <= found.first_token_s <= max(firsts) * 1.001


def test_failures_count_until_something_is_answered() -> None:
    seen = Measurements()
    for _ in range(3):
        seen.failed("m", base.ConnectFailed("refused"), now=9.0)
    assert (seen.of("m").failures, seen.of("m").problem) == (3, "refused")
    seen.answered("m", now=10.0, output_tokens=0, first_token_s=None, s=1.0)
    assert (seen.of("m").failures, seen.of("m").problem, seen.of("m").failed_at) == (0, "", 9.0)


@pytest.mark.parametrize(
    "error",
    [
        base.BadRequest("x", status=400),
        base.ContextExceeded("x", status=400),
        base.Unsupported("x", param="n"),
        base.NotLoaded("x"),
        base.RateLimited("x", status=429),
    ],
)
def test_what_is_no_fault_of_the_target_is_not_held_against_it(error: base.AdapterError) -> None:
    seen = Measurements()
    seen.failed("m", error, now=1.0)
    assert seen.of("m") == UNKNOWN


def test_only_so_many_targets_are_remembered() -> None:
    seen = Measurements()
    for number in range(3000):
        seen.failed(f"m{number}", base.ConnectFailed("refused"), now=1.0)
    assert seen.of("m0") == UNKNOWN
    assert seen.of("m2999").failures == 1
