"""Another configuration in a server that serves: nothing is cut, and all of it is followed."""

from __future__ import annotations

import asyncio
import copy
import os
import pty
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.ledger.audit import audit
from tests.e2e.test_local_models import Machine, streaming
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk
from tests.proxy.model_host.model_server import OLLAMA_MODEL, ollama
from tests.waiting import is_alive, until

# `make chaos` sets them: 100 reloads under 500 streams.
RELOADS = int(os.environ.get("TOLLWAY_RELOADS", "20"))
STREAMS = int(os.environ.get("TOLLWAY_RELOAD_STREAMS", "100"))
WITHIN_S = 60.0
BEARER = {"authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture
def running(upstream: Upstream, tmp_path: Path) -> Iterator[Tollway]:
    with serving(tmp_path, provider(upstream.base_url, "m1"), "--workers", "2") as tollway:
        yield tollway


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "models"
    folder.mkdir()
    return Machine(folder)


def changed(config: dict[str, Any], number: int) -> dict[str, Any]:
    """The same model and provider, and something else in almost every section."""
    config = copy.deepcopy(config)
    config["server"] |= {"access_log": bool(number % 2), "max_concurrent": 5_000 + number}
    config["providers"]["other"] = {"base_url": f"http://127.0.0.1:9/{number}", "api_key": "x"}
    price = {"input": 1, "output": 2}
    config["targets"].append({"target": "other/x", "price": price, "max_output_tokens": 9})
    config["models"][f"model-{number}"] = {"targets": ["other/x", "up/m1"]}
    config["budgets"] = [{"scope": "global", "limit_usd": 1_000 + number, "window": "month"}]
    config["alerts"] = {"percents": [50 + number % 50], "webhooks": []}
    config["responses"] = {"days": 1 + number % 3}
    return config


class Streams:
    """Streams that go on until they are told to end."""

    def __init__(self, upstream: Upstream) -> None:
        self._ended = threading.Event()
        upstream.scripts["m1"] = self._answer

    async def _answer(self, call: Call, line: Line) -> None:
        if not call.body.get("stream"):
            await line.json(completion())
            return
        await line.start_stream()
        while not self._ended.is_set():
            await line.event(chunk({"content": "word "}))
            await asyncio.sleep(0.2)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk(11, 7))
        await line.end_stream()

    def end(self) -> None:
        self._ended.set()


def footprint(tollway: Tollway) -> dict[str, tuple[int, int]]:
    """File descriptors and memory in MB of the supervisor and its children.

    With what they share: a page that becomes a process's own is no growth.
    """
    processes = [psutil.Process(tollway.pid), *sorted(tollway.children(), key=lambda p: p.pid)]
    return {
        f"{number}": (each.num_fds(), each.memory_info().rss >> 20)
        for number, each in enumerate(processes)
    }


