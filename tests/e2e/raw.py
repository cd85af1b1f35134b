"""HTTP/1.1 as bytes on a socket: what no client library would send, and what exactly comes back."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.tollway import Tollway

WAIT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """One reply, whose body is whole."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, which has all that OpenAI's have."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Ended(Exception):
    """The server closed the connection, after what is `left`."""


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, method: str = "POST") -> Reply:
        """The next reply; raises `Ended` where there is none."""
        head, _, _ = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        if method == "HEAD":
            body = b""
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self._all()
        return Reply(version, int(status), headers, body)

    def replies(self) -> list[Reply]:
        """All replies, until the server closes the connection."""
        found = []
        with contextlib.suppress(Ended):
            while True:
                found.append(self.reply())
        return found

    def is_closed(self) -> bool:
        """Wait until the server closes the connection; nothing may come before that."""
        return not self._received and self._more() == b""

    def read_until(self, mark: bytes) -> bytes:
        """Whatever comes up to a mark."""
        return self._until(mark)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._fill()
        end = self._received.index(mark) + len(mark)
        return self._take(end)

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._fill()
        return self._take(size)

    def _all(self) -> bytes:
        with contextlib.suppress(Ended):
            while True:
                self._fill()
        return self._take(len(self._received))

    def _take(self, size: int) -> bytes:
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _fill(self) -> None:
        more = self._more()
        if not more:
            raise Ended(self._received)
        self._received += more

    def _more(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""


@contextlib.contextmanager
def connect(tollway: Tollway) -> Iterator[Connection]:
    url = urlsplit(tollway.url)
    assert url.hostname and url.port
    with socket.create_connection((url.hostname, url.port), timeout=WAIT_S) as sock:
        yield Connection(sock)


def chat(text: str = "Hello", *, model: str = "up/m1", **changes: object) -> bytes:
    """The body of a request for a chat."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, **changes}).encode()


def post(
    body: bytes = b"",
    *headers: bytes,
    path: bytes = b"/v1/chat/completions",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """A request with a length, in bytes."""
    lines = [b"host: localhost", b"content-length: %d" % len(body), *headers]
    return b"POST %b %b\r\n%b\r\n\r\n%b" % (path, version, b"\r\n".join(lines), body)
