from __future__ import annotations

import pytest

from tests.proxy.admin.desk import Desk


def test_a_correction_moves_the_balance_and_is_seen_in_the_reports(desk: Desk) -> None:
    key = desk.post("/admin/v1/keys", {"name": "a", "budget_usd": 2})["id"]
    attempt = desk.spend(key, 10**9)
    corrected = desk.post(
        "/admin/v1/corrections", {"attempt": attempt, "cost_usd": "0.25", "reason": "invoice"}
    )
    assert corrected == {"attempt": attempt, "cost_usd": 0.25}
    (budget,) = desk.get("/admin/v1/budgets")["data"]
    assert budget["spent_usd"] == 0.25
    (row,) = desk.get("/admin/v1/spend?group_by=key&since=1d")["data"]
    assert (row["key"], row["cost_usd"], row["attempts"]) == (key, 0.25, 1)
    assert desk.get(f"/admin/v1/spend?key={key}")["data"]
    assert desk.get("/admin/v1/spend?key=k_other")["data"] == []
    (shown,) = desk.get("/admin/v1/attempts?limit=5")["data"]
    assert (shown["attempt"], shown["cost_usd"], shown["key_id"]) == (attempt, 0.25, key)


def test_what_went_over_its_hold_is_an_alert(desk: Desk) -> None:
    key = desk.post("/admin/v1/keys", {"name": "a"})["id"]
    desk.spend(key, 300, hold=100)
    (alert,) = desk.get("/admin/v1/alerts")["data"]
    assert (alert["kind"], alert["delivered_at"]) == ("overrun", None)
    assert alert["text"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "spend?group_by=nothing", None, 400, "group_by"),
        ("GET", "spend?since=soon", None, 400, "since"),
        ("GET", "spend?timezone=Moon", None, 400, "timezone"),
        ("GET", "spend?typo=1", None, 400, "typo"),
        ("GET", "attempts?limit=0", None, 400, "limit"),
        ("GET", "attempts?limit=many", None, 400, "limit"),
        ("POST", "corrections", {"attempt": 7, "cost_usd": 1}, 400, "reason"),
        ("POST", "corrections", {"attempt": 7, "cost_usd": 1, "reason": "x"}, 404, None),
        ("POST", "corrections", {"attempt": 7, "cost_usd": -1, "reason": "x"}, 400, "cost_usd"),
    ],
)
def test_mistakes_are_explained(
    shared_desk: Desk, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    assert shared_desk.refusal(method, f"/admin/v1/{path}", body)[:2] == (status, param)
