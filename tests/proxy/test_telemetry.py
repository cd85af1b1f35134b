from __future__ import annotations

import pytest

from proxy.telemetry import Metrics


@pytest.mark.negative(number=34)
def test_the_number_of_targets_that_are_counted_is_bounded() -> None:
    metrics = Metrics(most_targets=2)
    for name in ("a/one", "a/two"):
        assert metrics.target(name) is metrics.target(name)
    assert metrics.target("a/three") is metrics.target("a/four")
    assert metrics.target("b/one") is not metrics.target("a/three")
    assert metrics.target("a/one") is not metrics.target("a/three")
