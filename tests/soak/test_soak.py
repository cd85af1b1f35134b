"""Load for as long as `TOLLWAY_SOAK_S` says (`make soak`: two hours), looked at again and again.

The load pauses for each look. Then nothing is in flight: no hold may be open, the books must
balance, and no process may have more files open than at the first look. Memory may grow by less
than a megabyte an hour; that is held against a run of an hour or more, and only told of others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from proxy.ledger.audit import audit
from tests.e2e.invoicing import Provider
from tests.e2e.test_crash import LIMITS, Load, closed_port, configured, make_key, unsettled
from tests.e2e.tollway import Tollway, serving
from tests.waiting import until

SOAK_S = float(os.environ.get("TOLLWAY_SOAK_S", "12"))
LOOKS = max(3, min(120, round(SOAK_S / 60)))
LONG_S = 3_600
MOST_GROWTH_MB_PER_H = 1.0
# Connections to providers that are kept for a while come and go.
MORE_FILES = 64


@dataclass(frozen=True, kw_only=True)
class Look:
    """What all processes of a server have, with nothing in flight."""

    at_s: float
    rss_bytes: int
    files: int

    @classmethod
    def at(cls, tollway: Tollway) -> Look:
        processes = [psutil.Process(tollway.pid), *tollway.children()]
        return cls(
            at_s=time.monotonic(),
            rss_bytes=sum(each.memory_info().rss for each in processes),
            files=sum(each.num_fds() for each in processes),
        )


def growth_mb_per_h(looks: Sequence[Look]) -> float:
    """The slope of a line through the looks, by least squares."""
    at_s = sum(look.at_s for look in looks) / len(looks)
    rss = sum(look.rss_bytes for look in looks) / len(looks)
    spread = sum((look.at_s - at_s) ** 2 for look in looks)
    slope = sum((look.at_s - at_s) * (look.rss_bytes - rss) for look in looks) / spread
    return slope * 3_600 / (1 << 20)


def test_growth_is_the_slope_of_a_line() -> None:
    looks = [Look(at_s=t, rss_bytes=(100 << 20) + t * 1_024, files=1) for t in range(0, 60, 7)]
    assert round(growth_mb_per_h(looks), 6) == 3_600 * 1_024 / (1 << 20)


def test_nothing_grows_under_load(tmp_path: Path) -> None:
    looks: list[Look] = []
    with (
        Provider() as provider,
        closed_port() as dead_port,
        serving(tmp_path, configured(provider, dead_port)) as tollway,
    ):
        load = Load(tollway.url, {name: make_key(tollway, name) for name in LIMITS})
        began_at = time.monotonic()
        for _ in range(LOOKS):
            load.is_over = False
            asyncio.run(load.run(lambda: time.sleep(SOAK_S / LOOKS)))
            until(lambda: not unsettled(tollway))
            assert audit(tollway.data / "ledger.db") == []
            looks.append(Look.at(tollway))
            print(f"{time.monotonic() - began_at:.0f} s: {looks[-1]}", flush=True)
        took_s = time.monotonic() - began_at
        rows = tollway.query("SELECT count(*) AS n FROM attempts")[0]["n"]
    later = looks[len(looks) // 3 :]  # what a server begins with is there by then
    slope = growth_mb_per_h(later)
    print(  # shown by `pytest -rP`
        f"{took_s:.0f} s, {rows:,} attempts, {len(looks)} looks: RSS "
        f"{looks[0].rss_bytes >> 20} to {looks[-1].rss_bytes >> 20} MB ({slope:+.1f} MB/h), "
        f"files {looks[0].files} to {looks[-1].files}, clients were told {dict(load.told)}"
    )
    assert looks[-1].files <= looks[0].files + MORE_FILES
    assert took_s < LONG_S or slope < MOST_GROWTH_MB_PER_H
