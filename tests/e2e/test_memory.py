"""What an idle worker has in memory: nothing that only a few installations or commands need."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MOST_BYTES = 60_000_000
LARGE = 1_000_000
# Each takes megabytes, or a tenth of a second of the start; most are there only by an extra.
HEAVY = frozenset(
    [
        "botocore",
        "genai_prices",
        "google",
        "httpx2",
        "jsonschema",
        "llama_cpp",
        "mlx",
        "numpy",
        "pyarrow",
        "pydantic",
        "requests",
        "safetensors",
        "sqlite_utils",
        "tokenizers",
    ]
)
# Python runs it at every start: whatever is imported later is written down, with its process; and
# that all cycles were looked for, when it is told to.
TELL = """
import gc, os, signal, sys
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def tell(event, arguments):
    if event == "import":
        os.write(told, b"%d %b\\n" % (os.getpid(), arguments[0].encode()))
sys.addaudithook(tell)
def collect(*_):
    gc.collect()
    os.write(told, b"%d collected\\n" % os.getpid())
signal.signal(signal.SIGUSR2, collect)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that gets the names of modules."""
    return tmp_path_factory.mktemp("told") / "modules"


@pytest.fixture(scope="module")
def used(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, told: Path
) -> Iterator[Tollway]:
    """A server that has answered some requests, so that what is made once is there."""
    (told.parent / "sitecustomize.py").write_text(TELL.format(told=str(told)))
    config = provider(upstream.base_url, "m1", "m2")
    path = f"{told.parent}:{ROOT}"
    with serving(tmp_path_factory.mktemp("used"), config, PYTHONPATH=path) as tollway:
        for stream in (False, True) * 20:
            assert tollway.chat("auto", stream=stream).status_code == 200
        yield tollway


def test_what_few_need_is_imported_only_when_it_is_needed(used: Tollway, told: Path) -> None:
    (worker,) = used.workers()
    by_process = [line.split(" ") for line in told.read_text().splitlines()]
    modules = {name for pid, name in by_process if int(pid) in (used.pid, worker.pid)}
    assert {"proxy.worker", "proxy.engine", "uvicorn"} <= modules
    assert not {name for name in modules if name.partition(".")[0] in HEAVY}


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info[:2] != (3, 11),
    reason="other systems count, and other Pythons take, differently",
)
def test_an_idle_worker_is_small(used: Tollway) -> None:
    (worker,) = used.workers()
    assert worker.memory_info().rss <= MOST_BYTES


async def _overloaded(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "overloaded"}}, "503 Service Unavailable")


async def _broken(call: Call, line: Line) -> None:
    await line.start_stream()
    line.reset()


@pytest.mark.parametrize(
    ("fails", "model"), [(_overloaded, "up/m1"), (_broken, "up/m1"), (_overloaded, "race")]
)
def test_requests_that_failed_do_not_stay(
    upstream: Upstream, tmp_path: Path, fails: Any, model: str
) -> None:
    """A body in a cycle would: cycles are looked for seldom."""
    config = provider(upstream.base_url, "m1", retries={"tries": 1})
    config["targets"][0] |= {"price": {"input": 0.001, "output": 0.001}, "context_length": 10**7}
    config["targets"].append(config["targets"][0] | {"target": "up/m2"})
    config["models"]["race"] = {"policy": "race", "targets": ["up/m1", "up/m2"]}
    upstream.scripts |= {"m1": fails, "m2": fails}
    with serving(tmp_path, config) as tollway:
        (worker,) = tollway.workers()
        _fail(tollway, model)
        before = worker.memory_info().rss
        for _ in range(40):
            _fail(tollway, model)
        assert worker.memory_info().rss - before <= 20 * LARGE


def _fail(tollway: Tollway, model: str) -> None:
    messages = [{"role": "user", "content": "x" * LARGE}]
    assert tollway.chat(model, messages=messages, stream=True).status_code == 502


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is shared")
def test_processes_share_what_was_there_before_them(used: Tollway, told: Path) -> None:
    """A collector that looked at it would have written to it: half would be each one's own."""
    for child in used.children():
        child.send_signal(signal.SIGUSR2)
        until(partial(_is_told, told, f"{child.pid} collected"))
        memory = child.memory_full_info()
        assert memory.uss <= memory.rss * 0.45


def _is_told(told: Path, line: str) -> bool:
    return line in told.read_text().splitlines()
