"""Ids of tool calls that carry along what Gemini wants back with the call.

Gemini refuses a call in the history that lost its thought signature, and a `tool_use` block has no
member for it. An id comes back as it was, so the signature is appended to that; LiteLLM does the
same.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

_MARK = "__thought__"


def with_signature(call: dict[str, Any]) -> str:
    """The id of a chat's tool call, with the signature it has, if any."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    given = str(call["id"])
    if not isinstance(signature, str) or not signature:
        return given
    packed = base64.urlsafe_b64encode(signature.encode("utf-8", "replace")).decode().rstrip("=")
    return f"{given}{_MARK}{packed}"


def without_signature(call_id: str) -> str:
    """The id as the provider gave it."""
    return call_id.partition(_MARK)[0]


def extra_content(call_id: str) -> dict[str, Any] | None:
    """The member of a chat's tool call that an id carries, if any."""
    _, _, packed = call_id.partition(_MARK)
    if not packed:
        return None
    try:
        signature = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return {"google": {"thought_signature": signature}}
