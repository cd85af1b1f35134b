"""Ollama's answers -> OpenAI's: whole ones, streams of lines, embeddings.

Source: Ollama's "API" (docs/api.md) and `api/types.go` (ChatResponse, GenerateResponse, Metrics).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

import msgspec

from adapters.base import ContextExceeded, MalformedAnswer, UpstreamError
from adapters.http.over_http import EventReader
from adapters.wire import loose_json
from adapters.wire.failures import error_family, read_error, upstream_error
from adapters.wire.lines import LineDecoder

Json = dict[str, Any]


class _Function(msgspec.Struct):
    name: str
    arguments: Json | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Top(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class _Logprob(_Top):
    top_logprobs: list[_Top] | None = None


class _Response(msgspec.Struct):
    """A whole answer, or a line of one; `response` and `thinking` are those of completions."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    model: str = ""
    done: bool = False
    done_reason: str | None = None
    logprobs: list[_Logprob] | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]]
    model: str = ""
    prompt_eval_count: int | None = None


_response = msgspec.json.Decoder(_Response)
_embedded = msgspec.json.Decoder(_Embedded)


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return loose_json.decode_as(decoder, body)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None


class _LineReader(EventReader):
    """What the lines of chats and completions have alike."""

    stream_types = frozenset(
        {"", "application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain"}
    )
    _prefix: str
    _kind: str

    def __init__(self) -> None:
        super().__init__()
        self._head: Json = {}
        self._text_head = b""
        self._has_said = False

    def decoder(self) -> LineDecoder:
        """Lines of JSON, and no events."""
        return LineDecoder()

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """Raises an error that comes before everything else; a later one is a payload."""
        ready: list[bytes] = []
        for payload in payloads:
            said: _Response = _read(_response, payload)
            if said.error:
                error = _error(payload)
                if not (self._has_said or ready):
                    raise error
                ready.append(_error_payload(error))
                break
            self._begin(said, self._kind)
            self._read_line(said, ready)
            if said.done:
                self.is_done = True
                break
        self._has_said = self._has_said or bool(ready)
        return ready

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`, and `UpstreamError` for an error in it."""
        said: _Response = _read(_response, body)
        if said.error:
            raise _error(body)
        if not said.done:
            raise MalformedAnswer("the provider's answer is not done")
        return self._read_whole(said)

    def _begin(self, said: _Response, kind: str) -> None:
        if not self._head:
            self._head = {
                "id": f"{self._prefix}-{uuid4().hex}",
                "object": kind,
                "created": int(time.time()),
                "model": said.model,
            }
            self._text_head = loose_json.encode(self._head)[:-1]

    def _read_line(self, said: _Response, ready: list[bytes]) -> None:
        raise NotImplementedError

    def _read_whole(self, said: _Response) -> bytes:
        raise NotImplementedError

    def _end(self, said: _Response, choice: Json) -> list[bytes]:
        """The last chunk, and the one with the usage."""
        last = loose_json.encode({**self._head, "choices": [choice]})
        usage = _usage(said)
        if not usage:
            return [last]
        return [last, loose_json.encode({**self._head, "choices": [], **usage})]


class ChatReader(_LineReader):
    """Brings the answer of `/api/chat` into OpenAI's shape."""

    _prefix = "chatcmpl"
    _kind = "chat.completion.chunk"

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        self._has_role = False

    def _read_line(self, said: _Response, ready: list[bytes]) -> None:
        if self._has_role and (text := _only_text(said)) is not None:
            ready.append(
                b'%b,"choices":[{"index":0,"delta":{"content":%b},"finish_reason":null}]}'
                % (self._text_head, loose_json.encode(text))
            )
            return
        delta: Json = {} if self._has_role else {"role": "assistant", "content": ""}
        self._has_role = True
        delta |= self._delta(said)
        if not (delta or said.done or said.logprobs):
            return
        choice: Json = {"index": 0, "delta": delta}
        if said.logprobs:
            choice["logprobs"] = _logprobs(said.logprobs)
        choice["finish_reason"] = self._finish(said) if said.done else None
        if said.done:
            ready += self._end(said, choice)
        else:
            ready.append(loose_json.encode({**self._head, "choices": [choice]}))

    def _delta(self, said: _Response) -> Json:
        message = said.message or _Message()
        delta: Json = {}
        if message.thinking:
            delta["reasoning_content"] = message.thinking
        if message.content:
            delta["content"] = message.content
        if message.tool_calls:
            delta["tool_calls"] = [self._call(call) for call in message.tool_calls]
        return delta

    def _call(self, call: _Call) -> Json:
        index, self._calls = self._calls, self._calls + 1
        arguments = loose_json.encode(call.function.arguments or {}).decode()
        return {
            "index": index,
            "id": call.id or f"call_{uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.function.name, "arguments": arguments},
        }

    def _finish(self, said: _Response) -> Literal["stop", "length", "tool_calls"]:
        if said.done_reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"

    def _read_whole(self, said: _Response) -> bytes:
        self._begin(said, "chat.completion")
        message: Json = {"role": "assistant", "content": None, **self._delta(said)}
        for call in message.get("tool_calls", ()):
            del call["index"]
        if message["content"] is None and not self._calls:
            message["content"] = ""
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs(said.logprobs) if said.logprobs else None,
            "finish_reason": self._finish(said),
        }
        return loose_json.encode({**self._head, "choices": [choice], **_usage(said)})


def _only_text(said: _Response) -> str | None:
    """The text of a line that has nothing else, as most of a stream do."""
    message = said.message
    if message is None or said.done or said.logprobs or message.thinking or message.tool_calls:
        return None
    return message.content or None


class CompletionReader(_LineReader):
    """Brings the answer of `/api/generate` into the shape of OpenAI's completions."""

    _prefix = "cmpl"
    _kind = "text_completion"

    def _read_line(self, said: _Response, ready: list[bytes]) -> None:
        choice = self._choice(said)
        if said.done:
            ready += self._end(said, choice)
        elif choice["text"] or said.logprobs:
            ready.append(loose_json.encode({**self._head, "choices": [choice]}))

    def _choice(self, said: _Response) -> Json:
        finish = "length" if said.done_reason == "length" else "stop"
        return {
            "text": said.response or "",
            "index": 0,
            "logprobs": _completion_logprobs(said.logprobs) if said.logprobs else None,
            "finish_reason": finish if said.done else None,
        }

    def _read_whole(self, said: _Response) -> bytes:
        self._begin(said, self._kind)
        return loose_json.encode({**self._head, "choices": [self._choice(said)], **_usage(said)})


class EmbeddingsReader(EventReader):
    """Brings the answer of `/api/embed` into OpenAI's shape."""

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`."""
        said: _Embedded = _read(_embedded, body)
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(said.embeddings)
        ]
        answer: Json = {"object": "list", "data": data, "model": said.model}
        if said.prompt_eval_count:
            tokens = said.prompt_eval_count
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return loose_json.encode(answer)


def _usage(said: _Response) -> Json:
    """Counts that are 0 are left out by Ollama: a prompt that was cached has none."""
    if said.prompt_eval_count is None and said.eval_count is None:
        return {}
    prompt, completion = said.prompt_eval_count or 0, said.eval_count or 0
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    }


def _logprobs(given: Sequence[_Logprob]) -> Json:
    content = [
        {**_likelihood(token), "top_logprobs": [_likelihood(t) for t in token.top_logprobs or ()]}
        for token in given
    ]
    return {"content": content, "refusal": None}


def _likelihood(given: _Top) -> Json:
    return {"token": given.token, "logprob": given.logprob, "bytes": given.bytes}


def _completion_logprobs(given: Sequence[_Logprob]) -> Json:
    return {
        "tokens": [token.token for token in given],
        "token_logprobs": [token.logprob for token in given],
        "top_logprobs": [{t.token: t.logprob for t in token.top_logprobs or ()} for token in given],
    }


def _error(body: bytes) -> UpstreamError:
    """The error in an answer of status 200."""
    said = read_error(body)
    family = error_family(400, said.message, said.code)
    return upstream_error(family if family is ContextExceeded else UpstreamError, 200, said, {})


def _error_payload(error: UpstreamError) -> bytes:
    said = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return loose_json.encode({"error": said})
