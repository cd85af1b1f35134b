"""The wall clock of all processes jumps while they serve: windows move, and nothing is lost."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import provider, serving
from tests.e2e.upstream import Upstream

COST_NANOUSD = 11 * 1_000 + 7 * 2_000
DAY_S = 86_400
JUMPS_S = (35 * DAY_S, -35 * DAY_S, -3_600, 400 * DAY_S, 0)


def faking(shift: Path) -> dict[str, str]:
    """An environment in which processes see the time shifted by what a file says."""
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        pytest.skip("libfaketime is not installed")
    library = Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
    environ = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(shift),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    shift.write_text(f"+{DAY_S}")
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **environ},
        capture_output=True,
        check=True,
    )
    if float(told.stdout) - time.time() < DAY_S / 2:
        pytest.skip("libfaketime has no library for this system")
    return environ


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def test_a_clock_that_jumps_loses_nothing_and_lets_nobody_overspend(
    upstream: Upstream, tmp_path: Path
) -> None:
    shift = tmp_path / "shift"
    environ = faking(shift)
    shift.write_text("+0")
    config = provider(upstream.base_url, "m1")
    config["budgets"] = [
        {"scope": "global", "window": "lifetime", "limit_usd": 1},
        {"scope": "anonymous", "window": "day", "limit_usd": 1},
        {"scope": "user:*", "window": "5h", "limit_usd": 1},
    ]
    with serving(tmp_path, config, **environ) as tollway:
        seen = []
        for jump_s in (0, *JUMPS_S):
            shift.write_text(f"{jump_s:+d}")
            for _ in range(5):
                assert tollway.chat("up/m1", user="somebody", max_tokens=9).status_code == 200
            row = max(tollway.rows(5 * (len(seen) + 1)), key=lambda row: row["attempt"])
            seen.append(round((row["started_at"] - time.time() - jump_s) / 600))
            assert audit(tollway.data / "ledger.db") == []
        assert seen == [0] * len(seen)  # the clock did jump
        spent = {b["scope"]: b["spent_usd"] for b in tollway.admin("GET", "/budgets")["data"]}
        assert round(spent["global"] * 1e9) == 5 * len(seen) * COST_NANOUSD
        assert "Traceback" not in tollway.log()
