"""Attacks of docs/security.md that no other file here has: on who is asked, billed and let in."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.e2e.raw import Ended, chat, connect, post
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk

MESSAGES = [{"role": "user", "content": "Hello"}]
POLICIES = ("ordered", "cheapest", "weighted", "balanced")
INPUT_NANOUSD = 1_000  # of a token, as `provider` has it
DISCONNECTS = int(os.environ.get("TOLLWAY_DISCONNECTS", "60"))
IDLE_SOCKETS = int(os.environ.get("TOLLWAY_IDLE_SOCKETS", "300"))

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peaks of memory are read from /proc"
)


@pytest.fixture(scope="module")
def keyed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server with the same two targets behind every policy, and a key that may use all of it."""
    config = provider(upstream.base_url, "m1", "m2", "embed")
    config["targets"][0]["alias"] = ["nickname"]
    for policy in POLICIES:
        config["models"][policy] = {"policy": policy, "targets": ["up/m1", "up/m2"]}
    with serving(tmp_path_factory.mktemp("keyed"), config) as running:
        running.admin("POST", "/keys", {"name": "first"})
        yield running


def make_key(tollway: Tollway, name: str, **settings: Any) -> dict[str, str]:
    """A key, as the header that has it."""
    return bearer(tollway.admin("POST", "/keys", {"name": name, **settings})["key"])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# --- where requests go ---------------------------------------------------------------------


@pytest.mark.negative(number=1)
@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "API_Base"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_no_body_says_where_it_goes(
    tollway: Tollway, upstream: Upstream, path: str, name: str
) -> None:
    with listening() as (address, was_called):
        body = {"model": "up/m1", "messages": MESSAGES, "input": "Hello", "max_tokens": 9}
        reply = tollway.post(path, {**body, name: address})
        assert reply.status_code == 400
        assert name in reply.json()["error"]["message"]
        assert not was_called()
    assert not upstream.calls


@pytest.mark.negative(number=1)
@pytest.mark.parametrize("name", ["api_base", "base_url", "key", "api_key", "access_token"])
def test_no_url_says_where_it_goes_or_who_pays(
    tollway: Tollway, upstream: Upstream, name: str
) -> None:
    with listening() as (address, was_called):
        path = f"/v1/chat/completions?{name}={address}"
        reply = tollway.post(path, {"model": "up/m1", "messages": MESSAGES})
        assert reply.status_code == (400 if name in ("api_base", "base_url") else 401)
        assert not was_called()
    assert not upstream.calls
    harmless = f"/v1/chat/completions?api-version=1&beta=true&{name}x=1"
    assert tollway.post(harmless, {"model": "up/m1", "messages": MESSAGES}).status_code == 200


@pytest.mark.negative(number=1)
@pytest.mark.parametrize("name", ["api_base", "api-base", "x-base-url"])
def test_no_header_says_where_it_goes(tollway: Tollway, upstream: Upstream, name: str) -> None:
    with listening() as (address, was_called):
        reply = tollway.chat("up/m1", headers={name: address})
        assert (reply.status_code, was_called()) == (400, False)
    assert not upstream.calls


@pytest.mark.negative(number=1)
def test_no_form_says_where_it_goes(tollway: Tollway, upstream: Upstream) -> None:
    reply = httpx2.post(
        f"{tollway.url}/v1/audio/transcriptions",
        data={"model": "up/m1", "api_base": "http://127.0.0.1:9"},
        files={"file": ("talk.mp3", b"ID3")},
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "api_base")
    assert not upstream.calls


@pytest.mark.negative(number=2)
def test_no_admin_says_where_requests_go(keyed: Tollway) -> None:
    """Addresses are in the file alone: none can be set, so none has to be vetted."""
    document = keyed.get("/admin/v1/openapi.json", headers=bearer(ADMIN_TOKEN)).json()
    written = {
        name
        for methods in document["paths"].values()
        for operation in methods.values()
        for name in names_of(document, operation.get("requestBody", {}))
    }
    assert {"name", "models", "limit_usd"} <= written
    assert not [n for n in written if re.search("url|uri|base|host|address|endpoint$|hook", n)]


