"""Upstreams over TLS beside plain ones."""

from pathlib import Path

import pytest

from benchmarks import tls
from benchmarks.generator import generator
from benchmarks.measure import Bench, Effort
from benchmarks.subjects import upstream

BRIEF = Effort(turns=1, event_turns=1, saturated_s=0.2, rate_s=0.2, starts=1, open_streams=1)


@pytest.mark.skipif(not tls.is_possible(), reason="the openssl command is missing")
def test_the_same_is_measured_of_both_and_is_on_record(tmp_path: Path) -> None:
    with upstream() as provider, generator() as load:
        bench = Bench(
            generator=load,
            effort=BRIEF,
            folder=tmp_path,
            upstream_port=provider.port,
            progress=lambda doing: None,
        )
        measured = tls.tls(bench)
    assert "https://localhost:" in (tmp_path / "tls" / "router.yaml").read_text()
    assert "https://" not in (tmp_path / "tls-plain" / "router.yaml").read_text()
    rows = tls.side_by_side(measured)
    assert [what for what, *_ in rows] == [
        "json, saturated",
        "json, 200/s",
        "stream, saturated",
        "stream, 200/s",
        "an event, one by one",
        "an event, all at once",
    ]
    assert all(plain > 0 and secured > 0 for what, unit, plain, secured in rows if unit == "ms")
    assert bench.sent == {}
