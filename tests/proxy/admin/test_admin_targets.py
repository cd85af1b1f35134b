"""How targets do, over the admin API."""

from __future__ import annotations

from proxy.ledger.protocol import Outcome
from proxy.pricing import Usage
from tests.proxy.admin.desk import Desk


def test_targets_are_shown_with_their_circuits_and_figures(desk: Desk) -> None:
    shown = desk.get("/admin/v1/targets")
    assert shown["worker"] == 0
    assert [each["name"] for each in shown["data"]] == ["up/m1", "up/m2"]
    assert shown["data"][0] == {
        "name": "up/m1",
        "state": "in",
        "back_in_s": 0.0,
        "times_out": 0,
        "problem": "",
        "in_flight": 0,
        "limit": None,
        "attempts": 0,
        "failures": 0,
        "error_rate": 0.0,
        "p50_ms": None,
        "p95_ms": None,
        "usual_p50_ms": None,
        "usual_p95_ms": None,
        "answered_at": None,
        "failed_at": None,
    }
    target = desk.target("up/m1")
    attempts: list[tuple[Outcome, int]] = [("ok", 200), ("ok", 200), ("upstream_error", 503)]
    for outcome, status in attempts:
        desk.figures.began(target)
        desk.figures.ended(
            target,
            outcome=outcome,
            status=status,
            usage=Usage(input_tokens=1, output_tokens=1),
            first_token_s=0.1,
            total_s=0.2,
        )
    desk.figures.began(target)
    for _ in range(5):
        desk.circuits.begin("up/m1").end("failed", "it broke")
    first, second = desk.get("/admin/v1/targets")["data"]
    assert (first["state"], first["times_out"]) == ("out", 1)
    assert 0 < first["back_in_s"] <= 30
    assert first["problem"] == "5 of 5 requests failed, the last: it broke"
    assert (first["attempts"], first["failures"], first["in_flight"]) == (3, 1, 1)
    assert first["error_rate"] == 0.3333
    assert 95 <= first["p50_ms"] <= first["p95_ms"] <= 105
    assert first["answered_at"] <= first["failed_at"]
    assert second["state"] == "in"
