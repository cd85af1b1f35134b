"""What a caller is told when a request is not dispatched."""

from __future__ import annotations

from typing import cast

import pytest

from proxy.clock import SystemClock
from proxy.ledger.protocol import RateRefusal, Refused
from proxy.refusals import refused_money
from proxy.targets import Target


@pytest.mark.parametrize(
    ("wait_ms", "seconds", "milliseconds"),
    [(1, "1", "1"), (1_000, "1", "1000"), (59_999, "60", "59999"), (60_062, "61", "60000")],
)
def test_no_wait_for_a_rate_is_longer_than_what_sdks_heed(
    wait_ms: int, seconds: str, milliseconds: str
) -> None:
    refused = Refused(1, "rate", None, 0, rate=RateRefusal("key:k", "requests", 3, wait_ms))
    error = refused_money(refused, cast(Target, None), unbounded=None, clock=SystemClock())
    assert error.headers == {"retry-after": seconds, "retry-after-ms": milliseconds}
    assert f"limit of 3 requests a minute; try again in {seconds} s" in str(error)