def names_of(document: Any, part: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    """The names of all members that a schema has, in whatever depth."""
    if isinstance(part, list):
        return {name for each in part for name in names_of(document, each, seen)}
    if not isinstance(part, dict):
        return set()
    found = set(part.get("properties", ()))
    if (reference := part.get("$ref")) and reference not in seen:
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        found |= names_of(document, schema, seen | {reference})
    return found.union(*(names_of(document, value, seen) for value in part.values()))


@pytest.mark.negative(number=4)
@pytest.mark.parametrize("adapter", ["openai_compatible", "anthropic", "gemini", "ollama"])
def test_nothing_that_a_prompt_names_is_fetched(
    upstream: Upstream, tmp_path: Path, adapter: str
) -> None:
    config = provider(upstream.base_url, "m1", adapter=adapter)
    config["targets"][0]["capabilities"] = ["chat", "vision", "files"]
    with serving(tmp_path, config) as tollway, listening() as (address, was_called):
        image = {"type": "image_url", "image_url": {"url": f"{address}/latest/meta-data"}}
        file = {"type": "file", "file": {"file_data": f"{address}/secret.pdf"}}
        for part in (image, file):
            text = {"type": "text", "text": f"Look at {address}"}
            message = {"role": "user", "content": [text, part]}
            assert tollway.chat("up/m1", messages=[message]).status_code < 503
        assert not was_called()


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, Any]]:
    """An address on this machine, and whether anybody has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def was_called() -> bool:
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                return True
            return False

        yield f"http://127.0.0.1:{server.getsockname()[1]}", was_called


# --- who asks ------------------------------------------------------------------------------


@pytest.mark.negative(number=7)
def test_a_key_is_the_same_by_whichever_header(keyed: Tollway) -> None:
    limited = {"name": "limited", "requests_per_minute": 3}
    key = keyed.admin("POST", "/keys", limited)["key"]
    names = ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"api-key": key})
    assert [keyed.chat("up/m1", headers=header).status_code for header in names] == [200] * 3
    assert [keyed.chat("up/m1", headers=header).status_code for header in names] == [429] * 3


@pytest.mark.negative(number=11)
def test_a_callers_key_opens_no_admin_path(keyed: Tollway) -> None:
    own = make_key(keyed, "curious", models=["ordered"])
    document = keyed.get("/admin/v1/openapi.json", headers=bearer(ADMIN_TOKEN)).json()
    asked = [
        (method, re.sub(r"{\w+}", "1", path))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["tags"] != ["callers"]
    ]
    wider = {"name": "wider", "models": [], "budget_usd": 1_000_000, "max_budget": 1_000_000}
    assert len(asked) > 40
    for method, path in asked:
        reply = httpx2.request(method, keyed.url + path, headers=own, json=wider)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden"), path
    assert keyed.get("/metrics", headers=own).status_code == 403
    gone = keyed.admin("POST", "/keys", {"name": "gone"})
    keyed.admin("DELETE", f"/keys/{gone['id']}")
    assert keyed.get("/admin/v1/keys", headers=bearer(gone["key"])).status_code == 401


@pytest.mark.negative(number=13)
def test_nobody_is_billed_by_who_a_request_says_it_is(keyed: Tollway) -> None:
    team = keyed.admin("POST", "/teams", {"name": "rich"})["id"]
    victim = keyed.admin("POST", "/keys", {"name": "victim", "team_id": team})["id"]
    own = keyed.admin("POST", "/keys", {"name": "attacker"})
    headers = bearer(own["key"])
    for user, tag in ((f"key:{victim}", f"team:{team}"), (victim, "global"), (team, team)):
        said = {"user": user, "metadata": {"tags": [tag], "team_id": team, "key": victim}}
        assert keyed.chat("up/m1", headers=headers, **said).status_code == 200
        more = {"x-tollway-user": user, "x-tollway-tags": tag, "x-team-id": team}
        assert keyed.chat("up/m1", headers=headers | more).status_code == 200
    rows = [row for row in keyed.rows(6) if row["key_id"] == own["id"]]
    assert len(rows) == 6
    for row in rows:
        scopes = json.loads(row["scopes"])
        assert f"key:{own['id']}" in scopes
        assert f"key:{victim}" not in scopes
        assert f"team:{team}" not in scopes


@pytest.mark.negative(number=14)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/batches",
        "/v1/assistants",
        "/v1/fine_tuning/jobs",
        "/v1/images/edits",
        "/v1/audio/translations",
        "/v1/realtime",
        "/v1/chat/completions/",
        "/openai/deployments/m1/chat/completions",
        "/v1beta/models/m1:generateContent",
        "/anthropic/v1/messages",
        "/up/v1/chat/completions",
    ],
)
def test_what_has_no_price_has_no_path(keyed: Tollway, upstream: Upstream, path: str) -> None:
    headers = make_key(keyed, "budgeted", budget_usd=1)
    reply = keyed.post(path, {"model": "up/m1", "messages": MESSAGES}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert not upstream.calls


@pytest.mark.negative(number=15)
@pytest.mark.parametrize("name", ["../../x", "a\r\nx-evil: 1", "\0", "x" * 1_000_000])
def test_no_models_name_gets_into_a_header_or_the_log(tollway: Tollway, name: str) -> None:
    reply = tollway.chat(name)
    assert reply.status_code == 404
    assert len(reply.content) < 1_000
    assert not {"\r", "\0"}.intersection(reply.text)
    assert name not in str(reply.headers)
    assert "evil" not in str(reply.headers)
    assert name not in tollway.log()


@pytest.mark.negative(number=16)
@pytest.mark.parametrize(
    "name",
    ["up/m1", "up/m2", "m2", "nickname", "up/*", "ordered/0", "ordered[1]", "1", "tier:best"],
)
def test_what_a_virtual_model_is_made_of_is_not_there(
    keyed: Tollway, upstream: Upstream, name: str
) -> None:
    own = make_key(keyed, "narrow", models=["ordered"])
    unknown = keyed.chat("nobody", headers=own).json()["error"]["message"]
    reply = keyed.chat(name, headers=own)
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == unknown.replace("nobody", name)
    listed = [model["id"] for model in keyed.get("/v1/models", headers=own).json()["data"]]
    assert listed == ["ordered"]
    assert keyed.get(f"/v1/models/{name}", headers=own).status_code == 404
    assert keyed.chat("ordered", headers=own, models=["ordered", name]).status_code == 404
    assert not upstream.calls


@pytest.mark.negative(number=17)
@pytest.mark.parametrize("text", ["{{7*7}}", "${ENV}", "%s%n%x", "{0.__class__}", "<%= 7*7 %>"])
def test_templates_are_only_text(tollway: Tollway, upstream: Upstream, text: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": text}}]
    said = {"user": text, "tools": tools, "stop": [text], "metadata": {"note": text}}
    messages = [{"role": "user", "name": "a", "content": text}]
    assert tollway.chat("up/m1", messages=messages, **said).status_code == 200
    (call,) = upstream.calls
    assert call.body["messages"] == messages
    assert {name: call.body[name] for name in said} == said
    assert repr(text)[1:-1] in tollway.chat(text).json()["error"]["message"]


# --- how much it takes ---------------------------------------------------------------------


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that the process has had since `forget_peak`."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def forget_peak(process: psutil.Process) -> int:
    """Begin anew with what the process has now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return peak_bytes(process)


