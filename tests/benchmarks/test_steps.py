"""What every request costs grows only where somebody wrote down that it may."""

import sys
from pathlib import Path

import pytest

from benchmarks.steps import steps

# Per request, in the steps of Python 3.11. A change that needs more of them says so here; one that
# needs fewer brings them down, so that they stay won.
STEPS = {"json": 8_420, "stream-20": 12_500, "embeddings": 8_550}
# What a stream takes depends a little on how its bytes arrive.
TOLERANCE = 0.03


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the steps are those of Python 3.11")
def test_a_request_takes_no_more_steps_than_it_did(tmp_path: Path) -> None:
    taken = steps(tmp_path / "server", [*STEPS])
    allowed = {name: count * (1 + TOLERANCE) for name, count in STEPS.items()}
    grown = {name: count for name, count in taken.items() if count > allowed[name]}
    assert not grown, f"steps per request were {STEPS}"
