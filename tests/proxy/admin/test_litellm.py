from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy import auth
from proxy.ledger.protocol import ApplyConfig, BudgetSettings, ConfigBudget
from tests.proxy.admin.desk import SECRET, Desk


def _settings(desk: Desk, key_id: str) -> Any:
    (record,) = [record for record in desk.books.all_keys() if record.key_id == key_id]
    return record.settings


def _budgets(desk: Desk, scope: str) -> list[tuple[str, float, str, str]]:
    data = desk.get("/admin/v1/budgets?scope=" + scope)["data"]
    return [(b["name"], b["limit_usd"], b["window"], b["mode"]) for b in data]


# --- keys ------------------------------------------------------------------------------


def test_a_key_is_generated_with_litellms_fields(desk: Desk) -> None:
    desk.post("/team/new", {"team_id": "t", "team_alias": "search"})
    made = desk.post(
        "/key/generate",
        {
            "key_alias": "alice",
            "duration": "30d",
            "models": ["auto"],
            "team_id": "t",
            "max_budget": 25.5,
            "soft_budget": 20,
            "budget_duration": "30d",
            "tpm_limit": 10_000,
            "rpm_limit": 60,
            "max_parallel_requests": 4,
            "allowed_routes": ["/chat/completions"],
            "metadata": {"a": 1},
            "tags": ["x"],
            # What its clients send without meaning anything by it:
            "aliases": {},
            "config": {},
            "spend": 0,
            "permissions": {},
            "model_max_budget": {},
            "user_id": None,
            "send_invite_email": False,
            "guardrails": None,
        },
    )
    settings = _settings(desk, made["token_id"])
    assert (settings.name, settings.models, settings.team_id) == ("alice", ("auto",), "t")
    assert (settings.endpoints, settings.tags, settings.metadata) == (("chat",), ("x",), {"a": 1})
    limits = settings.limits
    assert (limits.tokens_per_minute, limits.requests_per_minute, limits.concurrent) == (
        10_000,
        60,
        4,
    )
    lived = settings.expires_at - datetime.now(UTC).timestamp()
    assert 30 * 86_400 - 60 < lived <= 30 * 86_400
    assert _budgets(desk, f"key:{made['token_id']}") == [
        ("max_budget", 25.5, "month", "hard"),
        ("soft_budget", 20.0, "month", "soft"),
    ]
    assert auth.digest(made["key"], SECRET) in desk.ledger.keys
    info = desk.get(f"/key/info?key={made['key']}")
    assert info["key"] == made["key"]
    assert {**info["info"], "key": made["key"], "token_id": made["token"]} == made
    shown = info["info"]
    assert (shown["max_budget"], shown["soft_budget"], shown["budget_duration"]) == (
        25.5,
        20.0,
        "30d",
    )
    assert shown["allowed_routes"] == ["/chat/completions", "/v1/chat/completions"]


def test_nothing_asked_is_a_key_without_limits(desk: Desk) -> None:
    made = desk.post("/key/generate", {})
    assert _budgets(desk, f"key:{made['token']}") == []
    assert (made["max_budget"], made["expires"], made["models"]) == (None, None, [])


def test_a_key_of_ones_own_goes_on_working(desk: Desk) -> None:
    own = "sk-1234567890-in-use-for-years"
    assert desk.post("/key/generate", {"key": own})["key"] == own
    assert auth.digest(own, SECRET) in desk.ledger.keys
    assert desk.refusal("POST", "/key/generate", {"key": own})[0] == 409
    assert desk.refusal("POST", "/key/generate", {"key": "sk-short"})[:2] == (400, "key")


def test_spend_is_that_of_the_budgets_window_or_all(desk: Desk) -> None:
    bounded = desk.post("/key/generate", {"max_budget": 1, "budget_duration": "1d"})["token"]
    free = desk.post("/key/generate", {})["token"]
    for key in (bounded, free):
        desk.spend(key, 250_000_000)
    assert desk.get(f"/key/info?key={bounded}")["info"]["spend"] == 0.25
    assert desk.get(f"/key/info?key={free}")["info"]["spend"] == 0.25
    page = desk.get("/key/list?return_full_object=true")
    assert [key["spend"] for key in page["keys"]] == [0.25, 0.25]


