"""A chat stream that broke, and what it takes for another target to go on with it.

Transcript   what has left so far; says whether that can be gone on with
Seam         joins the text of the next target to it, without what is said twice
Resumed      the answer of the next target, joined
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters.base import Answer
from policies.base import Capability
from proxy.wire.body import Body
from proxy.wire.chat import MESSAGE_TOKENS, ChatRequest
from proxy.wire.dialect import Request

MOST_BYTES = 1 << 20
"""Of a stream that can be gone on with; longer ones are not remembered."""

# A repetition shorter than this may be chance, and what was said is not to lose a letter.
LEAST_REPEATED = 16
# How far back a repetition may begin, unless the whole is repeated.
_TAIL = 2000

_STARTS = b"data: "
# What an answer may need of its targets and yet be said by two.
_KEPT: frozenset[Capability] = frozenset({"chat", "tools", "vision", "audio", "files"})
# What of a delta may have left besides text: nothing that half of it is worthless of.
_HARMLESS = frozenset({"role", "content", "reasoning_content", "reasoning", "refusal"})


class _Turn(msgspec.Struct):
    role: str = ""


class _Form(msgspec.Struct):
    type: str = "text"


class _Fields(msgspec.Struct):
    messages: list[_Turn]
    response_format: _Form | None = None


_fields = msgspec.json.Decoder(_Fields)


def may_continue(request: Request) -> bool:
    """Whether an answer to this may be said by two: one text, of no form that both must keep.

    Not if it is to have several choices, probabilities, thoughts or a given form, and not if the
    client itself has begun it.
    """
    if not isinstance(request, ChatRequest) or request.reasons or request.n > 1:
        return False
    if not request.needs <= _KEPT or "modalities" in request.body.members:
        return False
    fields = request.body.decode(_fields)
    is_free = fields.response_format is None or fields.response_format.type == "text"
    return is_free and fields.messages[-1].role != "assistant"


def continued(request: Request, said: str, used_tokens: int) -> ChatRequest | None:
    """The request to go on with what was `said`; None where its maximum leaves no room for more."""
    assert isinstance(request, ChatRequest)
    begun = said.rstrip()
    size = len(json.dumps(begun))
    most = request.max_output_tokens
    body = request.body
    if most is not None:
        most -= used_tokens
        if most < 1:
            return None
        limits = ("max_tokens", "max_completion_tokens")
        set_ = [name for name in limits if bytes(body.members.get(name, b"null")) != b"null"]
        members = {**body.members, **{name: msgspec.Raw(b"%d" % most) for name in set_}}
        body = Body(body.text, members)
    return msgspec.structs.replace(
        request,
        body=body,
        begun=begun,
        max_output_tokens=most,
        text_bytes=request.text_bytes + size,
        added_tokens=request.added_tokens + MESSAGE_TOKENS,
    )


class Transcript:
    """The events of a chat stream that have left for the client."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._room = MOST_BYTES

    def add(self, events: bytes) -> None:
        """Remember what is about to leave."""
        self._room -= len(events)
        if self._room < 0:
            self._events.clear()
        else:
            self._events.append(events)

    def text(self) -> str:
        """What was said; empty where that cannot be gone on with.

        So if it was nothing but thoughts, has a tool call in it, is finished, or too long.
        """
        if self._room < 0:
            return ""
        said: list[str] = []
        for event in b"".join(self._events).split(b"\n\n"):
            if not event.startswith(_STARTS):
                continue
            for choice in json.loads(event[len(_STARTS) :])["choices"]:
                delta = choice["delta"]
                if choice["index"] or choice["finish_reason"] or not _is_harmless(delta):
                    return ""
                said.append(delta.get("content") or "")
        text = "".join(said)
        return text if text.strip() and _is_text(text) else ""


def _is_harmless(delta: Mapping[str, Any]) -> bool:
    return not delta.get("refusal") and all(
        name in _HARMLESS or not value for name, value in delta.items()
    )


def _is_text(text: str) -> bool:
    """Whether it is one that JSON in UTF-8 can have: not cut in the middle of a character."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


class Seam:
    """Leaves out of a text what it repeats of the one before.

    What it may repeat is all of that, or its end (of `LEAST_REPEATED` characters or more), or the
    white space at its end, which the next target was not told of.
    """

    def __init__(self, said: str) -> None:
        tail = said[-_TAIL:]
        blank = said[len(said.rstrip()) :]
        ends = {tail[i:] for i in range(len(tail) - LEAST_REPEATED + 1)}
        ends |= {blank[i:] for i in range(len(blank))}
        self._repeated = sorted({said, said.rstrip(), *ends}, key=len, reverse=True)
        self._held = ""
        self.is_closed = False

    def join(self, text: str) -> str:
        """What is new in the next piece; held back as long as it may be a repetition."""
        self._held += text
        held = self._held
        self._repeated = [
            said for said in self._repeated if held.startswith(said) or said.startswith(held)
        ]
        if any(len(said) > len(held) for said in self._repeated):
            return ""
        return self.close()

    def close(self) -> str:
        """What was held back, and is new."""
        self.is_closed = True
        held, self._held = self._held, ""
        whole = next((said for said in self._repeated if held.startswith(said)), "")
        is_within = any(len(said) > len(held) for said in self._repeated)
        if not whole and len(held) >= LEAST_REPEATED and is_within:
            return ""  # it broke off in the middle of repeating
        return held[len(whole) :]


class Resumed:
    """The answer of a target that goes on with a text, as one that begins where it ended."""

    def __init__(self, answer: Answer, said: str) -> None:
        self._answer = answer
        self._seam = Seam(said)
        self._last: dict[str, Any] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Answer`."""
        return self._answer.headers

    @property
    def dropped(self) -> Sequence[str]:
        """See `Answer`."""
        return self._answer.dropped

    async def body(self) -> bytes:
        """See `Answer`."""
        return await self._answer.body()

    async def pieces(self) -> bytes:
        """See `Answer`."""
        return await self._answer.pieces()

    async def payloads(self) -> Sequence[bytes]:
        """See `Answer`; once the two are joined, the provider's own bytes."""
        while not self._seam.is_closed:
            payloads = await self._answer.payloads()
            joined = [new for payload in payloads for new in self._joined(payload)]
            if not payloads:
                joined = self._rest()
            if joined or not payloads:
                return joined
        return await self._answer.payloads()

    def _joined(self, payload: bytes) -> list[bytes]:
        """What stands for a payload: all of it, what is new, what was held back and then itself."""
        if self._seam.is_closed:
            return [payload]
        try:
            chunk = json.loads(payload)
            choice = chunk["choices"][0]
            text = choice["delta"].get("content")
            is_end = bool(choice.get("finish_reason"))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return [payload]
        if isinstance(text, str) and text:
            choice["delta"]["content"] = new = self._seam.join(text)
            self._last = chunk
            if not is_end:
                return [_encoded(chunk)] if new else []
            payload = _encoded(chunk)
        return [*self._rest(), payload] if is_end else [payload]

    def _rest(self) -> list[bytes]:
        """What was held back, if it is new, as a payload like the last that said something."""
        rest = "" if self._seam.is_closed else self._seam.close()
        if not rest:
            return []
        choice = {"index": 0, "delta": {"content": rest}, "finish_reason": None}
        return [_encoded({**self._last, "choices": [choice], "usage": None})]


def _encoded(chunk: Mapping[str, Any]) -> bytes:
    return json.dumps(chunk, separators=(",", ":")).encode()
