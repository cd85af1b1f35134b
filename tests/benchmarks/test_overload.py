from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.crowd import Report
from benchmarks.measure import QUICK, Bench
from benchmarks.overload import CASES, Case, Overload, Room, overload
from benchmarks.subjects import upstream


def a_report(answered: int, late: int = 0, refused: int = 0, **others: int) -> Report:
    return Report(
        answered=answered,
        answered_ms=[float(i) for i in range(answered + late)],
        refused_ms=[1.0] * refused,
        others=others,
        connections=1,
    )


def test_goodput_is_what_is_answered_in_time_beside_the_peak() -> None:
    row = Overload(case=CASES[0])
    row.add(a_report(100), 200_000_000, a_report(80, late=10, refused=50), 230_000_000, 2.0)
    shown = row.as_json()
    assert (shown["peak_per_s"], shown["answered_per_s"]) == (50, 40)
    assert (shown["goodput"], shown["refused_per_s"]) == (0.8, 25)
    # 90 answers at 2 ms, and 50 refusals for the 50 ms that are left.
    assert (shown["answer_cpu_ms"], shown["refusal_cpu_us"]) == (2, 1000)
    assert shown["answered_ms"] == {"p50": 45, "p99": 89}


def test_turns_are_summed_up_by_their_median_and_what_went_wrong_is_counted() -> None:
    row = Overload(case=CASES[0])
    for answered in (10, 90, 50):
        row.add(a_report(100), 1, a_report(answered, lost=2), 1, 1.0)
    shown = row.as_json()
    assert (shown["goodput"], shown["refused_ms"], shown["others"]) == (0.5, {}, {"lost": 6})


@pytest.mark.resilience(row="overload")
@pytest.mark.parametrize(
    ("comes_back", "keeps_connections"), [("", True), ("at once", False), ("when told", True)]
)
def test_who_is_turned_away_is_counted_and_who_is_answered_is_recorded(
    tmp_path: Path, comes_back: str, keeps_connections: bool
) -> None:
    case = Case(
        model="slow" if keeps_connections else "slow-100k",
        room=Room(most=2, queue=1),
        comes_back=comes_back,
        keeps_connections=keeps_connections,
    )
    with upstream() as direct:
        bench = Bench(
            generator=None,  # type: ignore[arg-type] # the crowd is another one
            effort=QUICK,
            folder=tmp_path,
            upstream_port=direct.port,
            progress=lambda doing: None,
        )
        # It fails where the ledger has not what was answered, once.
        (row,) = overload(bench, quick=True, cases=[case])
    assert row.answered_ms
    assert row.refused_ms
    # Never more at the same time than there is room for: of 50 ms each.
    assert max(row.peak_per_s + row.answered_per_s) <= 2 / 0.05
    assert not row.others
    shown = io.StringIO()
    rows = {"overload": [row.as_json()], "machine": {"filesystem": "a disk"}, "others_cpu_share": 0}
    disk = {"fdatasync_p50_us": 1, "fdatasync_p99_us": 1}
    report.show({**rows, "disk": disk}, Console(file=shown, width=250))
    assert f"{row.goodput[0]:.0%}" in shown.getvalue()
