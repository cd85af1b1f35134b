"""Ollama's API by a process that recites: `python -m tests.e2e.ollama_stand_in PORT`.

Its models: `canned` says a line, `calling` calls the first function, `babbling` keeps to a format
or goes on until its client leaves. It says a word at a time, to one client at a time, as Ollama
does where memory is short. Sources: those of `tests.adapters.wire_ollama`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import Any

from tests.adapters import wire_ollama
from tests.adapters.wire import Called, Counts, Json, Said
from tests.e2e.dialect_upstream import instance

LINE = ("Good", " day", "!")
CONTEXT = 2048
ASIDE: dict[str, Json] = {
    "/api/ps": {"models": []},
    "/api/show": {
        "capabilities": ["completion", "tools"],
        "model_info": {"general.architecture": "llama", "llama.context_length": CONTEXT},
    },
}


class Refused(Exception):
    """What Ollama says no to."""


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    turns = threading.Lock()

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._send(ASIDE[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path in ASIDE:
            self._send(ASIDE[self.path])
            return
        try:
            with self.turns:
                self._answer(body)
        except Refused as error:
            self._send({"error": str(error)}, 400)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, body: Json) -> None:
        if self.path == "/api/embed":
            self._send(_vectors(body))
            return
        _check_length(json.dumps(body["messages"]), body)
        if body.get("stream", True):
            self._stream(_said(body), body)
        else:
            self._send(wire_ollama.whole(_told(_said(body), body)))

    def _stream(self, words: Iterator[str], body: Json) -> None:
        self.send_response(200)
        self.send_header("content-type", wire_ollama.content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        said = []
        for word in words:
            said.append(word)
            self._chunk(wire_ollama.stream(Said(texts=(word,), counts=_counts(body, 1)))[0])
        for line in wire_ollama.stream(_told(iter(said), body))[len(said) :]:
            self._chunk(line)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _send(self, body: Json, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _said(body: Json) -> Iterator[str]:
    if body["model"] == "calling":
        return
    options = body.get("options") or {}
    stops = options.get("stop") or []
    words = iter(LINE) if body["model"] == "canned" else _babble(body)
    for _, word in zip(range(options.get("num_predict", 1 << 40)), words, strict=False):
        if word in stops:
            return
        yield word


def _babble(body: Json) -> Iterator[str]:
    schema = body.get("format")
    return repeat("x ") if schema is None else iter([json.dumps(instance(schema, schema))])


def _told(words: Iterator[str], body: Json) -> Said:
    texts = tuple(words)
    calls = []
    if body["model"] == "calling":
        function = body["tools"][0]["function"]
        arguments = instance(function["parameters"], function["parameters"])
        calls = [Called(id="", name=function["name"], arguments=arguments)]
    return Said(texts=texts, calls=calls, counts=_counts(body, len(texts) or 1))


def _counts(body: Json, output: int) -> Counts:
    return Counts(prompt=len(json.dumps(body["messages"]).split()), output=output)


def _check_length(text: str, body: Json) -> None:
    assert body["truncate"] is False
    if len(text) > CONTEXT:
        raise Refused("input length exceeds maximum context length")


def _vectors(body: Json) -> Json:
    for text in body["input"]:
        _check_length(text, body)
    vectors = [[1.0, 1 / len(text), 0.5] for text in body["input"]]
    return {"model": body["model"], "embeddings": vectors, "prompt_eval_count": len(vectors)}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Connection)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
