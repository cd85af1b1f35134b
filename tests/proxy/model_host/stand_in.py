"""A model's process that a model is not needed for: what it does stands in its model file.

The file is JSON, maybe after the beginning of a GGUF file: `log` (a file that gets a line at
each start), `gate` (a file that must be there before it serves), `fails` (why it does not start),
`megabytes` (that it takes), `deaf` (whether `/health` is left unanswered once the file of that name
is there), `ill` (whether it answers nothing but `/health`: if the file of that name is there at its
start).
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENDLESS = "endless"
"""What a request says that is answered until its client leaves."""

NO_TENSORS = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
"""The beginning of a GGUF file without anything in it."""


def child() -> None:
    """As the children of Tollway behave."""
    asked = _arguments("--name")
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    server = _load(asked)
    print(f"ready {server.server_port}", flush=True)
    server.serve_forever()


def llama_server() -> None:
    """As llama.cpp's `llama-server` behaves."""
    asked = _arguments("--alias")
    server = _load(asked)
    url = f"http://127.0.0.1:{server.server_port}"
    print(f"0.00 I srv  llama_server: listening on {url}", file=sys.stderr, flush=True)
    server.serve_forever()


def _arguments(name_option: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(name_option, dest="name", required=True)
    return parser.parse_known_args()[0]


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _load(asked: argparse.Namespace) -> ThreadingHTTPServer:
    script = json.loads(asked.model.read_bytes().removeprefix(NO_TENSORS))
    if "log" in script:
        with Path(script["log"]).open("a") as log:
            log.write(f"{asked.name} {os.getpid()}\n")
    if "fails" in script:
        print(script["fails"], file=sys.stderr, flush=True)
        sys.exit(1)
    while "gate" in script and not Path(script["gate"]).exists():
        time.sleep(0.01)

    class Answer(_Answer):
        name = asked.name
        deaf = Path(script["deaf"]) if "deaf" in script else None
        is_ill = "ill" in script and Path(script["ill"]).exists()
        ballast = bytes(b"x" * (script.get("megabytes", 0) << 20))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    return server


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name: str
    deaf: Path | None
    is_ill: bool
    ballast: bytes

    def do_GET(self) -> None:
        if self.deaf is not None and self.deaf.exists():
            self.close_connection = True
            return
        self._json({"status": "ok"})

    def do_POST(self) -> None:
        assert self.headers["authorization"] == f"Bearer {os.environ['LLAMA_API_KEY']}"
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = json.dumps(asked.get("messages", ""))
        if self.is_ill:
            self.send_error(500)
            return
        if not asked.get("stream"):
            message = {"role": "assistant", "content": f"{self.name} {os.getpid()}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            self._json(_headed("chat.completion", self.name, choices=[choice], usage=usage))
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self._stream(is_endless=ENDLESS in said)
        except OSError:
            return  # the client left

    def _stream(self, *, is_endless: bool) -> None:
        self._chunk({"role": "assistant", "content": f"{self.name} {os.getpid()}"})
        while is_endless:
            self._chunk({"content": "."})
            time.sleep(0.01)
        self._chunk({}, finish="stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = _headed("chat.completion.chunk", self.name, choices=[choice])
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _json(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _headed(kind: str, model: str, **rest: Any) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 1, "model": model, **rest}


if __name__ == "__main__":
    child()