def test_an_update_changes_what_it_names_and_null_takes_away(desk: Desk) -> None:
    made = desk.post(
        "/key/generate",
        {
            "key_alias": "a",
            "max_budget": 1,
            "budget_duration": "1d",
            "rpm_limit": 5,
            "tpm_limit": 7,
        },
    )
    scope = f"key:{made['token']}"
    desk.spend(made["token"], 100_000_000)
    changed = desk.post("/key/update", {"key": made["key"], "max_budget": 3, "rpm_limit": None})
    assert (changed["max_budget"], changed["rpm_limit"], changed["tpm_limit"]) == (3.0, None, 7)
    assert changed["spend"] == 0.1  # the budget is the same, with another limit
    assert _budgets(desk, scope) == [("max_budget", 3.0, "day", "hard")]
    desk.post("/key/update", {"key": made["token"], "soft_budget": 2})
    desk.post("/key/update", {"key": made["token"], "budget_duration": "7d"})
    assert sorted(_budgets(desk, scope)) == [
        ("max_budget", 3.0, "week", "hard"),
        ("soft_budget", 2.0, "week", "soft"),
    ]
    desk.post("/key/update", {"key": made["token"], "max_budget": None, "soft_budget": None})
    assert _budgets(desk, scope) == []


def test_budgets_that_operators_made_are_seen_and_those_of_the_file_are_not_changed(
    desk: Desk,
) -> None:
    operators = desk.post("/admin/v1/keys", {"name": "a", "budget_usd": 2})["id"]
    filed = desk.post("/admin/v1/keys", {"name": "b"})["id"]
    settings = BudgetSettings(limit_nanousd=10**9)
    each = BudgetSettings(limit_nanousd=10**10, window="day")
    desk.call(ApplyConfig(0, (ConfigBudget(f"key:{filed}", settings), ConfigBudget("key:*", each))))
    for key_id in (operators, filed):
        desk.spend(key_id, 100)
    updated = desk.post("/key/update", {"key": operators, "max_budget": 3})
    assert (updated["max_budget"], updated["budget_duration"]) == (3.0, "30d")
    assert desk.get(f"/key/info?key={filed}")["info"]["max_budget"] == 1.0
    for change in ({"max_budget": 3}, {"max_budget": None}, {"budget_duration": "1d"}):
        refused = desk.refusal("POST", "/key/update", {"key": filed, **change})
        assert refused[:2] == (409, "max_budget")
    assert _budgets(desk, f"key:{filed}")[0] == ("", 1.0, "month", "hard")


def test_a_duration_without_a_budget_is_not_ignored(desk: Desk) -> None:
    key_id = desk.post("/key/generate", {})["token"]
    body = {"key": key_id, "budget_duration": "1d"}
    assert desk.refusal("POST", "/key/update", body)[:2] == (400, "budget_duration")


def test_a_refused_update_changes_nothing(desk: Desk) -> None:
    key_id = desk.post("/key/generate", {"key_alias": "a", "max_budget": 1})["token"]
    for wrong in ({"budget_id": "none"}, {"models": ["nobody"]}, {"budget_duration": "1y"}):
        body = {"key": key_id, "key_alias": "b", "max_budget": 2, **wrong}
        assert desk.refusal("POST", "/key/update", body)[:2] == (400, next(iter(wrong)))
        info = desk.get(f"/key/info?key={key_id}")["info"]
        assert (info["key_alias"], info["max_budget"]) == ("a", 1.0)


