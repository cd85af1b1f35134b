"""Local models: what a token costs beyond the library that makes it, and the wait for the first.

What a token costs is the difference between a long and a short answer, by the tokens between them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapters.leases import KEY_VARIABLE
from benchmarks import proc
from benchmarks.measure import Bench
from benchmarks.results import Local
from benchmarks.subjects import ROOT, free_port, serve, wait_for
from proxy.model_host.client import HostClient
from tests.models import make_gguf

_PROMPT = "Say something."
_CONTEXT = 2048
_SHORT, _LONG = 100, 1100
_PATIENCE_S = 60.0
_POLL_S = 0.01
_KEY = "of-the-benchmark"
_CONFIG = """\
providers:
  local: {{adapter: local, folder: {folder}}}
  elsewhere: {{base_url: "http://127.0.0.1:{upstream_port}/v1", api_key: none}}
targets:
  - {{target: local/tiny, model: {model}, backend: llama_cpp, context_length: {context}}}
  - {{target: elsewhere/stream-20, price: free, context_length: 8192, max_output_tokens: 4096}}
models:
  spilling: {{targets: [local/tiny, elsewhere/stream-20], cold_start: spill}}
"""


def is_possible() -> bool:
    """Whether llama-cpp-python is there to be compared with."""
    return find_spec("llama_cpp") is not None


def local(bench: Bench, model: Path | None) -> Local:
    """Tokens by the bare library, by a model's process, and through all of Tollway."""
    folder = bench.folder / "local"
    folder.mkdir()
    path = model or make_gguf.babbling(folder / "tiny.gguf", context=_CONTEXT)
    found = Local(model=path.name, bytes=path.stat().st_size)
    config = folder / "router.yaml"
    config.write_text(
        _CONFIG.format(
            folder=path.parent,
            model=path.name,
            context=_CONTEXT,
            upstream_port=bench.upstream_port,
        )
    )
    port = free_port()
    with (
        _child(path) as (child_port, child_pid),
        serve(folder / "data", port, folder / "output", config=config) as server,
    ):
        wait_for(server, port, "GET", "/readyz")
        for _ in range(bench.effort.turns):
            bench.progress("local models, tokens")
            bare = _bare(path)
            never = {str(token): -100 for token in bare.pop("ends")}
            found.bare.append(bare)
            found.child.append(_each_token(child_port, never, lambda: [child_pid]))
            found.tollway.append(
                _each_token(port, never, lambda: proc.descendants(server.pid), "local/tiny")
            )
            bench.progress("local models, first token")
            _first_tokens(port, folder / "data", found)
    return found


def _bare(path: Path) -> dict[str, Any]:
    numbers = map(str, (_CONTEXT, _SHORT, _LONG))
    command = [sys.executable, "-m", "benchmarks.bare_llama", str(path), _PROMPT, *numbers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def _child(path: Path) -> Iterator[tuple[int, int]]:
    """A model's process as the model host starts it, alone; its port and its number."""
    command = [sys.executable, "-m", "adapters.children.llama_cpp", "--model", str(path)]
    command += ["--name", "tiny", "--context", str(_CONTEXT)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, KEY_VARIABLE: _KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[1]), process.pid
        process.stdin.close()


def _each_token(
    port: int, never: Mapping[str, int], pids: Callable[[], Sequence[int]], model: str = "tiny"
) -> dict[str, float]:
    def answer(tokens: int) -> tuple[int, float]:
        before_ns, began_at = sum(map(proc.cpu_ns, pids())), time.perf_counter()
        _stream(port, model, max_tokens=tokens, logit_bias=never)
        took_s = time.perf_counter() - began_at
        return sum(map(proc.cpu_ns, pids())) - before_ns, took_s

    answer(_SHORT)  # it is loaded now, and has read the prompt
    (short_ns, short_s), (long_ns, long_s) = answer(_SHORT), answer(_LONG)
    tokens = _LONG - _SHORT
    return {
        "cpu_us": (long_ns - short_ns) / tokens / 1e3,
        "wall_us": (long_s - short_s) / tokens * 1e6,
    }


def _first_tokens(port: int, data: Path, found: Local) -> None:
    asyncio.run(_unload(data))
    found.cold_ms.append(_stream(port, "local/tiny", max_tokens=5))
    found.warm_ms.append(_stream(port, "local/tiny", max_tokens=5))
    asyncio.run(_unload(data))
    found.spilled_ms.append(_stream(port, "spilling", max_tokens=5))
    # What was not waited for is loaded all the same: the next turn finds it so.
    _stream(port, "local/tiny", max_tokens=5)


async def _unload(data: Path) -> None:
    client = HostClient(data)
    await client.retire("local/tiny")
    while (await client.look()).models[0].state != "absent":  # noqa: ASYNC110 # another process
        await asyncio.sleep(_POLL_S)
    await client.aclose()


def _stream(port: int, model: str, **asked: Any) -> float:
    """Read an answer to its end; the milliseconds to its first words."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": _PROMPT}]}
    headers = {"content-type": "application/json", "authorization": f"Bearer {_KEY}"}
    if model != "tiny":
        del headers["authorization"]  # whoever asks from here needs none
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    began_at = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body | asked), headers)
        response = connection.getresponse()
        first = response.read1()
        first_ms = (time.perf_counter() - began_at) * 1e3
        text = first + response.read()
        if response.status != 200 or not text.endswith(b"data: [DONE]\n\n"):
            raise RuntimeError(f"{model!r} answered {response.status}: {text[-500:]!r}")
    finally:
        connection.close()
    return first_ms
