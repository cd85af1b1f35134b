"""The servers of the scaling benchmark: as large as they say, and with every request on record."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import scaling
from benchmarks.generator import generator
from benchmarks.measure import Bench, Effort
from benchmarks.scaling import SMALLEST, Scaled, Size
from benchmarks.subjects import upstream

BRIEF = Effort(turns=1, event_turns=1, saturated_s=0.2, rate_s=0.2, starts=1, open_streams=1)


def test_servers_of_each_size_are_measured_and_have_their_rows(tmp_path: Path) -> None:
    large = Size(workers=2, keys=40, targets=7, others=5, rows=1_000)
    with upstream() as provider, generator() as load:
        bench = Bench(
            generator=load,
            effort=BRIEF,
            folder=tmp_path,
            upstream_port=provider.port,
            progress=lambda doing: None,
        )
        rows = scaling.scaling(bench, {"all": {"small": SMALLEST, "large": large}})
    assert [row["size"] for row in rows] == ["small", "large"]
    for row in rows:
        assert row["direction"] == "all"
        assert row["cpu_ms_by_process"].keys() == {"supervisor", "ledger", "worker"}
        assert sum(row["cpu_ms_by_process"].values()) == pytest.approx(row["cpu_ms"], abs=0.001)
        assert row["start_s"] > 0
    assert rows[0]["times"] == 1
    assert bench.sent == {}


def test_times_are_those_of_the_smallest() -> None:
    smallest, larger = Scaled(start_s=0.5, cpu_ms=[1.0, 2.0, 9.0]), Scaled(start_s=0.5)
    larger.cpu_ms += [3.0, 3.0, 4.0]
    assert larger.as_json(smallest)["times"] == 1.5
    assert larger.as_json(larger)["times"] == 1


def test_every_direction_begins_with_its_smallest_server() -> None:
    found = scaling.directions(rows=123)
    for sizes in found.values():
        first, *rest = sizes.values()
        assert first not in rest
        grown = {"workers", "keys", "targets", "others", "rows"}  # connections go with workers
        assert all(
            sum(getattr(size, name) != getattr(first, name) for name in grown) == 1 for size in rest
        )
    assert "123" in found["attempts on record"]


def test_a_full_disk_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(RuntimeError, match="choose another with --folder"):
        scaling._check_room(tmp_path, 10)
