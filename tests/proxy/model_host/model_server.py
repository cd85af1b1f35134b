"""A server with a list of models, which tests change, make hang or lie, stop and start again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = object | Callable[[Any], object]
OLLAMA_MODEL = {
    "name": "qwen3:8b",
    "modified_at": "2026-11-20T10:00:00.123456789+01:00",
    "size": 5_200_000_000,
    "digest": "500a1f067a9f",
    "details": {"family": "qwen3", "parameter_size": "8.2B", "quantization_level": "Q4_K_M"},
}
OLLAMA_SHOWN = {
    "capabilities": ["completion", "tools", "thinking"],
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
}


class ModelServer:
    """Answers paths with JSON. What is a function is called with the request's body."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, Any]] = []
        self.hanging = threading.Event()
        """Set while nobody is answered."""
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self, None)

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", "0"))
                outer._answer(self, json.loads(self.rfile.read(size) or b"null"))

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._released.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answer(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        self.asked.append((handler.path, body))
        if self.hanging.is_set():
            self._released.wait(60)
            return
        answer = self.answers.get(handler.path)
        answer = answer(body) if callable(answer) else answer
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(404 if answer is None else 200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(text)))
        # A server that stops must not leave a thread behind that waits for the next request.
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(text)
        handler.close_connection = True


def openai_list(*ids: str, **more: object) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": each, **more} for each in ids]}


def ollama(*models: Mapping[str, Any], loaded: tuple[str, ...] = ()) -> ModelServer:
    """Ollama with these models, of which each is shown as `OLLAMA_SHOWN`."""
    return ModelServer(
        {
            "/api/tags": {"models": list(models)},
            "/api/ps": {"models": [{"name": name} for name in loaded]},
            "/api/show": OLLAMA_SHOWN,
        }
    )
