"""What went wrong once, over real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, run_cli, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, usage_chunk

BEARER = {"authorization": f"Bearer {ADMIN_TOKEN}"}


def _stream(tollway: Tollway) -> socket.socket:
    """A client in the middle of a stream, whose first bytes have come."""
    body = json.dumps(
        {"model": "up/m1", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    host, _, port = tollway.url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=20)
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    received = b""
    while b"data:" not in received:
        received += client.recv(65536)
    return client


async def _endless(call: Call, line: Line) -> None:
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": "word"}))
    await line.until_closed()


def test_streams_cut_by_the_end_of_a_drain_are_settled_before_the_end(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.scripts["m1"] = _endless
    config = provider(upstream.base_url, "m1")
    config["server"]["drain_s"] = 0.5
    with serving(tmp_path, config) as tollway:
        clients = [_stream(tollway) for _ in range(3)]
        assert tollway.stop() == 0
        for client in clients:
            client.close()
        assert [row["outcome"] for row in tollway.rows()] == ["client_gone"] * 3
        assert sum(row["held_nanousd"] for row in tollway.rows()) == 0
        assert audit(tollway.data / "ledger.db") == []


def test_the_last_settlement_is_not_lost_in_a_stop(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        assert tollway.chat().status_code == 200
        assert tollway.stop() == 0  # within the 20 ms that a settlement may wait
        assert [row["outcome"] for row in tollway.rows()] == ["ok"]


def test_workers_end_when_supervisor_and_ledger_are_gone(
    upstream: Upstream, tmp_path: Path
) -> None:
    tollway = Tollway(tmp_path, provider(upstream.base_url, "m1")).start()
    ledger, workers = tollway.ledger(), tollway.workers()
    ledger.suspend()  # it will never acknowledge anything
    tollway.get("/healthz")
    os.kill(tollway.pid, signal.SIGKILL)
    tollway.stop()
    ledger.kill()
    for worker in workers:
        worker.wait(20)


def test_a_closed_terminal_stops_the_server_in_order(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        assert tollway.chat().status_code == 200
        children = tollway.children()
        for child in children:
            child.send_signal(signal.SIGHUP)
        assert tollway.chat().status_code == 200
        assert tollway.children() == children
        os.kill(tollway.pid, signal.SIGHUP)
        assert tollway.stop() == 0


def test_a_second_server_does_not_disturb_the_first(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        assert tollway.chat().status_code == 200
        refused = tollway.cli("serve", "--port", "0")
        assert refused.returncode == 2
        text = tollway.get("/metrics", headers=BEARER).text
        assert 'tollway_attempts_total{outcome="ok",target="up/m1"} 1.0' in text


def test_no_key_is_made_where_its_budget_cannot_be(tmp_path: Path) -> None:
    for wrong in (("--window", "fortnight"), ("--budget", "much")):
        arguments = {"--budget": "5", "--window": "day"} | {wrong[0]: wrong[1]}
        flat = [part for pair in arguments.items() for part in pair]
        done = run_cli("keys", "create", "alice", *flat, cwd=tmp_path)
        assert done.returncode == 2
    assert json.loads(run_cli("keys", "list", "--json", cwd=tmp_path).stdout) == []
    assert run_cli("budgets", "create", "globl", "5", cwd=tmp_path).returncode == 2


def test_what_callers_write_is_no_markup(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"].append({"target": "up/*", "price": "free"})
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("up/[/red] x").status_code == 200
        tollway.admin("POST", "/keys", {"name": "[/red]"})
        tollway.rows(1)
        for command in (("spend",), ("spend", "--last", "5"), ("keys", "list")):
            shown = tollway.cli(*command)
            assert shown.returncode == 0, shown.stderr
            assert "[/red]" in shown.stdout


def test_a_reader_of_the_log_may_leave(upstream: Upstream, tmp_path: Path) -> None:
    tollway = Tollway(tmp_path, provider(upstream.base_url, "m1"))
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", "--port", "0"],
        env=tollway.environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    first = process.stdout.readline().decode()
    process.stdout.close()
    tollway.url = first.split()[2].removesuffix("/v1")
    for _ in range(3):
        assert tollway.chat().status_code == 200
        time.sleep(0.15)  # the log is written ten times a second
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert len(tollway.rows()) == 3


@pytest.mark.parametrize("number", [2**62, 2**63, 10**26])
def test_numbers_beyond_the_ledgers_are_not_found(tollway: Tollway, number: int) -> None:
    url = f"{tollway.url}/admin/v1/budgets/{number}"
    reply = httpx2.patch(url, json={"limit_usd": 1}, headers=BEARER)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert tollway.chat().status_code == 200


def test_admin_paths_have_json_answers(tollway: Tollway) -> None:
    slash = httpx2.get(f"{tollway.url}/admin/v1/keys/", headers=BEARER)
    assert (slash.status_code, slash.json()["error"]["code"]) == (404, "not_found")
    wrong = httpx2.delete(f"{tollway.url}/admin/v1/keys", headers=BEARER)
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) >= {"GET"}


def test_an_injected_maximum_leaves_room_for_the_prompt(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1", "m2")
    config["targets"][0] |= {"context_length": 2000, "max_output_tokens": 1900}
    del config["targets"][1]["max_output_tokens"]
    with serving(tmp_path, config) as tollway:
        messages = [{"role": "user", "content": "word " * 600}]
        assert tollway.chat("up/m1", messages=messages).status_code == 200
        assert upstream.calls[0].body["max_tokens"] <= 2000 - 600
        assert tollway.chat("up/m2").status_code == 200
        assert upstream.calls[1].body["max_tokens"] == 4096


def test_waiting_for_held_money_happens_once_a_request(upstream: Upstream, tmp_path: Path) -> None:
    upstream.scripts["m1"] = _endless
    config = provider(upstream.base_url, "m1", "m2", "m3")
    config["budgets"] = [{"scope": "anonymous", "window": "lifetime", "limit_usd": 0.004}]
    with serving(tmp_path, config) as tollway:
        client = _stream(tollway)
        began = time.monotonic()
        reply = tollway.chat("auto")
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1.5 < time.monotonic() - began < 3.5
        assert reply.headers["retry-after"] == "1"
        client.close()


def test_usage_of_an_answer_without_content_is_charged(upstream: Upstream, tmp_path: Path) -> None:
    async def empty(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": ""}))
        await line.event(usage_chunk(1000, 500))
        await line.end_stream()

    upstream.scripts["m1"] = empty
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        assert tollway.chat("up/m1", stream=True).status_code == 502
        (row,) = tollway.rows()
        assert (row["cost_nanousd"], row["estimated"]) == (1000 * 1000 + 500 * 2000, 0)


def test_overhead_does_not_count_a_target_that_failed_slowly(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def fail_slowly(call: Call, line: Line) -> None:
        await asyncio.sleep(0.5)
        await line.json({"error": {"message": "no"}}, "503 No")

    upstream.scripts["m1"] = fail_slowly
    reply = tollway.chat("auto")
    assert reply.headers["x-tollway-model"] == "up/m2"
    assert float(reply.headers["x-tollway-overhead-ms"]) < 400
    first, second = tollway.rows()[-2:]
    assert [first["status"], second["status"]] == [503, 200]


def test_addresses_upstream_stay_with_the_operator(tollway: Tollway, upstream: Upstream) -> None:
    async def vanish(call: Call, line: Line) -> None:
        line.reset()

    upstream.scripts["m1"] = vanish
    reply = tollway.chat("up/m1")
    assert reply.status_code == 502
    assert str(upstream.port) not in reply.text
    row = tollway.rows()[-1]
    assert (row["status"], row["outcome"]) == (0, "broken")
    assert str(upstream.port) in row["error"]
    time.sleep(0.2)  # the log is written ten times a second
    assert "502  up/m1" in tollway.log()


def test_any_loopback_address_is_local(tollway: Tollway) -> None:
    for host in ("127.0.0.2:4000", "[::1]:4000", "localhost"):
        assert tollway.chat(headers={"host": host}).status_code == 200
    for host in ("127.0.0.1.evil.example", "10.0.0.1", "0x7f.1", ""):
        assert tollway.chat(headers={"host": host}).status_code in (400, 403)


def test_a_key_for_an_alias_sees_its_models(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1", "m2")
    config["targets"][0]["alias"] = ["nick"]
    with serving(tmp_path, config) as tollway:
        key = tollway.admin("POST", "/keys", {"name": "a", "models": ["nick"]})["key"]
        headers = {"authorization": f"Bearer {key}"}
        listed = tollway.get("/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in listed] == ["nick"]
        assert tollway.chat("nick", headers=headers).status_code == 200
        for other in ("auto", "up/m1", "m1", "up/m2"):
            assert tollway.chat(other, headers=headers).status_code == 404
