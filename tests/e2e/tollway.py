"""The real product in its real processes, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

ADMIN_TOKEN = "test-admin-token-0123456789"
START_S = 30.0


class Tollway:
    """`tollway serve` on a free port with a data folder and a configuration of its own."""

    def __init__(self, folder: Path, config: dict[str, Any], **environ: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "router.yaml"
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))
        self.environ = clean_environ() | {
            "TOLLWAY_ADMIN_TOKEN": ADMIN_TOKEN,
            "TOLLWAY_DATA": str(self.data),
            "TOLLWAY_CONFIG": str(self.config),
            **environ,
        }
        self.output = folder / "output.txt"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> Tollway:
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", "--port", "0", *arguments],
                env=self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"serves (http://\S+)/v1", self.log())):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self.url = found.group(1)
        return self

    def configure(self, config: dict[str, Any]) -> None:
        """Write another configuration, as an editor that saves it at once."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(config, sort_keys=False))
        fresh.replace(self.config)

    def reload(self, config: dict[str, Any]) -> Any:
        """Have it serve by another configuration."""
        self.configure(config)
        return self.admin("POST", "/reload")

    def log(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def stop(self) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(40)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def children(self) -> list[psutil.Process]:
        """The ledger and the workers that are alive."""
        found = psutil.Process(self.pid).children()
        return [child for child in found if _lives(child)]

    def ledger(self) -> psutil.Process:
        """The child that owns the ledger's lock, once it does."""
        deadline = time.monotonic() + 10
        while True:
            owner = (self.data / "ledger.lock").read_text().strip()
            for child in self.children():
                if owner and child.pid == int(owner):
                    return child
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)

    def workers(self) -> list[psutil.Process]:
        ledger = self.ledger()
        return [child for child in self.children() if child != ledger]

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=30, **kwargs)

    def chat(self, model: str = "auto", **changes: Any) -> httpx2.Response:
        headers = changes.pop("headers", None)
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": model, "messages": messages, **changes}
        return self.post("/v1/chat/completions", body, headers=headers)

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        response = httpx2.request(
            method,
            f"{self.url}/admin/v1{path}",
            json=body,
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=30,
        )
        assert response.status_code < 300, response.text
        return response.json()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cli(*arguments, environ=self.environ, cwd=self.folder)

    def rows(self, minimum: int = 0) -> list[dict[str, Any]]:
        """The ledger's attempts, oldest first, once all of at least `minimum` are settled."""
        deadline = time.monotonic() + 60
        while True:
            rows = self.query("SELECT * FROM spend ORDER BY started_at, attempt")
            settled = all(row["outcome"] != "open" for row in rows)
            if settled and len(rows) >= minimum:
                return rows
            assert time.monotonic() < deadline, rows
            time.sleep(0.02)

    def query(self, sql: str) -> list[dict[str, Any]]:
        with contextlib.closing(
            sqlite3.connect(f"file:{self.data}/ledger.db?mode=ro", uri=True)
        ) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql)]


@contextlib.contextmanager
def serving(
    folder: Path, config: dict[str, Any], *arguments: str, **environ: str
) -> Iterator[Tollway]:
    tollway = Tollway(folder, config, **environ).start(*arguments)
    try:
        yield tollway
    finally:
        status = tollway.stop()
    assert status == 0, tollway.log()


def run_cli(
    *arguments: str, environ: dict[str, str] | None = None, cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        env=clean_environ() if environ is None else environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def clean_environ() -> dict[str, str]:
    """The environment without what the product would pick up from it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TOLLWAY_") and not name.endswith(("_API_KEY", "_PROXY", "_proxy"))
    }
    root = str(Path(__file__).parents[2])
    return {**kept, "PYTHONPATH": root, "COLUMNS": "200", "NO_COLOR": "1"}


def provider(base_url: str, *models: str, **settings: Any) -> dict[str, Any]:
    """A configuration with one provider `up` and these models; $1 and $2 per million tokens."""
    price = {"input": 1, "output": 2}
    targets = [
        {
            "target": f"up/{model}",
            "price": price,
            "context_length": 100_000,
            "max_output_tokens": 1000,
            **({"capabilities": ["embeddings"]} if "embed" in model else {}),
        }
        for model in models
    ]
    return {
        "server": {"access_log": True},
        # What one test has failed for is no reason to leave it out in the next.
        "circuit": {"failures": 10**9, "least_requests": 10**9},
        "providers": {"up": {"base_url": base_url, "api_key": "sk-upstream", **settings}},
        "targets": targets,
        "models": {
            "auto": {"targets": [f"up/{model}" for model in models if "embed" not in model]}
        },
    }


def events(text: str) -> list[Any]:
    """The decoded events of a stream; `[DONE]` as the string."""
    payloads = [block[6:] for block in text.split("\n\n") if block.startswith("data: ")]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


def _lives(process: psutil.Process) -> bool:
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:  # it went between two looks
        return False
    return status != psutil.STATUS_ZOMBIE