def test_a_key_is_blocked_regenerated_listed_and_deleted(desk: Desk) -> None:
    made = desk.post("/key/generate", {"key_alias": "a"})
    desk.post("/key/generate", {"key_alias": "b"})
    assert desk.post("/key/block", {"key": made["key"]})["blocked"]
    assert not desk.post("/key/unblock", {"key": made["key"]})["blocked"]
    for forever in ("999999999w", "1mo", "soon"):
        refused = desk.refusal(
            "POST", "/key/regenerate", {"key": made["key"], "grace_period": forever}
        )
        assert refused[:2] == (400, "grace_period")
    again = desk.post("/key/regenerate", {"key": made["key"], "grace_period": "1h"})
    assert again["token"] == made["token"]
    assert again["key"] != made["key"]
    assert desk.get(f"/key/info?key={made['key']}")["info"]["token"] == made["token"]

    page = desk.get("/key/list?size=1&page=2")
    assert (page["total_count"], page["total_pages"], len(page["keys"])) == (2, 2, 1)
    assert desk.get("/key/list?key_alias=a")["keys"] == [made["token"]]
    assert (
        desk.post("/key/delete", {"keys": [again["key"]], "key_aliases": ["b"]})["deleted_keys"][0]
        == again["key"]
    )
    assert desk.get("/key/list")["keys"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/key/generate", {"user_id": "ann"}, 400, "user_id"),
        ("/key/generate", {"model_max_budget": {"m": 1}}, 400, "model_max_budget"),
        ("/key/generate", {"auto_rotate": True}, 400, "auto_rotate"),
        ("/key/generate", {"max_bugdet": 1}, 400, "max_bugdet"),
        ("/key/generate", {"max_budget": -1}, 400, "max_budget"),
        ("/key/generate", {"max_budget": "lots"}, 400, "max_budget"),
        ("/key/generate", {"budget_duration": "1d"}, 400, "budget_duration"),
        ("/key/generate", {"max_budget": 1, "budget_duration": "1y"}, 400, "budget_duration"),
        ("/key/generate", {"duration": "tomorrow"}, 400, "duration"),
        ("/key/generate", {"duration": "999999999w"}, 400, "duration"),
        ("/key/generate", {"max_budget": 10**8}, 400, "max_budget"),
        ("/key/generate", {"budget_id": "none"}, 400, "budget_id"),
        ("/key/generate", {"team_id": "none"}, 400, "team_id"),
        ("/key/generate", {"models": ["nobody"]}, 400, "models"),
        ("/key/generate", {"allowed_routes": ["/v1/images"]}, 400, "allowed_routes"),
        ("/key/generate", [], 400, None),
        ("/key/update", {"key": "sk-unknown", "max_budget": 1}, 404, "key"),
        ("/key/update", {"max_budget": 1}, 400, "key"),
        ("/key/regenerate", {"key": "k_none", "grace_period": "1mo"}, 404, "key"),
        ("/key/delete", {}, 400, "keys"),
        ("/key/delete", {"keys": ["sk-unknown"]}, 404, "key"),
        ("/budget/new", {}, 400, "max_budget"),
        ("/budget/new", {"max_budget": 1, "tpm_limit": 5}, 400, "tpm_limit"),
        ("/budget/new", {"max_budget": 1, "budget_id": "a b"}, 400, "budget_id"),
        ("/budget/new", {"max_budget": 1, "budget_id": "max_budget"}, 400, "budget_id"),
        ("/budget/update", {"budget_id": "none", "max_budget": 1}, 404, None),
        ("/budget/delete", {"id": "none"}, 404, None),
        ("/budget/info", {"budgets": []}, 400, "budgets"),
        ("/team/new", {"members_with_roles": [{"role": "admin"}]}, 400, "members_with_roles"),
        ("/team/update", {"team_id": "none"}, 404, None),
        ("/team/delete", {"team_ids": []}, 400, "team_ids"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(
    shared_desk: Desk, path: str, body: object, status: int, param: str | None
) -> None:
    found_status, found_param, message = shared_desk.refusal("POST", path, body)
    assert (found_status, found_param) == (status, param), message
    assert "sk-unknown" not in message
    assert shared_desk.get("/admin/v1/keys")["data"] == []
    assert shared_desk.get("/admin/v1/budgets")["data"] == []


# --- budgets ------------------------------------------------------------------------------


def test_a_template_is_changed_for_all_that_refer_to_it(desk: Desk) -> None:
    template = {"budget_id": "small", "max_budget": 5, "soft_budget": 4, "budget_duration": "1d"}
    made = desk.post("/budget/new", template)
    assert {name: made[name] for name in template} == template
    key = desk.post("/key/generate", {"budget_id": "small"})
    assert key["litellm_budget_table"]["max_budget"] == 5.0
    team = desk.post("/team/new", {"team_alias": "a", "budget_id": "small"})["team_id"]
    scopes = ("template:small", f"key:{key['token']}", f"team:{team}")
    desk.spend(key["token"], 10**9)

    desk.post("/budget/update", {"budget_id": "small", "max_budget": 6})
    for scope in scopes:
        assert _budgets(desk, scope) == [
            ("small", 6.0, "day", "hard"),
            ("small", 4.0, "day", "soft"),
        ]
    assert desk.get(f"/key/info?key={key['token']}")["info"]["spend"] == 1.0

    desk.post(
        "/budget/update", {"budget_id": "small", "soft_budget": None, "budget_duration": "7d"}
    )
    for scope in scopes:
        assert _budgets(desk, scope) == [("small", 6.0, "week", "hard")]
    assert desk.post("/budget/info", {"budgets": ["small", "none"]}) == desk.get("/budget/list")
    assert (
        desk.refusal("POST", "/budget/update", {"budget_id": "small", "max_budget": None})[0] == 400
    )

    assert desk.refusal("POST", "/budget/delete", {"id": "small"})[0] == 409
    desk.post("/key/update", {"key": key["token"], "budget_id": None})
    assert _budgets(desk, scopes[1]) == []
    desk.post("/team/update", {"team_id": team, "budget_id": None})
    assert desk.post("/budget/delete", {"id": "small"})["budget_id"] == "small"
    assert desk.get("/budget/list") == []


def test_a_key_changes_its_template(desk: Desk) -> None:
    for budget_id, limit in (("small", 5), ("large", 50)):
        desk.post("/budget/new", {"budget_id": budget_id, "max_budget": limit})
    assert desk.refusal("POST", "/budget/new", {"budget_id": "small", "max_budget": 1})[0] == 409
    key = desk.post("/key/generate", {"budget_id": "small", "max_budget": 9})["token"]
    assert desk.post("/key/update", {"key": key, "budget_id": "large"})["budget_id"] == "large"
    assert sorted(_budgets(desk, f"key:{key}")) == [
        ("large", 50.0, "lifetime", "hard"),
        ("max_budget", 9.0, "lifetime", "hard"),
    ]


# --- teams ------------------------------------------------------------------------------


def test_life_of_a_team(desk: Desk) -> None:
    desk.post("/admin/v1/organisations", {"name": "Acme", "id": "acme"})
    team = desk.post(
        "/team/new",
        {
            "team_alias": "search",
            "organization_id": "acme",
            "models": ["all-proxy-models"],
            "max_budget": 10,
            "rpm_limit": 100,
            "members_with_roles": [],
        },
    )
    team_id = team["team_id"]
    assert (team["team_alias"], team["max_budget"], team["models"]) == ("search", 10.0, [])
    key = desk.post("/key/generate", {"team_id": team_id})["token"]
    desk.spend(key, 10**9, scopes=f"team:{team_id}")
    info = desk.get(f"/team/info?team_id={team_id}")
    assert info["team_info"] == {**team, "spend": 1.0}
    assert [shown["token"] for shown in info["keys"]] == [key]
    (listed,) = desk.get("/team/list?organization_id=acme")
    assert (listed["team_id"], listed["spend"]) == (team_id, 1.0)
    updated = desk.post("/team/update", {"team_id": team_id, "max_budget": 20, "blocked": True})
    assert (updated["data"]["max_budget"], updated["data"]["blocked"]) == (20.0, True)
    assert not desk.post("/team/unblock", {"team_id": team_id})["blocked"]
    assert desk.post("/team/delete", {"team_ids": [team_id]}) == {"deleted_teams": [team_id]}
    assert desk.get("/team/list") == []
    assert desk.get("/key/list")["keys"] == []


# --- spend ------------------------------------------------------------------------------


def test_logs_and_report(desk: Desk) -> None:
    key = desk.post("/key/generate", {"key_alias": "a"})
    other = desk.post("/key/generate", {"key_alias": "b"})
    for token, cost in ((key["token"], 10**9), (key["token"], 10**8), (other["token"], 10**7)):
        desk.spend(token, cost)
    logs = desk.get(f"/spend/logs?api_key={key['key']}")
    assert [log["spend"] for log in logs] == [0.1, 1.0]
    assert (logs[0]["model"], logs[0]["prompt_tokens"], logs[0]["total_tokens"]) == (
        "up/m1",
        11,
        18,
    )
    assert desk.get(f"/spend/logs?request_id={logs[1]['request_id']}") == logs[1:]
    today = logs[0]["startTime"][:10]
    (day,) = desk.get(f"/spend/logs?start_date={today}&end_date={today}")
    assert (day["startTime"], day["spend"], day["models"]) == (today, 1.11, {"up/m1": 1.11})
    assert len(desk.get(f"/spend/logs?start_date={today}&end_date={today}&summarize=false")) == 3
    report = desk.get("/global/spend/report?group_by=api_key")
    assert {row["api_key"]: row["total_cost"] for row in report} == {
        key["token"]: 1.1,
        other["token"]: 0.01,
    }
    assert desk.get(f"/global/spend/report?api_key={key['key']}") == [
        row for row in report if row["api_key"] == key["token"]
    ]
    assert desk.refusal("GET", "/global/spend/report?start_date=soon")[:2] == (400, "start_date")
    assert desk.refusal("GET", "/spend/logs?user_id=ann")[:2] == (400, "user_id")
