"""Large bodies: what the benchmark sends and measures, and that they fit into memory."""

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import large
from benchmarks.generator import generator
from benchmarks.measure import Bench, Effort
from benchmarks.subjects import upstream
from benchmarks.watched import Watched

BRIEF = Effort(turns=2, event_turns=1, saturated_s=0.2, rate_s=0.2, starts=1, open_streams=1)


@pytest.mark.parametrize("text", ["What?", "\N{FRAME WITH PICTURE}"])
def test_a_body_is_as_large_as_it_says_and_mostly_images(text: str) -> None:
    raw = large.body(text, size=100_000)
    assert len(raw) == pytest.approx(100_000, rel=0.02)
    said, *images = json.loads(raw)["messages"][0]["content"]
    assert said["text"] == text
    assert sum(len(image["image_url"]["url"]) for image in images) > 0.98 * len(raw)
    assert raw.isascii() is text.isascii()


def test_the_longest_turn_of_a_loop_is_kept(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "longest")

    async def run() -> int:
        watched.watch(asyncio.get_running_loop())
        await asyncio.sleep(0)
        began = time.thread_time_ns()
        while time.thread_time_ns() - began < 50_000_000:
            pass
        for _ in range(3):
            await asyncio.sleep(0)
        return watched.cpu_ns

    assert asyncio.run(run()) >= 50_000_000
    assert watched.time_ns >= watched.cpu_ns
    # Whoever opens the same file sees the same, and both forget.
    other = Watched(tmp_path / "longest")
    assert other.cpu_ns == watched.cpu_ns
    other.forget()
    assert watched.cpu_ns == watched.time_ns == 0


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_several_large_bodies_have_room(tmp_path: Path) -> None:
    with upstream() as provider, generator() as load:
        bench = Bench(
            generator=load,
            effort=BRIEF,
            folder=tmp_path,
            upstream_port=provider.port,
            progress=lambda doing: None,
        )
        row = large.measured(bench, tmp_path / "server", "beyond ASCII", 4).as_json()
    assert row["peak_bodies"] < 3
    assert 0 < row["turn_cpu_ms"] <= row["turn_ms"] * 1.1
    assert bench.sent == {}