@needs_proc
@pytest.mark.negative(number=20)
def test_a_bomb_is_never_in_memory(tollway: Tollway, upstream: Upstream) -> None:
    (worker,) = tollway.workers()
    bomb = gzip.compress(b"x" * (256 << 20))
    url, headers = f"{tollway.url}/v1/chat/completions", {"content-encoding": "gzip"}
    for _ in range(2):  # the first may load what a worker begins with
        before_bytes = forget_peak(worker)
        reply = httpx2.post(url, content=bomb, headers=headers, timeout=60)
        assert reply.status_code == 413
    assert peak_bytes(worker) - before_bytes < 16 << 20
    body = chat("y" * (20 << 20), model="auto")
    large = httpx2.post(url, content=gzip.compress(body), headers=headers, timeout=60)
    assert large.status_code == 400, large.text
    assert not upstream.calls


@needs_proc
@pytest.mark.negative(number=19)
def test_a_body_without_end_is_not_kept(tollway: Tollway) -> None:
    (worker,) = tollway.workers()
    before_bytes = forget_peak(worker)
    with connect(tollway) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        client.send(b"transfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        with contextlib.suppress(Ended):
            assert client.reply().status == 413
    assert peak_bytes(worker) - before_bytes < 128 << 20


@needs_proc
@pytest.mark.negative(number=21)
@pytest.mark.parametrize("shape", ["line", "answer", "headers", "bomb"])
def test_an_answer_without_end_is_given_up(
    tollway: Tollway, upstream: Upstream, shape: str
) -> None:
    piece = b"x" * (1 << 20)
    bomb = gzip.compress(piece * 256)

    async def endless(call: Call, line: Line) -> None:
        if shape == "bomb":
            await line.json(bomb, headers="content-encoding: gzip\r\n")
        elif shape == "headers":
            await line.send(b"HTTP/1.1 200 OK\r\n" + b"x-a: 1\r\n" * 100_000)
        elif shape == "answer":
            await line.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        else:
            await line.start_stream()
            await line.chunk(b"data: ")
        for _ in range(1 << 10):
            await (line.send(piece) if shape == "answer" else line.chunk(piece))

    upstream.scripts["m1"] = endless
    (worker,) = tollway.workers()
    tollway.chat("up/m2")
    before_bytes = forget_peak(worker)
    reply = tollway.chat("up/m1", stream=shape == "line")
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
    assert peak_bytes(worker) - before_bytes < 200 << 20


@pytest.mark.negative(number=24)
def test_idle_sockets_harm_nobody(upstream: Upstream, tmp_path: Path) -> None:
    """`make chaos` has five thousand of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE_SOCKETS + 100:
        pytest.skip(f"{IDLE_SOCKETS} sockets are more than the {hard} files that may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, IDLE_SOCKETS + 1_000)), hard))
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        alone_ms = healthy_ms(tollway)
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE_SOCKETS):
                stack.enter_context(connect(tollway))
            beside_ms = healthy_ms(tollway)
            assert tollway.chat("up/m1").status_code == 200
        print(  # shown by `pytest -rP`
            f"{IDLE_SOCKETS} idle sockets: p99 of /healthz {beside_ms:.1f} ms, "
            f"{alone_ms:.1f} ms without them"
        )


def healthy_ms(tollway: Tollway) -> float:
    """The slowest but one of a hundred health checks."""
    with httpx2.Client() as client:
        replies = [client.get(f"{tollway.url}/healthz") for _ in range(100)]
    assert {reply.status_code for reply in replies} == {200}
    return sorted(reply.elapsed.total_seconds() * 1e3 for reply in replies)[-2]


@pytest.mark.negative(number=34)
def test_what_callers_write_is_no_metric(keyed: Tollway) -> None:
    def series() -> set[str]:
        lines = keyed.get("/metrics", headers=bearer(ADMIN_TOKEN)).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    own = make_key(keyed, "inventive")

    def ask(word: str) -> None:
        keyed.chat("up/m1", headers=own, user=word, metadata={"tags": [word]})
        keyed.chat(word, headers=own)
        keyed.get(f"/{word}", headers=own)
        keyed.get(f"/v1/models/{word}", headers=own)

    ask("word")
    series()  # is counted itself
    before = series()
    for number in range(20):
        ask(f"word-{number}")
    assert series() == before


# --- money ---------------------------------------------------------------------------------


@pytest.mark.negative(number=27)
def test_a_maximum_that_is_null_is_none(tollway: Tollway, upstream: Upstream) -> None:
    """SDKs send it, and OpenAI takes it: the most that the target can say is held."""
    assert tollway.chat("up/m1", max_tokens=None).status_code == 200
    assert tollway.chat("up/m1").status_code == 200
    null, absent = [row["hold_nanousd"] for row in tollway.rows(2)[-2:]]
    assert 0 < absent <= null + INPUT_NANOUSD * 100
    assert null >= 2 * INPUT_NANOUSD * 1_000


@pytest.mark.negative(number=27)
def test_of_two_maxima_the_larger_is_held_and_both_are_sent(
    tollway: Tollway, upstream: Upstream
) -> None:
    holds = []
    for less, more in ((5, 500), (500, 5), (500, 500)):
        maxima = {"max_tokens": less, "max_completion_tokens": more}
        assert tollway.chat("up/m1", **maxima).status_code == 200
        assert {name: upstream.calls[-1].body[name] for name in maxima} == maxima
        holds.append(tollway.rows(1)[-1]["hold_nanousd"])
    assert max(holds) - min(holds) < 100 * INPUT_NANOUSD
    assert min(holds) >= 500 * 2 * INPUT_NANOUSD


@pytest.mark.negative(number=32)
def test_of_keys_only_digests_are_kept(keyed: Tollway) -> None:
    made = keyed.admin("POST", "/keys", {"name": "kept"})
    rotated = keyed.admin("POST", f"/keys/{made['id']}/rotate", {"overlap_s": 60})
    files = [path for path in keyed.data.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        for key in (made["key"], rotated["key"]):
            assert key.encode() not in path.read_bytes(), path


@pytest.mark.negative(number=35)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "responses"])
def test_the_verdict_is_the_same_however_it_is_asked_for(
    keyed: Tollway, upstream: Upstream, path: str, stream: bool
) -> None:
    """Policies, names of one target and dialects are no way around what a key may."""
    names = (*POLICIES, "up/m1", "m1", "nickname")
    common = {"messages": MESSAGES, "input": "Hello", "prompt": "Hello"}
    wanted = {"chat/completions": "messages", "messages": "messages", "responses": "input"}
    said = wanted.get(path, "prompt")
    body = {said: common[said], "stream": stream}
    body["max_output_tokens" if path == "responses" else "max_tokens"] = 16
    paid = make_key(keyed, "paid")
    verdicts = (
        (make_key(keyed, "spent", budget_usd=0.000001), 429),
        (make_key(keyed, "narrow", models=["auto"]), 404),
        (make_key(keyed, "elsewhere", endpoints=["embeddings"]), 403),
        ({}, 401),
        (bearer("sk-tw-nobody"), 401),
        (paid | {"api-base": "http://127.0.0.1:9"}, 400),
    )
    for name in names:
        for headers, status in verdicts:
            reply = keyed.post(f"/v1/{path}", {"model": name, **body}, headers=headers)
            assert reply.status_code == status, f"{name}: {reply.text}"
        assert not upstream.calls
        reply = keyed.post(f"/v1/{path}", {"model": name, **body}, headers=paid)
        assert reply.status_code == 200, f"{name}: {reply.text}"
        upstream.calls.clear()


@pytest.mark.negative(number=36)
def test_who_leaves_is_billed_for_what_was_read(upstream: Upstream, tmp_path: Path) -> None:
    """`make chaos` has a thousand who leave: before the first byte, or behind it."""
    arrived = threading.Semaphore(0)

    async def slow(call: Call, line: Line) -> None:
        if call.body["stream"]:
            await line.start_stream()
            await line.event(chunk({"role": "assistant", "content": "word"}))
        arrived.release()
        await line.until_closed()

    upstream.scripts["m1"] = slow
    config = provider(upstream.base_url, "m1", meterable=True)
    config["server"]["hear_out_s"] = 0.5
    with serving(tmp_path, config, "--workers", "2") as tollway:
        for number in range(DISCONNECTS):
            with connect(tollway) as client:
                client.send(post(chat("word " * 1_000, stream=number % 2 == 0)))
                assert arrived.acquire(timeout=60)
        rows = tollway.rows(DISCONNECTS)
        assert [row["outcome"] for row in rows] == ["client_gone"] * DISCONNECTS
        assert min(row["cost_nanousd"] for row in rows) >= 1_000 * INPUT_NANOUSD
        assert not [row for row in rows if row["overrun_nanousd"]]


# --- pages ---------------------------------------------------------------------------------


@pytest.mark.negative(number=39)
def test_no_browser_runs_or_frames_what_the_admin_api_says(tollway: Tollway) -> None:
    name = "<script>alert(1)</script>"
    tollway.admin("POST", "/keys", {"name": name})
    for path in ("/keys", "/openapi.json", "/nowhere"):
        reply = tollway.get(f"/admin/v1{path}", headers=bearer(ADMIN_TOKEN))
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]


@pytest.mark.negative(number=39)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_foreign_page_can_change_nothing(tollway: Tollway, content_type: str) -> None:
    """These are what a form can send without being asked first; no browser adds our token."""
    before = tollway.admin("GET", "/keys")
    headers = {
        "origin": "https://evil.example",
        "content-type": content_type,
        "cookie": f"token={ADMIN_TOKEN}",
    }
    reply = tollway.post("/admin/v1/keys", {"name": "forged"}, headers=headers)
    assert reply.status_code == 401
    assert tollway.admin("GET", "/keys") == before
