"""Answers in a dialect of their own, read at the places that the operator named."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import msgspec

from adapters.base import ConnectionLost, MalformedAnswer
from adapters.http.over_http import EVENT_STREAM, MAX_ANSWER_BYTES, Decoder
from adapters.wire import loose_json
from adapters.wire.failures import read_error
from adapters.wire.lines import LineDecoder
from adapters.wire.sse import EventDecoder
from adapters.wire.templates import ChatPlaces, StreamPlaces, VectorPlaces, found

Json = dict[str, Any]

_LINES = EVENT_STREAM | {
    *("application/json", "application/jsonl", "application/x-ndjson", "application/json-seq")
}
# What servers say of an answer that was cut or held back; any other word is "stop".
_FINISH = {
    "length": "length",
    "max_tokens": "length",
    "max_length": "length",
    "MAX_TOKENS": "length",
    "content_filter": "content_filter",
}


class _Last(bytes):
    """What a body ends with, be it nothing."""


class _ToTheEnd:
    """Tells the end of the body to whoever reads the payloads."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def feed(self, chunk: bytes) -> list[bytes]:
        return self._decoder.feed(chunk)

    def finish(self) -> bytes | None:
        return _Last(self._decoder.finish() or b"")


class _Whole:
    """Takes a body for one payload."""

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        self._body += chunk
        if len(self._body) > MAX_ANSWER_BYTES:
            raise MalformedAnswer(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return []

    def finish(self) -> bytes | None:
        return bytes(self._body)


class ChatReader:
    """The text at its place, as a chat completion or as chunks."""

    def __init__(self, model: str, whole: ChatPlaces, streamed: StreamPlaces | None) -> None:
        self._model = model
        self._whole = whole
        self._streamed = streamed
        self._finish: str | None = None
        self._has_said = False
        self._usage: Json = {}
        self.is_done = False

    @property
    def stream_types(self) -> Set[str]:
        """See `adapters.http.over_http.Reader`."""
        if self._streamed is None:
            return _LINES
        return EVENT_STREAM if self._streamed.framing == "sse" else _LINES

    @property
    def is_whole(self) -> bool:
        """See `adapters.http.over_http.Reader`."""
        return self.is_done

    def decoder(self) -> Decoder:
        """See `adapters.http.over_http.Reader`."""
        if self._streamed is None:
            return _ToTheEnd(_Whole())
        decoder = EventDecoder() if self._streamed.framing == "sse" else LineDecoder()
        return decoder if self._streamed.end is not None else _ToTheEnd(decoder)

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """See `adapters.http.over_http.Reader`."""
        ready: list[bytes] = []
        places = self._streamed or self._whole
        end = self._streamed.end.encode() if self._streamed and self._streamed.end else None
        for payload in payloads:
            is_end = end is not None and payload.strip() == end
            if not is_end and (payload or self._streamed is None):
                self._has_said = True
                ready += self._read(payload, places)
            if self.is_done:  # by an error
                return ready
            if is_end or isinstance(payload, _Last):
                self._check_is_whole(by_mark=is_end)
                self.is_done = True
                return ready + self._ending()
        return ready

    def _read(self, payload: bytes, places: ChatPlaces) -> list[bytes]:
        value = _decoded(payload)
        if (error := _error_in(value, places.text, payload)) is not None:
            self.is_done = True
            return [error]
        text = self._take(value, places, needs_text=self._streamed is None)
        return [self._chunk({"content": text})] if text else []

    def _check_is_whole(self, *, by_mark: bool) -> None:
        """A body without an end mark may have been cut: nothing, or no reason, is no end."""
        places = self._streamed
        if by_mark or places is None:
            return
        if not self._has_said or (places.finish_reason is not None and self._finish is None):
            raise ConnectionLost("the provider's stream ended before its answer was complete")

    def _ending(self) -> list[bytes]:
        ending = [self._chunk({}, self._finish or "stop")]
        if used := self._used():
            ending.append(loose_json.encode({**self._head("chunk"), "choices": [], **used}))
        return ending

    def read_body(self, body: bytes) -> bytes:
        """See `adapters.http.over_http.Reader`."""
        value = _decoded(body)
        if (error := _error_in(value, self._whole.text, body)) is not None:
            return error
        text = self._take(value, self._whole, needs_text=True)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self._finish or "stop"}
        return loose_json.encode({**self._head(), "choices": [choice], **self._used()})

    def _take(self, value: Any, places: ChatPlaces, *, needs_text: bool) -> str:
        """The text; what else is there is remembered."""
        finish = _at(value, places.finish_reason)
        if isinstance(finish, str) and finish:
            self._finish = _FINISH.get(finish, "stop")
        for name, place in (
            ("prompt_tokens", places.input_tokens),
            ("completion_tokens", places.output_tokens),
        ):
            count = _at(value, place)
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                self._usage[name] = count
        text = found(value, places.text)
        if isinstance(text, list) and all(isinstance(item, str) for item in text):
            text = "".join(text)
        if text is None and not needs_text:
            return ""
        if not isinstance(text, str):
            raise MalformedAnswer(f"the answer has no text at {places.text!r}")
        return text

    def _head(self, kind: str = "") -> Json:
        dotted = f".{kind}" if kind else ""
        return {"object": f"chat.completion{dotted}", "model": self._model}

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return loose_json.encode({**self._head("chunk"), "choices": [choice]})

    def _used(self) -> Json:
        """Both counts or none: whoever is told nothing estimates."""
        if len(self._usage) < 2:
            return {}
        return {"usage": {**self._usage, "total_tokens": sum(self._usage.values())}}


class VectorReader:
    """The vectors at their place, as OpenAI has them."""

    stream_types: Set[str] = frozenset()
    is_done = True
    is_whole = True

    def __init__(self, model: str, places: VectorPlaces, count: int) -> None:
        self._model = model
        self._places = places
        self._count = count

    def decoder(self) -> Decoder:
        """See `adapters.http.over_http.Reader`."""
        raise NotImplementedError("vectors are not streamed")

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """See `adapters.http.over_http.Reader`."""
        raise NotImplementedError("vectors are not streamed")

    def read_body(self, body: bytes) -> bytes:
        """See `adapters.http.over_http.Reader`."""
        value = _decoded(body)
        listed = found(value, self._places.embeddings)
        vectors = _vectors(listed) or _vectors([listed])
        if len(vectors) != self._count:
            raise MalformedAnswer(
                f"the answer does not have {self._count} vectors at {self._places.embeddings!r}"
            )
        data = [
            {"object": "embedding", "index": i, "embedding": vector}
            for i, vector in enumerate(vectors)
        ]
        answer: Json = {"object": "list", "data": data, "model": self._model}
        tokens = _at(value, self._places.input_tokens)
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return loose_json.encode(answer)


def _error_in(value: Any, place: str, text: bytes) -> bytes | None:
    """An error with status 200, in OpenAI's shape."""
    if not isinstance(value, dict) or not value.get("error") or found(value, place) is not None:
        return None
    said = read_error(text)
    error = {"message": said.message, "type": said.type, "code": said.code}
    return loose_json.encode({"error": error})


def _vectors(value: Any) -> list[list[float]]:
    try:
        return msgspec.convert(value, list[list[float]])
    except msgspec.ValidationError:
        return []


def _decoded(text: bytes) -> Any:
    try:
        return loose_json.decode(text)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None


def _at(value: Any, place: str | None) -> Any:
    return None if place is None else found(value, place)
