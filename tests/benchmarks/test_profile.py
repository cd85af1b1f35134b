"""Where the time goes: shares of samples, and a real server that is looked at."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import measure, profile
from benchmarks.generator import generator
from benchmarks.measure import Bench
from benchmarks.subjects import upstream


def test_shares_are_of_all_samples() -> None:
    found = profile.folded(
        "json",
        "worker",
        "main (a.py:1);Runner.run (asyncio/runners.py:86);parse (b.py:2) 6\n"
        "Runner.run (asyncio/runners.py:86);parse (b.py:2);scan with spaces (c.py:3) 3\n"
        "walk (d.py:4);walk (d.py:4) 1\n"
        "bootstrap (t.py:1);_worker (concurrent/futures/thread.py:69) 10\n",
    )
    assert found.samples == 10
    assert dict(found.own) == {
        "parse (b.py:2)": 0.6,
        "scan with spaces (c.py:3)": 0.3,
        "walk (d.py:4)": 0.1,
    }
    assert dict(found.total) == {
        "Runner.run (asyncio/runners.py:86)": 0.9,
        "parse (b.py:2)": 0.9,
        "scan with spaces (c.py:3)": 0.3,
        "walk (d.py:4)": 0.1,
    }


def test_no_samples_are_no_shares() -> None:
    found = profile.folded("json", "ledger", "")
    assert (found.samples, dict(found.own), dict(found.total)) == (0, {}, {})


def test_a_profile_is_kept_as_text() -> None:
    row = profile.folded("json", "worker", "run (a.py:1);parse (b.py:2) 1\nrun (a.py:1) 3\n")
    text = profile.as_text(
        {"date": "2026-11-22T00:00:00+00:00", "revision": "abc", "profile": [row.as_json()]}
    )
    assert "json, worker: 4 samples" in text
    assert " 75.0%  run (a.py:1)" in text
    assert " 25.0%  parse (b.py:2)" in text


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with upstream() as provider, generator() as load:
        yield Bench(
            generator=load,
            effort=measure.QUICK,
            folder=tmp_path,
            upstream_port=provider.port,
            progress=lambda _: None,
        )


def test_a_server_is_looked_at_while_it_answers(bench: Bench) -> None:
    py_spy = profile.program()
    if py_spy is None:
        pytest.skip("py-spy is not installed here")
    try:
        found = profile.profile(bench, py_spy, quick=True)
    except profile.CannotLook as error:
        pytest.skip(f"py-spy cannot look at processes here: {error}")
    assert {(row.workload, row.process) for row in found} == {
        (workload, process) for workload in profile.WORKLOADS for process in ("worker", "ledger")
    }
    for row in found:
        if row.process == "worker":
            assert row.samples > 0
            assert any("proxy/" in function for function in row.total)


def test_where_processes_may_not_be_looked_at_it_is_said_why(bench: Bench) -> None:
    program = bench.folder / "py-spy"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('Permission Denied')\n")
    program.chmod(0o755)
    with pytest.raises(profile.CannotLook, match="Permission Denied"):
        profile.profile(bench, program, quick=True)