@pytest.mark.resilience(row="reloads")
def test_no_stream_is_cut_and_no_request_fails(upstream: Upstream, tmp_path: Path) -> None:
    streams = Streams(upstream)
    config = provider(upstream.base_url, "m1")
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}

    async def stream(client: httpx2.AsyncClient, url: str) -> str:
        reply = await client.post(f"{url}/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return reply.text

    async def ask_again_and_again(client: httpx2.AsyncClient, url: str, done: asyncio.Event) -> int:
        asked = 0
        while not done.is_set():
            whole = {**body, "stream": False}
            reply = await client.post(f"{url}/v1/chat/completions", json=whole)
            assert reply.status_code == 200, reply.text
            asked += 1
        return asked

    async def everybody(tollway: Tollway) -> tuple[list[str], int]:
        limits = httpx2.Limits(max_connections=STREAMS + 10)
        async with httpx2.AsyncClient(timeout=WITHIN_S * 5, limits=limits) as client:
            running = [asyncio.create_task(stream(client, tollway.url)) for _ in range(STREAMS)]
            await asyncio.to_thread(upstream.wait_for_calls, STREAMS, WITHIN_S)
            done = asyncio.Event()
            asking = asyncio.create_task(ask_again_and_again(client, tollway.url, done))
            for number in range(3):  # what is made once, at the first reloads, is no growth
                await asyncio.to_thread(tollway.reload, changed(config, number))
            before = footprint(tollway)
            for number in range(3, RELOADS + 3):
                shown = await asyncio.to_thread(tollway.reload, changed(config, number))
                assert shown["revision"] == number + 1
                assert shown["problems"] == []
            after = footprint(tollway)
            print(f"{STREAMS} streams, {RELOADS} reloads: {before} -> {after}")
            for process, (descriptors, megabytes) in after.items():
                assert descriptors <= before[process][0] + 10
                # The first reloads take some, once: see the next test.
                assert megabytes <= before[process][1] + 15 + RELOADS // 10
            done.set()
            asked = await asking
            streams.end()
            return await asyncio.gather(*running), asked

    with serving(tmp_path, config, "--workers", "2") as tollway:
        answers, asked = asyncio.run(everybody(tollway))
        assert len(answers) == STREAMS
        for answer in answers:
            received = events(answer)
            assert received[-1] == "[DONE]"
            assert not [event for event in received[:-1] if "error" in event]
        rows = tollway.rows(STREAMS + asked)
        assert {row["outcome"] for row in rows} == {"ok"}
        assert {row["revision"] for row in rows} >= {0, RELOADS}
        assert audit(tollway.data / "ledger.db") == []


def test_what_works_beside_requests_is_there_once_however_often_it_is_reloaded(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1", "m2", adaptive={})
    checked = {"name": "cascade", "regex": "^Hello"}
    config["models"]["checked"] = {"targets": ["up/m1", "up/m2"], "policy": checked}

    with serving(tmp_path, config) as tollway:

        def works() -> tuple[int, ...]:
            """Processes, descriptors and threads of the worker, once it has checked an answer."""
            assert tollway.chat("checked").headers["x-tollway-model"] == "up/m1"
            [worker] = [each for each in tollway.workers() if each.children()]
            return len(worker.children()), worker.num_fds(), worker.num_threads()

        before = after = works()
        for number in range(13):
            tollway.reload(changed(config, number))
            after = works()
            if number < 3:  # what is made once, at the first reloads, is no growth
                before = after
        assert after[0] == before[0] == 1
        assert after[1] <= before[1] + 2
        assert after[2] <= before[2] + 1


def test_what_is_served_no_more_takes_nothing(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1")
    with serving(tmp_path, config) as tollway:
        for number in range(30):
            tollway.reload(changed(config, number))
            assert tollway.chat("auto").status_code == 200  # the first one takes memory for good
        before = footprint(tollway)
        for number in range(30, 70):
            tollway.reload(changed(config, number))
            assert tollway.chat("auto").status_code == 200
        after = footprint(tollway)
        for process, (descriptors, megabytes) in after.items():
            assert descriptors <= before[process][0] + 10
            assert megabytes <= before[process][1] + 6  # a seventh of a megabyte for each


def test_a_request_keeps_the_revision_that_it_came_to(upstream: Upstream, tmp_path: Path) -> None:
    let_fail = threading.Event()

    async def fail_late(call: Call, line: Line) -> None:
        await asyncio.to_thread(let_fail.wait, WITHIN_S)
        await line.json({"error": {"message": "no"}}, "503 Service Unavailable")

    upstream.scripts["m1"] = fail_late
    config = provider(upstream.base_url, "m1")
    second = {**config["providers"]["up"], "headers": {"x-second": "yes"}}
    config["providers"]["second"] = second
    config["targets"].append({**config["targets"][0], "target": "second/m2"})
    config["models"]["auto"]["targets"].append("second/m2")
    later = provider(upstream.base_url, "m3")
    with serving(tmp_path, config) as tollway:
        replies: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: replies.append(tollway.chat("auto")))
        asking.start()
        upstream.wait_for_calls(1, WITHIN_S)
        tollway.reload(later)
        assert tollway.chat("auto").headers["x-tollway-model"] == "up/m3"
        assert tollway.chat("second/m2").status_code == 404
        let_fail.set()
        asking.join()
        assert replies[0].headers["x-tollway-model"] == "second/m2"
        assert upstream.calls[-1].headers["x-second"] == "yes"
        revisions = {row["target"]: row["revision"] for row in tollway.rows(3)}
        assert revisions == {"up/m1": 0, "second/m2": 0, "up/m3": 1}


def test_a_provider_that_did_not_change_keeps_its_connections(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1")
    with serving(tmp_path, config) as tollway:
        tollway.chat("up/m1")
        (kept,) = upstream.connections()
        tollway.reload(changed(config, 1))
        tollway.chat("up/m1")
        assert upstream.connections() == {kept}
        config["providers"]["up"]["api_key"] = "sk-another"
        tollway.reload(config)
        tollway.chat("up/m1")
        assert upstream.calls[-1].headers["authorization"] == "Bearer sk-another"
        # Those of the provider that was are closed when nobody uses them any more.
        until(lambda: kept not in upstream.connections(), told=tollway.log)


def limits(tollway: Tollway) -> list[tuple[object, ...]]:
    shown = tollway.admin("GET", "/budgets")["data"]
    return sorted((b["scope"], b["limit_usd"], b["window"], b["managed"]) for b in shown)


def test_what_is_invalid_is_refused_and_changes_nothing(
    upstream: Upstream, running: Tollway
) -> None:
    streams = Streams(upstream)
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    before = limits(running)
    good = running.config.read_text()
    bad = {
        "models: {auto: {targets: [up/none]}}": "targets",
        "server: {prot: 1}": "prot",
        "providers: {up: {base_url: '${NOT_SET_ANYWHERE}'}}": "NOT_SET_ANYWHERE",
        "providers: {up: {base_url: 'http://x/v1', ca_bundle: /nowhere.pem}}": "providers.up",
        "budgets: [{scope: nonsense, limit_usd: 1}]": "budgets",
        "a: [": "YAML",
        "": "",
    }
    with httpx2.stream(
        "POST", f"{running.url}/v1/chat/completions", json=body, timeout=60
    ) as reply:
        assert reply.status_code == 200
        for text, hint in bad.items():
            running.config.write_text(text)
            if not text:
                running.config.unlink()
            refused = httpx2.post(f"{running.url}/admin/v1/reload", headers=BEARER, timeout=60)
            assert refused.status_code == 400, text
            message = refused.json()["error"]["message"]
            assert str(running.config) in message
            assert hint in message
        assert running.admin("GET", "/reload")["revision"] == 0
        assert limits(running) == before
        assert running.chat("auto").status_code == 200
        streams.end()
        reply.read()
        assert reply.text.endswith("data: [DONE]\n\n")
    running.config.write_text(good)
    assert running.admin("POST", "/reload")["revision"] == 1


def test_what_needs_a_restart_is_named_and_the_rest_is_followed(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1", "m2")
    with serving(tmp_path, config) as tollway:  # TOLLWAY_DATA and --port override the file
        config["server"] |= {"workers": 7, "host": "::1", "synchronous": "NORMAL", "data": "x"}
        config["models"]["named"] = {"targets": ["up/m2"]}
        tollway.configure(config)
        checked = tollway.admin("POST", "/reload", {"check": True})
        names = ["server.host", "server.workers", "server.synchronous"]
        assert (checked["revision"], checked["needs_restart"]) == (0, names)
        assert tollway.chat("named").status_code == 404
        assert tollway.admin("POST", "/reload")["needs_restart"] == names
        assert tollway.chat("named").status_code == 200
        assert len(tollway.workers()) == 1
        # It stays true, as long as nobody starts it again.
        assert tollway.admin("POST", "/reload")["needs_restart"] == names
        assert tollway.admin("GET", "/reload")["needs_restart"] == names


def test_every_way_to_ask_for_it(upstream: Upstream, running: Tollway) -> None:
    config = provider(upstream.base_url, "m1", "m2")
    running.configure(config)
    done = running.cli("reload", "--check")
    assert (done.returncode, running.admin("GET", "/reload")["revision"]) == (0, 0)
    done = running.cli("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert "revision 1 of" in done.stdout
    os.kill(running.pid, signal.SIGHUP)
    until(
        lambda: "tollway_config_revision 2.0" in running.get("/metrics", headers=BEARER).text,
        told=running.log,
    )
    assert len(re.findall("revision 2 of .* is served", running.log())) == 2
    config["server"]["reload"] = "auto"
    running.reload(config)
    config["models"]["late"] = {"targets": ["up/m2"]}
    running.configure(config)
    until(lambda: running.chat("late").status_code == 200, told=running.log)
    running.config.write_text("models: nonsense")
    until(lambda: "not reloaded: " in running.log(), told=running.log)
    assert running.cli("reload").returncode == 2
    assert running.chat("late").status_code == 200


def test_nobody_to_ask_is_said_in_one_line(tmp_path: Path) -> None:
    done = Tollway(tmp_path, {}).cli("reload")
    assert done.returncode == 2
    assert "no server of this data folder answers" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_worker_that_is_started_again_has_the_newest_revision(
    upstream: Upstream, running: Tollway
) -> None:
    config = provider(upstream.base_url, "m1")
    config["models"]["new"] = {"targets": ["up/m1"]}
    running.reload(config)
    for worker in running.workers():
        worker.kill()
    running.admin("POST", "/reload")  # nobody is waited for who is gone
    until(lambda: len(running.workers()) == 2, told=running.log)
    for _ in range(10):
        assert running.chat("new").status_code == 200


def test_a_server_that_looked_at_nothing_begins_to_and_ends(
    upstream: Upstream, running: Tollway
) -> None:
    config = provider(upstream.base_url, "m1")
    with ollama(OLLAMA_MODEL) as server:
        with_it = copy.deepcopy(config) | {"host": {"discovery_s": 0.2}}
        with_it["providers"]["near"] = {"adapter": "ollama", "base_url": server.url}
        with_it["targets"].append({"target": "near/*", "price": "free"})
        running.reload(with_it)
        name = f"near/{OLLAMA_MODEL['name']}"
        until(lambda: running.get(f"/v1/models/{name}").status_code == 200, told=running.log)
        assert running.admin("GET", "/models")["found"]
        running.reload(config)
        assert running.admin("GET", "/models")["found"] == []
        assert running.get(f"/v1/models/{name}").status_code == 404
        running.reload(with_it)
        until(lambda: running.get(f"/v1/models/{name}").status_code == 200, told=running.log)


def test_local_models_that_did_not_change_stay_loaded(machine: Machine, tmp_path: Path) -> None:
    kept, gone, new = (
        {"target": f"local/{name}", "model": machine.model(f"{name}.gguf")}
        for name in ("kept", "gone", "new")
    )
    config = machine.config(kept, gone)
    with serving(tmp_path, config, "--workers", "2") as tollway, ExitStack() as streams:
        lines = [streams.enter_context(streaming(tollway, f"local/{n}")) for n in ("kept", "gone")]
        for each in lines:
            next(each)
        assert sorted(machine.loads) == ["gone", "kept"]
        tollway.reload(machine.config(kept, new, max_loaded=2, ttl_s=100))
        assert tollway.admin("GET", "/models")["max_loaded"] == 2
        assert tollway.chat("local/gone").status_code == 404
        for each in lines:  # whoever has begun is heard out
            assert [next(each) for _ in range(10)]
        assert tollway.chat("local/kept").status_code == 200
        assert len(machine.alive()) == 2
        streams.close()
        until(lambda: len(machine.alive()) == 1, told=tollway.log)
        assert tollway.chat("local/new").status_code == 200
        assert sorted(machine.loads) == ["gone", "kept", "new"]


def test_closing_its_terminal_ends_it(upstream: Upstream, tmp_path: Path) -> None:
    tollway = Tollway(tmp_path, provider(upstream.base_url, "m1"))
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "proxy", "serve", "--port", "0"]
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started with
        os.execve(sys.executable, command, tollway.environ)
    shown = b""
    deadline = time.monotonic() + WITHIN_S
    while b"Try it" not in shown:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096)
    os.kill(pid, signal.SIGHUP)  # with the terminal still there: it reads its file again
    while b"is served" not in shown:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096)
    children = psutil.Process(pid).children()
    os.close(terminal)
    until(lambda: not is_alive(pid))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    psutil.wait_procs(children, timeout=WITHIN_S)
    assert not [child for child in children if child.is_running()]


# --- whatever is edited ---------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], None]


def _set(*path: str, value: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        inner = config
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value

    return edit


def _without(section: str, name: str) -> Edit:
    return lambda config: config[section].pop(name, None)


_NAMES = st.sampled_from(["auto", "cheap", "own"])
_TARGETS = st.lists(
    st.sampled_from(["up/m1", "up/m2", "up/m3"]), min_size=1, max_size=3, unique=True
)
_EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(
        lambda name, targets, policy: _set(
            "models", name, value={"targets": targets, "policy": policy}
        ),
        _NAMES,
        _TARGETS,
        st.sampled_from(["ordered", "cheapest"]),
    ),
    st.builds(lambda name: _without("models", name), _NAMES),
    st.builds(
        lambda usd, scope: _set(
            "budgets", value=[{"scope": scope, "limit_usd": usd, "window": "lifetime"}]
        ),
        st.sampled_from([0, 5, 10]),
        st.sampled_from(["global", "anonymous", "model:auto", "target:up/m2"]),
    ),
    st.just(_set("budgets", value=[])),
    st.builds(
        lambda number, price: lambda config: config["targets"][number].update(price=price),
        st.integers(0, 2),
        st.sampled_from([{"input": 3, "output": 4}, {"input": 1, "output": 1}, "free"]),
    ),
    st.builds(
        lambda limits: _set("providers", "up", "limits", value=limits),
        st.sampled_from([{}, {"concurrent": 3}, {"requests_per_minute": 10_000}]),
    ),
    st.builds(lambda on: _set("server", "open_metrics", value=on), st.booleans()),
    st.builds(lambda mb: _set("server", "max_body_mb", value=mb), st.sampled_from([1, 32])),
    st.builds(lambda on: _set("drop_params", value=on), st.booleans()),
    st.builds(lambda on: _set("responses", value={"store": on}), st.booleans()),
    st.just(lambda config: config["models"].update(wrong={"targets": ["no/thing"]})),
    st.just(_without("models", "wrong")),
)


def is_wrong(config: dict[str, Any]) -> bool:
    """Whether what edits have left is refused: a target, or a model of a budget, is not there."""
    models = config["models"]
    return "wrong" in models or any(
        each["scope"] == "model:auto" and "auto" not in models for each in config.get("budgets", ())
    )


def behaviour(tollway: Tollway) -> dict[str, Any]:
    """What callers and operators can see of a configuration, without asking a provider."""
    models = tollway.get("/v1/models").json()["data"]
    shown: dict[str, Any] = {"models": [{**each, "created": 0} for each in models]}
    for name in ("auto", "cheap", "own", "up/m1", "up/m2", "up/m3"):
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        route = tollway.post("/v1/route", body).json()
        shown[f"route {name}"] = (
            [choice["target"] for choice in route.get("choices", ())],
            [rejection["target"] for rejection in route.get("rejections", ())],
            route.get("policy"),
            route.get("budget_left"),
        )
        chat = tollway.chat(name, top_k=3)
        cost = chat.headers.get("x-tollway-cost-usd")
        shown[f"chat {name}"] = chat.status_code, chat.headers.get("x-tollway-model"), cost
    stored = tollway.post("/v1/responses", {"model": "up/m1", "input": "Hello"}).json()
    shown["stored"] = (
        tollway.get(f"/v1/responses/{stored['id']}").status_code if "id" in stored else 0
    )
    shown["metrics"] = tollway.get("/metrics").status_code
    large = tollway.chat("up/m1", messages=[{"role": "user", "content": "x" * (2 << 20)}])
    shown["large"] = large.status_code
    shown["budgets"] = limits(tollway)
    return shown


@settings(
    max_examples=int(os.environ.get("TOLLWAY_RELOAD_EXAMPLES", "5")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(edits=st.lists(st.lists(_EDITS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_after_any_edits_it_is_as_if_started_anew(
    edits: list[list[Edit]], upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    upstream.scripts.clear()
    config = provider(upstream.base_url, "m1", "m2", "m3")
    with serving(tmp_path_factory.mktemp("old"), config) as old:
        served, revision = copy.deepcopy(config), 0
        for several in edits:
            for edit in several:
                edit(config)
            old.configure(config)
            reply = httpx2.post(f"{old.url}/admin/v1/reload", headers=BEARER, timeout=60)
            if reply.status_code == 200:
                served, revision = copy.deepcopy(config), revision + 1
            else:
                assert is_wrong(config), reply.text
            assert old.admin("GET", "/reload")["revision"] == revision
        with serving(tmp_path_factory.mktemp("new"), served) as new:
            assert behaviour(old) == behaviour(new)
