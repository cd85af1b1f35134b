from __future__ import annotations

import time

import pytest

from tests.proxy.admin.desk import Desk

PATH = "/admin/v1/keys"


def test_a_key_has_every_setting_and_each_can_be_changed(desk: Desk) -> None:
    team = desk.post("/admin/v1/teams", {"name": "search"})["id"]
    settings = {
        "name": "alice",
        "team_id": team,
        "models": ["auto", "up/m1"],
        "endpoints": ["chat"],
        "networks": ["192.0.2.0/24", "2001:db8::1/128"],
        "expires_at": "2100-01-01T00:00:00+00:00",
        "blocked": True,
        "requests_per_minute": 60,
        "tokens_per_minute": 10_000,
        "concurrent": 5,
        "at_cap": "stop",
        "clamp": True,
        "tags": ["nightly"],
        "metadata": {"owner": {"id": 7}},
    }
    made = desk.post(PATH, settings)
    assert {name: made[name] for name in settings} == settings
    shown = desk.get(f"{PATH}/{made['id']}")
    assert "key" not in shown
    assert {**shown, "key": made["key"]} == made
    changes = {
        "name": "bob",
        "team_id": None,
        "models": [],
        "endpoints": ["embeddings"],
        "networks": [],
        "expires_at": None,
        "blocked": False,
        "requests_per_minute": None,
        "tokens_per_minute": 5,
        "concurrent": 1,
        "at_cap": "finish",
        "clamp": False,
        "tags": [],
        "metadata": {},
    }
    for name, value in changes.items():
        changed = desk.patch(f"{PATH}/{made['id']}", {name: value})
        assert changed == {**shown, name: value}
        shown = changed
    assert {name: shown[name] for name in changes} == changes


def test_a_key_is_blocked_and_unblocked(desk: Desk) -> None:
    key_id = desk.post(PATH, {"name": "a"})["id"]
    assert desk.post(f"{PATH}/{key_id}/block")["blocked"]
    assert not desk.post(f"{PATH}/{key_id}/unblock")["blocked"]


def test_a_rotated_key_keeps_its_id_and_says_how_long_the_old_one_is_accepted(desk: Desk) -> None:
    made = desk.post(PATH, {"name": "a"})
    began = time.time()
    rotated = desk.post(f"{PATH}/{made['id']}/rotate", {"overlap_s": 3_600})
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    (record,) = desk.books.all_keys()
    assert began + 3_599 <= record.previous_until <= time.time() + 3_600
    assert desk.get(f"{PATH}/{made['id']}")["previous_until"] is not None
    at_once = desk.post(f"{PATH}/{made['id']}/rotate", {})
    assert at_once["previous_until"] is None
    assert len(desk.get(PATH)["data"]) == 1


def test_a_revoked_key_is_listed_and_stays_revoked(desk: Desk) -> None:
    key_id = desk.post(PATH, {"name": "a"})["id"]
    revoked_at = desk.delete(f"{PATH}/{key_id}")["revoked_at"]
    assert revoked_at is not None
    assert desk.patch(f"{PATH}/{key_id}", {"blocked": False})["revoked_at"] == revoked_at
    assert [key["revoked_at"] for key in desk.get(PATH)["data"]] == [revoked_at]
    assert desk.refusal("POST", f"{PATH}/{key_id}/rotate", {})[0] == 409


def test_budgets_are_made_with_the_key_or_neither_is(desk: Desk) -> None:
    made = desk.post(
        PATH,
        {
            "name": "a",
            "budget_usd": "20",
            "budgets": [{"limit_usd": 0.5, "window": "5h", "mode": "soft", "holds": "full"}],
        },
    )
    budgets = desk.get(f"/admin/v1/budgets?scope=key:{made['id']}")["data"]
    shown = [(b["limit_usd"], b["window"], b["mode"], b["holds"]) for b in budgets]
    assert shown == [(20.0, "month", "hard", "sliced"), (0.5, "5h", "soft", "full")]
    status, _, message = desk.refusal(
        "POST", PATH, {"name": "b", "budgets": [{"limit_usd": 1, "window": "1x"}]}
    )
    assert status == 400
    assert "1x" in message
    assert len(desk.get(PATH)["data"]) == 1


def test_a_limit_is_changed_without_the_others(desk: Desk) -> None:
    key_id = desk.post(PATH, {"name": "a", "requests_per_minute": 5, "concurrent": 2})["id"]
    changed = desk.patch(f"{PATH}/{key_id}", {"tokens_per_minute": 7, "concurrent": None})
    limits = ("requests_per_minute", "tokens_per_minute", "concurrent")
    assert [changed[name] for name in limits] == [5, 7, None]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "", {}, 400, "name"),
        ("POST", "", {"name": "x", "model": "auto"}, 400, "model"),
        ("POST", "", {"name": "x", "models": ["nobody"]}, 400, "models"),
        ("POST", "", {"name": "x", "endpoints": ["imagery"]}, 400, "endpoints"),
        ("POST", "", {"name": "x", "networks": ["10.0.0.7/8"]}, 400, "networks"),
        ("POST", "", {"name": "x", "team_id": "t_none"}, 400, "team_id"),
        ("POST", "", {"name": "x", "expires_at": "soon"}, 400, "expires_at"),
        ("POST", "", {"name": "x", "expires_at": -1}, 400, "expires_at"),
        ("POST", "", {"name": "x", "expires_at": "1960-01-01"}, 400, "expires_at"),
        ("POST", "", {"name": "x", "expires_at": 10**12}, 400, "expires_at"),
        ("POST", "", {"name": "x", "expires_at": 2**80}, 400, "expires_at"),
        ("POST", "", {"name": "x", "metadata": {"id": 10**30}}, 400, None),
        ("POST", "", {"name": "x", "budget_usd": 10**8}, 400, "budget_usd"),
        ("POST", "", {"name": "x", "budget_usd": 1e300}, 400, "budget_usd"),
        ("POST", "", {"name": "x", "at_cap": "panic"}, 400, "at_cap"),
        ("POST", "", {"name": "x", "budget_usd": -1}, 400, "budget_usd"),
        ("POST", "", {"name": "x", "concurrent": -1}, 400, "concurrent"),
        ("POST", "", {"name": "x", "metadata": []}, 400, "metadata"),
        ("POST", "?dry=1", {"name": "x"}, 400, "dry"),
        ("GET", "/k_none", None, 404, None),
        ("PATCH", "/k_none", {"name": "x"}, 404, None),
        ("PATCH", "/k_none", {"concurrent": 1}, 404, None),
        ("PATCH", "/k_none", {"budget_usd": 1}, 400, "budget_usd"),
        ("DELETE", "/k_none", None, 404, None),
        ("POST", "/k_none/rotate", {"overlap_s": -1}, 400, "overlap_s"),
        ("POST", "/k_none/rotate", {}, 404, None),
        ("DELETE", "", None, 405, None),
    ],
)
def test_mistakes_are_explained(
    shared_desk: Desk, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    assert shared_desk.refusal(method, PATH + path, body)[:2] == (status, param)
    assert shared_desk.get(PATH)["data"] == []


def test_a_wrong_method_is_told_every_right_one(shared_desk: Desk) -> None:
    allowed = shared_desk.ask("DELETE", PATH).headers["allow"]
    assert sorted(allowed.split(", ")) == ["GET", "HEAD", "POST"]
