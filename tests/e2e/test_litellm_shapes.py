"""What a script written for LiteLLM does, against a running server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Upstream


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "m2")
    with serving(tmp_path_factory.mktemp("litellm"), config, "--workers", "2") as running:
        yield running


def _ask(server: Tollway, method: str, path: str, body: object = None) -> Any:
    reply = httpx2.request(
        method,
        server.url + path,
        json=body,
        headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        timeout=30,
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_team_with_a_budget_spends_it_and_no_more(server: Tollway) -> None:
    asked = {"team_alias": "a", "max_budget": 0.0008}
    team = _ask(server, "POST", "/team/new", asked)["team_id"]
    made = _ask(
        server,
        "POST",
        "/key/generate",
        {"team_id": team, "max_budget": 5, "budget_duration": "30d", "models": ["up/m1"]},
    )
    headers = {"authorization": f"Bearer {made['key']}"}
    replies = [server.chat("up/m1", headers=headers, max_tokens=7) for _ in range(34)]
    codes = [reply.status_code for reply in replies]
    admitted = codes.count(200)
    assert 1 <= admitted <= 32  # 25 micro-USD each
    assert codes == [200] * admitted + [429] * (34 - admitted)
    assert f"team:{team}" in replies[-1].json()["error"]["message"]
    info = _ask(server, "GET", f"/key/info?key={made['key']}")["info"]
    spent = 0.000025 * admitted
    assert info["spend"] == pytest.approx(spent, abs=1e-12)
    assert _ask(server, "GET", f"/team/info?team_id={team}")["team_info"]["spend"] == pytest.approx(
        spent, abs=1e-12
    )
    server.rows(admitted)
    logs = _ask(server, "GET", f"/spend/logs?api_key={made['key']}")
    assert {(log["model"], log["spend"]) for log in logs} == {("up/m1", 0.000025)}
    assert len(logs) == admitted
    report = _ask(server, "GET", f"/global/spend/report?api_key={made['key']}")
    assert report[0]["total_cost"] == pytest.approx(spent, abs=1e-12)


def test_a_blocked_key_is_refused_and_a_deleted_one_unknown(server: Tollway) -> None:
    key = _ask(server, "POST", "/key/generate", {})["key"]
    headers = {"authorization": f"Bearer {key}"}
    assert server.chat("up/m1", headers=headers).status_code == 200
    _ask(server, "POST", "/key/block", {"key": key})
    assert server.chat("up/m1", headers=headers).json()["error"]["code"] == "blocked_api_key"
    _ask(server, "POST", "/key/delete", {"keys": [key]})
    assert server.chat("up/m1", headers=headers).json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/key/list", "/team/list", "/budget/list", "/spend/logs"])
def test_the_admin_token_is_needed(server: Tollway, path: str) -> None:
    for token in ("", "Bearer wrong"):
        reply = server.get(path, headers={"authorization": token})
        assert reply.status_code == 401
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there_is_404(server: Tollway) -> None:
    reply = server.get("/key/none", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
