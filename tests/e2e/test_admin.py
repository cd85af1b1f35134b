"""Keys, budgets and spend: over HTTP and on the command line, on one running server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal

import httpx2
import pytest

from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Upstream


@pytest.fixture
def keyed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "m2")
    config["models"]["spare"] = {"targets": ["up/m2"]}
    config["budgets"] = [{"scope": "global", "window": "lifetime", "limit_usd": 100}]
    with serving(tmp_path_factory.mktemp("admin"), config, "--workers", "2") as running:
        yield running


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_life_of_a_key(keyed: Tollway) -> None:
    assert keyed.chat().status_code == 200  # no key exists yet: anonymous on this machine
    made = keyed.admin("POST", "/keys", {"name": "alice", "models": ["spare"]})
    key, key_id = made["key"], made["id"]
    assert key.startswith("sk-tw-")
    assert keyed.chat().status_code == 401
    for header in ("authorization", "x-api-key", "api-key"):
        value = f"Bearer {key}" if header == "authorization" else key
        assert keyed.chat("spare", headers={header: value}).status_code == 200
    refused = keyed.chat("auto", headers=_bearer(key))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    listed = keyed.get("/v1/models", headers=_bearer(key)).json()["data"]
    assert [model["id"] for model in listed] == ["spare"]

    (shown,) = keyed.admin("GET", "/keys")["data"]
    assert shown["id"] == key_id
    assert key not in json.dumps(shown)
    assert shown["hint"].endswith(key[-4:])
    assert key.encode() not in (keyed.data / "ledger.db").read_bytes()

    assert keyed.admin("PATCH", f"/keys/{key_id}", {"models": []})["models"] == []
    assert keyed.chat("auto", headers=_bearer(key)).status_code == 200
    assert keyed.admin("PATCH", f"/keys/{key_id}", {"revoked": True})["revoked_at"]
    for _ in range(6):  # on whichever worker
        revoked = keyed.chat("auto", headers=_bearer(key))
        assert (revoked.status_code, revoked.json()["error"]["code"]) == (401, "invalid_api_key")
    assert keyed.chat().status_code == 401  # and it does not become anonymous again


def test_budget_of_a_key_is_kept_and_explained(keyed: Tollway, upstream: Upstream) -> None:
    # One request costs 25 micro-USD, and its hold some more.
    made = keyed.admin(
        "POST", "/keys", {"name": "bob", "budget_usd": "0.0008", "budget_window": "day"}
    )
    headers = _bearer(made["key"])
    replies = [keyed.chat(headers=headers, max_tokens=7) for _ in range(34)]
    codes = [reply.status_code for reply in replies]
    admitted = codes.count(200)
    assert 1 <= admitted <= 32
    assert codes == [200] * admitted + [429] * (34 - admitted)
    assert len(upstream.calls) == admitted
    refusal = replies[-1]
    error = refusal.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert f"key:{made['id']}" in error["message"]
    assert "$0.0008" in error["message"]
    assert refusal.headers["x-should-retry"] == "false"
    assert 0 < int(refusal.headers["retry-after"]) <= 86_400

    (budget,) = [b for b in keyed.admin("GET", "/budgets")["data"] if b["scope"] != "global"]
    assert Decimal(str(budget["spent_usd"])) == Decimal("0.000025") * admitted
    assert budget["held_usd"] == 0.0
    raised = keyed.admin("PATCH", f"/budgets/{budget['id']}", {"limit_usd": 1})
    assert raised["limit_usd"] == 1
    assert keyed.chat(headers=headers).status_code == 200


def test_a_maximum_is_written_in_only_under_a_hard_budget(
    keyed: Tollway, upstream: Upstream
) -> None:
    keyed.chat()
    assert upstream.calls[0].body["max_tokens"] == 1000
    keyed.chat(max_tokens=5)
    assert upstream.calls[1].body["max_tokens"] == 5
    # A provider that knows only the older field may ignore the newer one.
    keyed.chat(max_completion_tokens=6)
    assert upstream.calls[2].body["max_tokens"] == 6
    assert upstream.calls[2].body["max_completion_tokens"] == 6


def test_without_a_hard_budget_the_body_is_left_as_it_is(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = provider(upstream.base_url, "m1")
    config["budgets"] = [{"scope": "global", "limit_usd": 1, "mode": "soft"}]
    with serving(tmp_path_factory.mktemp("soft"), config) as running:
        headers = _bearer(running.admin("POST", "/keys", {"name": "alice"})["key"])
        deadline = time.monotonic() + 5
        while "max_tokens" in (running.chat(headers=headers) and upstream.calls[-1].body):
            assert time.monotonic() < deadline
        reply = running.chat("up/m1", headers=headers, web_search_options={})
        assert reply.status_code == 200


def test_budgets_of_the_file_are_not_changed_over_http(keyed: Tollway) -> None:
    (budget,) = keyed.admin("GET", "/budgets")["data"]
    assert (budget["scope"], budget["managed"]) == ("global", "config")
    reply = httpx2.patch(
        f"{keyed.url}/admin/v1/budgets/{budget['id']}",
        json={"limit_usd": 5},
        headers=_bearer(ADMIN_TOKEN),
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")


def test_spend_over_http_and_on_the_command_line(keyed: Tollway) -> None:
    for model in ("auto", "auto", "spare"):
        keyed.chat(model)
    keyed.rows(3)
    rows = keyed.admin("GET", "/spend?group_by=virtual_model,target")["data"]
    assert [(r["virtual_model"], r["target"], r["requests"], r["cost_usd"]) for r in rows] == [
        ("auto", "up/m1", 2, 0.00005),
        ("spare", "up/m2", 1, 0.000025),
    ]
    printed = keyed.cli("spend")
    assert printed.returncode == 0, printed.stderr
    assert "$0.000075" in printed.stdout
    assert "global" in printed.stdout
    last = keyed.cli("spend", "--last", "2", "--json")
    assert [row["target"] for row in json.loads(last.stdout)] == ["up/m2", "up/m1"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/keys", {}, 400, "name"),
        ("POST", "/keys", {"name": "x", "model": "auto"}, 400, "model"),
        ("POST", "/keys", {"name": "x", "models": ["nobody"]}, 400, "models"),
        ("POST", "/keys", {"name": "x", "budget_usd": -1}, 400, "budget_usd"),
        ("PATCH", "/keys/k_nobody", {"name": "x"}, 404, None),
        ("POST", "/budgets", {"scope": "team:x", "limit_usd": 1}, 400, "scope"),
        ("POST", "/budgets", {"scope": "global", "limit_usd": "NaN"}, 400, "limit_usd"),
        ("POST", "/budgets", {"scope": "global", "limit_usd": 1, "window": "hour"}, 400, "window"),
        ("PATCH", "/budgets/999", {"limit_usd": 1}, 404, None),
        ("GET", "/spend?group_by=nothing", None, 400, "group_by"),
        ("GET", "/spend?since=soon", None, 400, "since"),
        ("GET", "/spend?typo=1", None, 400, "typo"),
        ("DELETE", "/keys", None, 405, None),
    ],
)
def test_admin_mistakes_are_explained(
    keyed: Tollway, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    reply = httpx2.request(
        method, f"{keyed.url}/admin/v1{path}", json=body, headers=_bearer(ADMIN_TOKEN)
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


def test_admin_needs_the_admin_token(keyed: Tollway) -> None:
    key = keyed.admin("POST", "/keys", {"name": "alice"})["key"]
    for path in ("/keys", "/budgets", "/spend"):
        for headers, status in (({}, 401), (_bearer("wrong"), 401), (_bearer(key), 403)):
            reply = httpx2.get(f"{keyed.url}/admin/v1{path}", headers=headers)
            assert reply.status_code == status


def test_command_line_talks_to_the_running_server(keyed: Tollway) -> None:
    made = keyed.cli("keys", "create", "carol", "--budget", "3", "--window", "month")
    key = made.stdout.splitlines()[0]
    assert keyed.chat(headers=_bearer(key)).status_code == 200
    assert "$3.00" in keyed.cli("budgets", "list").stdout
    (listed,) = json.loads(keyed.cli("keys", "list", "--json").stdout)
    assert keyed.cli("keys", "revoke", listed["key_id"]).returncode == 0
    assert keyed.chat(headers=_bearer(key)).status_code == 401
    missing = keyed.cli("keys", "revoke", "k_nobody")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1


def test_metrics_are_merged_over_workers(keyed: Tollway) -> None:
    for _ in range(10):
        keyed.chat()
    text = keyed.get("/metrics", headers=_bearer(ADMIN_TOKEN)).text
    assert 'tollway_attempts_total{outcome="ok",target="up/m1"} 10.0' in text
    assert 'tollway_tokens_total{kind="input",target="up/m1"} 110.0' in text
    assert 'tollway_requests_total{endpoint="/v1/chat/completions",status="200"} 10.0' in text
