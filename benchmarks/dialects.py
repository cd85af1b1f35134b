"""The same question in each client's dialect, and the same answer in each provider's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Client = Literal["chat", "messages", "responses"]
"""The endpoint that is called, whose dialect is the client's."""
Provider = Literal["openai", "anthropic", "gemini"]

INPUT_TOKENS, OUTPUT_TOKENS = 96, 160
_SYSTEM = "You answer briefly, in plain words, and name your sources."
_ID = "C8x2mTq1yLw0bq9Zk3"

ADAPTERS: dict[Provider, tuple[str, str]] = {
    "openai": ("openai_compatible", "/v1"),
    "anthropic": ("anthropic", "/v1"),
    "gemini": ("gemini", "/v1beta"),
}
"""The adapter of each provider, and where its base URL leads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A client's dialect and a provider's."""

    client: Client
    provider: Provider

    @property
    def name(self) -> str:
        return f"{self.client}-{self.provider}"


PAIRS = (
    Pair(client="chat", provider="openai"),
    Pair(client="messages", provider="anthropic"),
    Pair(client="chat", provider="anthropic"),
    Pair(client="chat", provider="gemini"),
    Pair(client="messages", provider="openai"),
    Pair(client="responses", provider="openai"),
)
"""Where both are the same, events are relayed; elsewhere they are translated."""

ENDS: dict[Client, bytes] = {
    "chat": b"data: [DONE]",
    "messages": b'"message_stop"}',
    "responses": b"}\n\n",
}
"""What is among the last bytes of a stream that is whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """A stream's events: what goes out with the first word, a word each, and what ends it."""

    opening: bytes
    words: Sequence[bytes]
    ending: Sequence[bytes]


def question(client: Client, model: str, text: str, *, stream: bool) -> tuple[str, Json]:
    """The path and the body of the request."""
    body: Json = {"model": model, **({"stream": True} if stream else {})}
    user = {"role": "user", "content": text}
    if client == "messages":
        return "/v1/messages", body | {"max_tokens": 4096, "system": _SYSTEM, "messages": [user]}
    if client == "responses":
        said = {"instructions": _SYSTEM, "input": text, "store": False, "temperature": 0.2}
        return "/v1/responses", body | said
    messages = [{"role": "system", "content": _SYSTEM}, user]
    return "/v1/chat/completions", body | {"messages": messages, "temperature": 0.2}


def answer(provider: Provider, text: str) -> Json:
    """The whole answer."""
    if provider == "anthropic":
        return _message([{"type": "text", "text": text}], "end_turn", OUTPUT_TOKENS)
    if provider == "gemini":
        return _generated(text, "STOP", OUTPUT_TOKENS)
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _completion("chat.completion", [choice], usage=_usage())


def events(provider: Provider, words: Sequence[str]) -> Events:
    """The answer as a stream."""
    if provider == "anthropic":
        return _anthropic_events(words)
    if provider == "gemini":
        return _gemini_events(words)
    return _openai_events(words)


def _openai_events(words: Sequence[str]) -> Events:
    def event(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(_completion("chat.completion.chunk", [choice]))

    return Events(
        opening=event({"role": "assistant", "content": "", "refusal": None}),
        words=[event({"content": word}) for word in words],
        ending=[
            event({}, "stop"),
            _event(_completion("chat.completion.chunk", [], usage=_usage())),
            b"data: [DONE]\n\n",
        ],
    )


def _completion(kind: str, choices: list[Json], **more: Any) -> Json:
    return {
        "id": f"chatcmpl-{_ID}",
        "object": kind,
        "created": 1763640000,
        "model": "model",
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        **more,
    }


def _usage() -> Json:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _message(content: list[Json], stop: str | None, output: int) -> Json:
    usage = {
        "input_tokens": INPUT_TOKENS,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "service_tier": "standard",
    }
    return {
        "id": f"msg_{_ID}",
        "type": "message",
        "role": "assistant",
        "model": "model",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def _anthropic_events(words: Sequence[str]) -> Events:
    def event(kind: str, **members: Any) -> bytes:
        return b"event: %b\n%b" % (kind.encode(), _event({"type": kind, **members}))

    block = {"type": "text", "text": ""}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return Events(
        opening=event("message_start", message=_message([], None, 1))
        + event("content_block_start", index=0, content_block=block)
        + event("ping"),
        words=[
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in words
        ],
        ending=[
            event("content_block_stop", index=0),
            event("message_delta", delta=end, usage={"output_tokens": OUTPUT_TOKENS}),
            event("message_stop"),
        ],
    )


def _generated(text: str, finish: str | None, output: int) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {
        "promptTokenCount": INPUT_TOKENS,
        "candidatesTokenCount": output,
        "totalTokenCount": INPUT_TOKENS + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": INPUT_TOKENS}],
    }
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "model",
        "responseId": _ID,
    }


def _gemini_events(words: Sequence[str]) -> Events:
    return Events(
        opening=b"",
        words=[_event(_generated(word, None, place + 1)) for place, word in enumerate(words)],
        ending=[_event(_generated("", "STOP", OUTPUT_TOKENS))],
    )


def _event(value: Json) -> bytes:
    return b"data: %b\n\n" % json.dumps(value, separators=(",", ":")).encode()
