from __future__ import annotations

import pytest

from tests.proxy.admin.desk import Desk


def test_life_of_a_team_and_its_organisation(desk: Desk) -> None:
    organisation = desk.post(
        "/admin/v1/organisations",
        {"name": "Acme", "id": "acme", "models": ["auto"], "budget_usd": 100},
    )
    assert organisation["id"] == "acme"
    team = desk.post(
        "/admin/v1/teams",
        {
            "name": "search",
            "organisation_id": "acme",
            "requests_per_minute": 100,
            "metadata": {"cost": "centre"},
            "budgets": [{"limit_usd": 5, "window": "day", "name": "daily"}],
        },
    )
    assert desk.get(f"/admin/v1/teams/{team['id']}") == team
    assert (team["organisation_id"], team["requests_per_minute"]) == ("acme", 100)
    scopes = {b["scope"]: b["limit_usd"] for b in desk.get("/admin/v1/budgets")["data"]}
    assert scopes == {"organisation:acme": 100.0, f"team:{team['id']}": 5.0}

    path = f"/admin/v1/teams/{team['id']}"
    changed = desk.patch(path, {"blocked": True, "requests_per_minute": None, "concurrent": 3})
    assert changed == {**team, "blocked": True, "requests_per_minute": None, "concurrent": 3}

    key = desk.post("/admin/v1/keys", {"name": "a", "team_id": team["id"]})["id"]
    assert desk.refusal("DELETE", path)[0] == 409
    assert desk.refusal("DELETE", "/admin/v1/organisations/acme")[0] == 409
    desk.delete(f"/admin/v1/keys/{key}")
    assert desk.delete(path)["deleted_at"] is not None
    assert desk.get("/admin/v1/teams")["data"] == []
    assert desk.get(path)["deleted_at"] is not None
    assert desk.refusal("POST", "/admin/v1/keys", {"name": "b", "team_id": team["id"]})[:2] == (
        400,
        "team_id",
    )
    assert desk.delete("/admin/v1/organisations/acme")["deleted_at"] is not None


def test_a_team_leaves_its_organisation(desk: Desk) -> None:
    desk.post("/admin/v1/organisations", {"name": "Acme", "id": "acme"})
    desk.post("/admin/v1/teams", {"name": "a", "id": "a", "organisation_id": "acme"})
    changed = desk.patch("/admin/v1/teams/a", {"organisation_id": None, "name": "b"})
    assert (changed["organisation_id"], changed["name"]) == (None, "b")


def test_an_organisation_is_no_team(desk: Desk) -> None:
    desk.post("/admin/v1/organisations", {"name": "Acme", "id": "acme"})
    assert desk.refusal("GET", "/admin/v1/teams/acme")[0] == 404
    assert desk.refusal("DELETE", "/admin/v1/teams/acme")[0] == 404
    assert desk.refusal("PATCH", "/admin/v1/teams/acme", {"name": "x"})[0] == 404
    assert desk.refusal("POST", "/admin/v1/teams", {"name": "x", "id": "acme"})[0] == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "teams", {}, 400, "name"),
        ("POST", "teams", {"name": "x", "id": "a & b"}, 400, "id"),
        ("POST", "teams", {"name": "x", "organisation_id": "none"}, 400, "organisation_id"),
        ("POST", "teams", {"name": "x", "models": ["nobody"]}, 400, "models"),
        ("POST", "organisations", {"name": "x", "organisation_id": "o"}, 400, "organisation_id"),
        ("GET", "teams/t_none", None, 404, None),
        ("PATCH", "organisations/o_none", {"name": "x"}, 404, None),
    ],
)
def test_mistakes_are_explained(
    shared_desk: Desk, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    assert shared_desk.refusal(method, f"/admin/v1/{path}", body)[:2] == (status, param)
