"""What a provider says and how HTTP carries it, whatever dialect it says that in.

`Said` is the same answer for every provider; a `Wire` is one dialect, written as its documentation
shows it. Both the contract's stages and the upstream of the end-to-end matrix are made of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from adapters.base import UpstreamError
from tests.adapters.servers import Peer, Request

Json = dict[str, Any]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """A tool call; `pieces` is how its arguments are streamed, where a dialect streams them."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    signature: str = ""

    @property
    def pieces(self) -> list[str]:
        text = json.dumps(self.arguments)
        return [text[at : at + 7] for at in range(0, len(text), 7)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Tokens in OpenAI's terms: `cached` and `written` are parts of `prompt`."""

    prompt: int = 3
    output: int = 5
    reasoned: int = 0
    cached: int = 0
    written: int = 0
    written_1h: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """An answer: what was thought, what was said piece by piece, which tools were called."""

    texts: Sequence[str] = ()
    thoughts: Sequence[str] = ()
    signature: str = ""
    redacted: str = ""
    calls: Sequence[Called] = ()
    finish: Finish = "stop"
    counts: Counts = field(default_factory=Counts)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def thought(self) -> str:
        return "".join(self.thoughts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failing:
    """One line of a provider's table of errors, and the family it belongs to."""

    status: int
    body: Any
    family: type[UpstreamError]
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: str | None = None

    @property
    def answer(self) -> bytes:
        return whole(self.body, self.status, **self.headers)


class Wire(Protocol):
    """One dialect."""

    content_type: str
    tells: Set[str]
    """Which of the `Counts` it has beside prompt and output."""
    optional: int
    """So many events at the end of a stream may be missing."""
    failing: Mapping[str, Failing]
    """The provider's documented errors, by a name of ours."""

    def whole(self, said: Said) -> Json:
        """The body of an answer that does not stream."""

    def stream(self, said: Said) -> list[bytes]:
        """The framed events of one that does, its end mark with them."""

    def frame(self, payload: bytes) -> bytes:
        """An event with whatever in it."""

    def error_event(self, message: str, code: str) -> bytes:
        """An error in the middle of a stream."""

    def read(self, peer: Peer) -> Request:
        """The next request that is for the model."""


def head(status: int = 200, **headers: str) -> bytes:
    """The head of an answer; `content_type` is `content-type`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Because\r\n{lines}\r\n".encode()


def whole(body: object, status: int = 200, **headers: str) -> bytes:
    """An answer with a JSON body."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content_type": "application/json", "content_length": str(len(text)), **headers}
    return head(status, **given) + text


def stream_head(content_type: str) -> bytes:
    """The head of a chunked body."""
    return head(content_type=content_type, transfer_encoding="chunked")


def piece(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def frame(payload: bytes) -> bytes:
    """A server-sent event with whatever in it."""
    return b"data: %b\n\n" % payload


def framed(value: object, name: str | None = None) -> bytes:
    """A server-sent event."""
    payload = b"data: %b\n\n" % json.dumps(value).encode()
    return payload if name is None else b"event: %b\n%b" % (name.encode(), payload)


def read(peer: Peer) -> Request:
    """The next request, where a provider is asked nothing else."""
    return peer.read_request()


def saying(wire: Wire, said: Said) -> Callable[[Peer], None]:
    """A provider that says it, streamed or whole as the request asks."""

    def answer(peer: Peer) -> None:
        request = wire.read(peer)
        asks_stream = json.loads(request.body).get("stream") or "stream" in request.line
        if asks_stream:
            pieces = b"".join(map(piece, wire.stream(said)))
            peer.send(stream_head(wire.content_type) + pieces + END)
        else:
            peer.send(whole(wire.whole(said)))

    return answer
