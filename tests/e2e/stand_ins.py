"""Upstreams that nobody of us wrote, as processes: aimock from npm and llmock from PyPI."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

NPM = Path(__file__).with_name("npm")
LLMOCK = Path(sys.prefix) / "llmock"
START_S = 20.0


def has_npm_peers() -> bool:
    """Whether Node.js and the packages from npm are here."""
    return shutil.which("node") is not None and (NPM / "node_modules").exists()


@contextlib.contextmanager
def aimock(folder: Path, fixtures: list[dict[str, Any]]) -> Iterator[str]:
    """aimock with these fixtures; yields its URL."""
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}))
    program = NPM / "node_modules" / ".bin" / "llmock"
    command = ["node", str(program), "-p", "0", "-f", str(folder / "fixtures.json")]
    with _running(command, folder / "aimock.log", r"listening on (http://\S+)") as url:
        yield url


class Llmock:
    """llmock at a URL: told how to misbehave, asked what it thinks of us."""

    def __init__(self, url: str) -> None:
        self.url = url

    def will(self, *behaviors: dict[str, Any]) -> None:
        """Forget what was, and do these things to the requests that come."""
        httpx2.post(f"{self.url}/_llmock/reset").raise_for_status()
        if behaviors:
            body = {"behaviors": list(behaviors)}
            httpx2.post(f"{self.url}/_llmock/scenario", json=body).raise_for_status()

    def verdict(self) -> dict[str, Any]:
        """What it found wrong with its client."""
        found: dict[str, Any] = httpx2.get(f"{self.url}/_llmock/verdict").json()
        return found


@contextlib.contextmanager
def llmock(folder: Path) -> Iterator[Llmock]:
    """llmock on a port of its own."""
    start = "from llmock.cli import app; app()"
    command = [sys.executable, "-c", start, "serve", "--port", "0", "--response-style", "hello"]
    listening = r"running on (http://\S+)"
    with _running(command, folder / "llmock.log", listening, PYTHONPATH=str(LLMOCK)) as url:
        yield Llmock(url)


@contextlib.contextmanager
def _running(command: list[str], log: Path, listening: str, **environ: str) -> Iterator[str]:
    """A server until it is left; yields the URL that it says it listens on."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environ}, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + START_S
        while not (found := re.search(listening, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found.group(1)
    finally:
        process.terminate()
        process.wait(10)
