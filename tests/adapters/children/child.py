"""A child as its parent starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

PATIENCE_S = 20.0
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Child:
    """A process that has said it is ready."""

    process: subprocess.Popen[str]
    port: int
    about: Mapping[str, Any]
    client: httpx2.Client = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, **body: Any) -> Any:
        """The answer's JSON; fails for an error."""
        answer = self.client.post(f"/v1/{path}", json={"model": "tiny", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, path: str, **body: Any) -> tuple[int, Mapping[str, Any]]:
        """The status and the error's body; fails for an answer."""
        answer = self.client.post(f"/v1/{path}", json={"model": "tiny", **body})
        return answer.status_code, answer.json()["error"]

    def chat(self, **body: Any) -> Any:
        return self.post("chat/completions", **{"messages": HELLO, "temperature": 0, **body})

    def text(self, **body: Any) -> str:
        text = self.chat(**body)["choices"][0]["message"]["content"]
        assert isinstance(text, str)
        return text

    def chunks(self, **body: Any) -> list[Any]:
        """The chunks of a stream that ends as it should."""
        asked = {"model": "tiny", "messages": HELLO, "temperature": 0, "stream": True, **body}
        answer = self.client.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream"
        *events, done, rest = answer.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


LLAMA_CPP = "adapters.children.llama_cpp"
MLX = "adapters.children.mlx"
MINILM = "adapters.children.minilm"
STAND_IN = "tests.adapters.children.stand_in"
HELLO = [{"role": "user", "content": "Hello"}]


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextmanager
def running(module: str, model: Path, *arguments: str) -> Iterator[Child]:
    """A child that serves a model as `tiny`, and ends well when its parent lets go of it."""
    process = start(module, "--model", str(model), "--name", "tiny", *arguments)
    assert process.stdout and process.stdin and process.stderr
    with process:
        ready = process.stdout.readline()
        if not ready:
            raise AssertionError(process.stderr.read())
        word, port, about = ready.split(" ", 2)
        assert word == "ready"
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            yield Child(process, int(port), json.loads(about), client)
        process.stdin.close()
        process.wait(PATIENCE_S)


def joined(chunks: list[Any], index: int = 0) -> str:
    """The text of one choice of a stream."""
    choices = (choice for chunk in chunks for choice in chunk["choices"])
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)
