"""The tables of sizes, large bodies and TLS: a line for each, none of what was not measured."""

from benchmarks import publish
from benchmarks.large import Large
from benchmarks.scaling import Scaled
from benchmarks.tls import OVER_TLS, PLAIN


def test_what_was_not_measured_has_no_table() -> None:
    assert [*publish._scaling(()), *publish._large(()), *publish._tls(None)] == []


def test_sizes_are_told_beside_the_smallest() -> None:
    by_process = {"worker": [0.3], "ledger": [0.1]}
    small = Scaled(start_s=0.5, cpu_ms=[0.4], cpu_ms_by_process=by_process)
    large = Scaled(start_s=0.75, cpu_ms=[0.5], cpu_ms_by_process=by_process)
    rows = [
        {"direction": "keys", "size": size, **scaled.as_json(small)}
        for size, scaled in (("10", small), ("1,000", large))
    ]
    (table,) = publish._scaling(rows)
    assert table.splitlines()[-2:] == [
        "| keys | 10 | 0.40 | 1.00 | 0.300 | 0.100 | 0.50 |",
        "| keys | 1,000 | 0.50 | 1.25 | 0.300 | 0.100 | 0.75 |",
    ]


def test_the_memory_of_large_bodies_is_told_in_bodies() -> None:
    row = Large(text="ASCII", at_once=2, body_bytes=1024_000)
    row.peak_kib, row.turn_cpu_ms, row.turn_ms = [4000, 5000], [3.0, 4.0, 9.0], [5.0, 6.0, 7.0]
    (table,) = publish._large([row.as_json()])
    assert table.splitlines()[-1] == "| ASCII, 2 at once | 2.5 | 4.0 | 6.0 |"


def test_tls_stands_beside_plain_whichever_came_first() -> None:
    tls = {
        "loads": [
            {"workload": "json", "load": "saturated", "subject": OVER_TLS, "cpu_ms": 0.3},
            {"workload": "json", "load": "saturated", "subject": PLAIN, "cpu_ms": 0.2},
        ],
        "events": [
            {"arriving": "all at once", "subject": PLAIN, "cpu_us": 2.0},
            {"arriving": "all at once", "subject": OVER_TLS, "cpu_us": 2.5},
        ],
    }
    (table,) = publish._tls(tls)
    assert table.splitlines()[-2:] == [
        "| json, saturated | 0.20 ms | 0.30 ms |",
        "| an event, all at once | 2.00 µs | 2.50 µs |",
    ]
