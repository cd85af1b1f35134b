"""Every local back end there is, with the same models, as the contract of all of them wants it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from tests.adapters.children.child import ROOT
from tests.e2e.test_llama_server import BINARY
from tests.e2e.tollway import Tollway, serving
from tests.models import make_gguf, make_mlx, tiny
from tests.waiting import is_alive, until

SAID = "Good day!"
PIECES = [b"Good", b" day", b"!"]
CALL = [b"<tool", b'_call>\n{"name": "paint", "arg', b'uments": {"kind": "red"}}\n</tool_call>']
CONTEXT = 32_768
"""Room for an answer that takes longer than anyone waits."""

# As Qwen's has it, so that whoever looks for a known format finds one.
CALLING = (
    "{% if tools %}<|im_start|>system\nCall functions within <tool_call></tool_call>:"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Running:
    """A gateway before a back end; its models are `PROVIDER/canned`, `/calling` and so on.

    `kill` ends what computes a model at once, and `revive` starts it where that is the operator's.
    """

    tollway: Tollway
    provider: str
    endless: dict[str, Any]
    kill: Callable[[str], None]
    revive: Callable[[], None] = lambda: None
    busy_s: Callable[[str], float | None] = field(default=lambda model: None)

    def name(self, model: str) -> str:
        return f"{self.provider}/{model}"


@dataclass(frozen=True)
class Backend:
    """One way to run models: `start` runs them, unless `missing` says what is not installed."""

    name: str
    missing: str | None
    start: Callable[[Path], contextlib.AbstractContextManager[Running]]


def _local(backend: str, library: str | None) -> Backend:
    """One that Tollway runs itself."""

    def start(folder: Path) -> contextlib.AbstractContextManager[Running]:
        return _hosting(folder, backend)

    missing = None if library is None or find_spec(library) else f"{library} is not installed"
    if backend == "llama_server" and BINARY is None:
        missing = "there is no llama-server"
    return Backend(backend, missing, start)


@contextlib.contextmanager
def _hosting(folder: Path, backend: str) -> Iterator[Running]:
    models = folder / "models"
    models.mkdir()
    small = {"backend": backend, "needs_mb": 100, "concurrency": 1}
    targets = [
        {"target": f"local/{name}", "model": path.name, **small, **more}
        for name, path, more in _models(models, backend)
    ]
    provider = {"adapter": "local", "folder": str(models), "llama_server": str(BINARY)}
    config = {
        "providers": {"local": provider},
        "targets": targets,
        "models": {"mine": {"targets": ["local/canned"]}},
        "host": {"memory_mb": 2000, "max_loaded": 9},
    }
    with serving(folder, config) as tollway:

        def computing(model: str) -> psutil.Process:
            (entry,) = (
                entry
                for entry in tollway.admin("GET", "/models")["data"]
                if entry["name"] == f"local/{model}"
            )
            child = psutil.Process(entry["pid"])
            return next(iter(child.children()), child)

        def kill(model: str) -> None:
            """Until it is dead it may take a request, and fail it."""
            process = computing(model)
            process.kill()
            until(lambda: not is_alive(process.pid))

        yield Running(
            tollway,
            "local",
            endless={"logit_bias": {str(tiny.END): -100}, "max_tokens": CONTEXT},
            kill=kill,
            busy_s=lambda model: computing(model).cpu_times().user,
        )


def _models(folder: Path, backend: str) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    if backend == "minilm":
        from tests.models.make_bert import bert  # it needs what may not be here

        bert(folder / "bert")
        for name in ("canned", "calling", "babbling"):
            yield name, folder / "bert", {"context_length": 16}
        yield "embed", folder / "bert", {"capabilities": ["embeddings"]}
        return
    make, suffix = (make_mlx, "") if backend == "mlx" else (make_gguf, ".gguf")
    canned = make.canned(folder / f"canned{suffix}", PIECES)
    yield "canned", canned, {"context_length": 2048}
    calling = make.canned(folder / f"calling{suffix}", CALL, template=CALLING)
    yield "calling", calling, {"context_length": 2048}
    babbling = make.babbling(folder / f"babbling{suffix}", template=CALLING, context=CONTEXT)
    yield "babbling", babbling, {"context_length": CONTEXT}
    vectors = make.babbling(folder / f"embed{suffix}", context=256)
    yield "embed", vectors, {"capabilities": ["embeddings"], "context_length": 256}


@contextlib.contextmanager
def _ollama(folder: Path) -> Iterator[Running]:
    """Ollama's own process is the operator's; this one imitates it."""
    with contextlib.ExitStack() as stack:
        server, port = _start_ollama(0)
        running = [server]
        stack.callback(lambda: _end(running[-1]))

        def revive() -> None:
            running.append(_start_ollama(port)[0])

        targets = [
            {
                "target": f"ollama/{name}",
                "price": "free",
                "capabilities": ["chat", "tools", "json_schema"],
            }
            for name in ("canned", "calling", "babbling")
        ]
        embedding = {"target": "ollama/embed", "price": "free", "capabilities": ["embeddings"]}
        config = {
            "providers": {"ollama": {"adapter": "ollama", "base_url": f"http://127.0.0.1:{port}"}},
            "targets": [*targets, embedding],
            "models": {"mine": {"targets": ["ollama/canned"]}},
        }
        tollway = stack.enter_context(serving(folder, config))
        yield Running(
            tollway, "ollama", endless={}, kill=lambda model: _end(running[-1]), revive=revive
        )


def _start_ollama(port: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.e2e.ollama_stand_in", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def _end(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.wait()
    assert server.stdout is not None
    server.stdout.close()


BACKENDS = [
    _local("llama_server", None),
    _local("llama_cpp", "llama_cpp"),
    _local("mlx", "mlx_lm"),
    _local("minilm", "tokenizers"),
    Backend("ollama", None, _ollama),
]
