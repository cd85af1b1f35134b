from __future__ import annotations

import json
from decimal import Decimal

import pytest

from proxy.ledger.protocol import ApplyConfig, BudgetSettings, ConfigBudget
from tests.proxy.admin.desk import Desk

PATH = "/admin/v1/budgets"


def test_life_of_a_budget(desk: Desk) -> None:
    made = desk.post(
        PATH,
        {
            "scope": "global",
            "limit_usd": "0.000000001",
            "window": "quarter",
            "mode": "soft",
            "timezone": "Europe/Berlin",
            "holds": "full",
            "name": "all of it",
        },
    )
    assert desk.get(f"{PATH}/{made['id']}") == made
    assert (made["window"], made["timezone"], made["name"]) == (
        "quarter",
        "Europe/Berlin",
        "all of it",
    )
    changed = desk.patch(f"{PATH}/{made['id']}", {"limit_usd": 2.5, "mode": "hard", "name": ""})
    assert changed == {
        **made,
        "limit_usd": 2.5,
        "remaining_usd": 2.5,
        "mode": "hard",
        "name": "",
    }
    assert desk.delete(f"{PATH}/{made['id']}")["id"] == made["id"]
    assert desk.get(PATH)["data"] == []
    assert desk.refusal("GET", f"{PATH}/{made['id']}")[0] == 404


def test_what_is_spent_is_exact_and_forecast(desk: Desk) -> None:
    key = desk.post("/admin/v1/keys", {"name": "a", "budget_usd": 1, "budget_window": "lifetime"})
    assert _only(desk)["runs_out_at"] is None
    desk.spend(key["id"], 123_456_789)
    reply = desk.ask("GET", PATH).text
    (shown,) = json.loads(reply, parse_float=Decimal)["data"]
    assert shown["spent_usd"] == Decimal("0.123456789")
    assert shown["remaining_usd"] == Decimal("0.876543211")
    assert shown["runs_out_at"] > shown["created_at"]


def test_only_the_budgets_of_a_scope_are_listed(desk: Desk) -> None:
    for scope in ("global", "anonymous", "user:*", "user:ann & tag:x"):
        desk.post(PATH, {"scope": scope, "limit_usd": 1})
    assert _only(desk, "?scope=user:ann%20%26%20tag:x")["scope"] == "user:ann & tag:x"
    assert desk.get(f"{PATH}?scope=user:bob")["data"] == []


@pytest.mark.parametrize(
    "scope",
    ["team:t", "team:t & user:*", "organisation:o", "model:auto", "target:up/m1", "provider:up"],
)
def test_every_kind_of_scope_that_is_there(desk: Desk, scope: str) -> None:
    desk.post("/admin/v1/organisations", {"name": "o", "id": "o"})
    desk.post("/admin/v1/teams", {"name": "t", "id": "t"})
    assert desk.post(PATH, {"scope": scope, "limit_usd": 1})["scope"] == scope


@pytest.mark.parametrize(
    ("scope", "named"),
    [
        ("team:nobody", "team 'nobody'"),
        ("key:nobody", "key 'nobody'"),
        ("organisation:nobody & user:*", "organisation 'nobody'"),
        ("model:up/m1", "model 'up/m1'"),
        ("target:auto", "target 'auto'"),
        ("provider:openai", "provider 'openai'"),
        ("user:", "'user:'"),
        ("template:x", "'template:x'"),
        ("planet:earth", "'planet:earth'"),
        ("", "''"),
    ],
)
def test_a_scope_that_nothing_is_charged_to_is_refused(
    shared_desk: Desk, scope: str, named: str
) -> None:
    status, param, message = shared_desk.refusal("POST", PATH, {"scope": scope, "limit_usd": 1})
    assert (status, param) == (400, "scope")
    assert named in message


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "", {"scope": "global"}, 400, "limit_usd"),
        ("POST", "", {"scope": "global", "limit_usd": "NaN"}, 400, "limit_usd"),
        ("POST", "", {"scope": "global", "limit_usd": 1, "mode": "firm"}, 400, "mode"),
        ("POST", "", {"scope": "global", "limit_usd": 1, "window": "hour"}, 400, "window"),
        ("POST", "", {"scope": "global", "limit_usd": 1, "timezone": "Moon"}, 400, "timezone"),
        ("POST", "", {"scope": "user:* & tag:*", "limit_usd": 1}, 400, "scope"),
        ("PATCH", "/999", {"limit_usd": 1}, 404, None),
        ("PATCH", "/999", {"window": "day"}, 400, "window"),
        ("PATCH", f"/{10**30}", {"limit_usd": 1}, 404, None),
        ("PATCH", "/x", {"limit_usd": 1}, 404, None),
        ("DELETE", "/999", None, 404, None),
        ("GET", "?typo=1", None, 400, "typo"),
        ("GET", "?scope=a&scope=b", None, 400, None),
    ],
)
def test_mistakes_are_explained(
    shared_desk: Desk, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    assert shared_desk.refusal(method, PATH + path, body)[:2] == (status, param)


def test_a_wrong_word_is_answered_with_the_right_ones(shared_desk: Desk) -> None:
    for method, path in (("POST", PATH), ("PATCH", f"{PATH}/1")):
        body = {"mode": "firm"} if method == "PATCH" else {"scope": "global", "mode": "firm"}
        said = shared_desk.refusal(method, path, body)[2]
        assert said == "Invalid enum value 'firm'; there are hard, soft"
    said = shared_desk.refusal("GET", "/global/spend/report?group_by=mood")[2]
    assert said.startswith("Invalid enum value 'mood'; there are ")
    assert "team" in said


def test_what_the_configuration_made_is_not_changed(desk: Desk) -> None:
    settings = BudgetSettings(limit_nanousd=10**9, window="day")
    desk.call(ApplyConfig(0, (ConfigBudget("global", settings),)))
    budget = _only(desk)
    assert budget["managed"] == "config"
    for method, body in (("PATCH", {"limit_usd": 5}), ("DELETE", None)):
        assert desk.refusal(method, f"{PATH}/{budget['id']}", body)[0] == 409
    assert _only(desk) == budget


def _only(desk: Desk, query: str = "") -> dict[str, str]:
    (budget,) = desk.get(PATH + query)["data"]
    return budget  # type: ignore[no-any-return]
