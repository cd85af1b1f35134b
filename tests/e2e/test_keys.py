"""Who may do what, on a running server with several workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream

EFFECTIVE_S = 1.0
"""How soon a change must hold on every worker."""


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "m2", "embed")
    config["server"]["trusted_proxies"] = ["127.0.0.0/8"]
    with serving(tmp_path_factory.mktemp("keys"), config, "--workers", "3") as running:
        yield running


@pytest.fixture(scope="module")
def lines(server: Tollway) -> Iterator[list[httpx2.Client]]:
    """A kept connection to every worker."""
    with ExitStack() as stack:
        deadline = time.monotonic() + 20
        clients: list[httpx2.Client] = []
        while not _reach_all(server, clients):
            assert time.monotonic() < deadline
            client = stack.enter_context(httpx2.Client(base_url=server.url, timeout=30))
            client.get("/healthz")
            clients.append(client)
        yield clients


def _reach_all(server: Tollway, clients: list[httpx2.Client]) -> bool:
    if not clients:
        return False
    held = [
        any(c.status == "ESTABLISHED" and c.raddr for c in worker.net_connections("tcp"))
        for worker in server.workers()
    ]
    return len(held) == 3 and all(held)


@pytest.fixture
def key(server: Tollway) -> dict[str, str]:
    made: dict[str, str] = server.admin("POST", "/keys", {"name": "alice"})
    return made


def _chat(client: httpx2.Client, key: str, model: str = "up/m1", **headers: str) -> httpx2.Response:
    return client.post(
        "/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "Hello"}]},
        headers={"authorization": f"Bearer {key}", **headers},
    )


def _becomes(
    lines: list[httpx2.Client],
    ask: Callable[[httpx2.Client], httpx2.Response],
    status: int,
    code: str,
) -> None:
    """Soon every worker answers like this."""
    deadline = time.monotonic() + EFFECTIVE_S
    waiting = list(lines)
    while waiting:
        replies = {client: ask(client) for client in waiting}
        late = time.monotonic() > deadline
        waiting = [client for client, reply in replies.items() if not _is(reply, status, code)]
        assert not (waiting and late), [replies[client].text for client in waiting]


def _is(reply: httpx2.Response, status: int, code: str) -> bool:
    if reply.status_code != status:
        return False
    return status == 200 or reply.json()["error"]["code"] == code


def test_a_block_and_its_end_hold_on_every_worker(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    def ask(client: httpx2.Client) -> httpx2.Response:
        return _chat(client, key["key"])

    _becomes(lines, ask, 200, "")
    server.admin("POST", f"/keys/{key['id']}/block")
    _becomes(lines, ask, 401, "blocked_api_key")
    server.admin("POST", f"/keys/{key['id']}/unblock")
    _becomes(lines, ask, 200, "")
    server.admin("DELETE", f"/keys/{key['id']}")
    _becomes(lines, ask, 401, "invalid_api_key")


def test_an_old_key_is_accepted_through_the_overlap_and_not_without_one(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    second = server.admin("POST", f"/keys/{key['id']}/rotate", {"overlap_s": 600})["key"]
    _becomes(lines, lambda client: _chat(client, second), 200, "")
    _becomes(lines, lambda client: _chat(client, key["key"]), 200, "")
    third = server.admin("POST", f"/keys/{key['id']}/rotate", {})["key"]
    _becomes(lines, lambda client: _chat(client, third), 200, "")
    for old in (key["key"], second):
        _becomes(lines, lambda client, old=old: _chat(client, old), 401, "invalid_api_key")


def test_a_key_that_has_expired_says_so(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    server.admin("PATCH", f"/keys/{key['id']}", {"expires_at": "2020-01-01T00:00:00Z"})
    _becomes(lines, lambda client: _chat(client, key["key"]), 401, "expired_api_key")


def test_blocking_an_organisation_blocks_the_keys_of_its_teams(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    organisation = server.admin("POST", "/organisations", {"name": "Acme"})["id"]
    team = server.admin("POST", "/teams", {"name": "a", "organisation_id": organisation})["id"]
    server.admin("PATCH", f"/keys/{key['id']}", {"team_id": team})

    def ask(client: httpx2.Client) -> httpx2.Response:
        return _chat(client, key["key"])

    _becomes(lines, ask, 200, "")
    server.admin("PATCH", f"/organisations/{organisation}", {"blocked": True})
    _becomes(lines, ask, 401, "blocked_api_key")
    server.admin("PATCH", f"/organisations/{organisation}", {"blocked": False})
    _becomes(lines, ask, 200, "")
    server.admin("PATCH", f"/teams/{team}", {"models": ["up/m2"]})
    _becomes(lines, ask, 404, "model_not_found")
    listed = lines[0].get("/v1/models", headers={"authorization": f"Bearer {key['key']}"})
    assert [model["id"] for model in listed.json()["data"]] == ["up/m2"]


def test_an_endpoint_that_is_not_allowed_is_forbidden(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    server.admin("PATCH", f"/keys/{key['id']}", {"endpoints": ["embeddings"]})
    _becomes(lines, lambda client: _chat(client, key["key"]), 403, "missing_scope")
    reply = lines[0].post(
        "/v1/embeddings",
        json={"model": "up/embed", "input": "Hello"},
        headers={"authorization": f"Bearer {key['key']}"},
    )
    assert reply.status_code == 200, reply.text


def test_a_key_is_bound_to_networks_behind_a_trusted_proxy(
    server: Tollway, lines: list[httpx2.Client], key: dict[str, str]
) -> None:
    server.admin("PATCH", f"/keys/{key['id']}", {"networks": ["192.0.2.0/24"]})

    def ask(*forwarded: str) -> Callable[[httpx2.Client], httpx2.Response]:
        headers = {"x-forwarded-for": ", ".join(forwarded)} if forwarded else {}
        return lambda client: _chat(client, key["key"], **headers)

    _becomes(lines, ask(), 401, "ip_not_authorized")
    _becomes(lines, ask("192.0.2.7"), 200, "")
    _becomes(lines, ask("192.0.2.7", "198.51.100.1"), 401, "ip_not_authorized")


def test_a_key_sees_itself(server: Tollway, key: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {key['key']}"}
    data = server.get("/api/v1/key", headers=headers).json()["data"]
    assert (data["label"], data["limit"], data["usage"]) == (key["hint"], None, 0)
    wrong = server.get("/api/v1/key", headers={"authorization": "Bearer sk-tw-guessed"})
    assert wrong.status_code == 401
