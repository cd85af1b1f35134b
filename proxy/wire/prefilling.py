"""Asking a provider to go on with an answer that another one began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.base import Prefill, Unsupported
from proxy.wire.body import Body

_MARKS: Mapping[Prefill, Mapping[str, bool]] = {
    "plain": {},
    "prefix": {"prefix": True},
    "partial": {"partial": True},
    "continue": {},
}
# What a server that renders templates is told beside the messages.
_OPEN_END = {"continue_final_message": b"true", "add_generation_prompt": b"false"}


def prefilled(body: Body, begun: str, how: Prefill | None) -> dict[str, bytes]:
    """The members to change so that the last message is the assistant's, and says `begun` so far.

    Raises `Unsupported` where the provider would take that for a turn of its own.
    """
    if how is None:
        raise Unsupported("it cannot go on with an answer that was begun", param="messages")
    message: dict[str, Any] = {"role": "assistant", "content": begun, **_MARKS[how]}
    messages = bytes(body.members["messages"]).rstrip().removesuffix(b"]")
    changes = {"messages": b"%b,%b]" % (messages, msgspec.json.encode(message))}
    return {**changes, **_OPEN_END} if how == "continue" else changes
