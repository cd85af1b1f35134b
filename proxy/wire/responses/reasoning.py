"""What a model thought, as it goes to a client and comes back with the next request.

The text alone is not enough: providers want their signatures back unchanged. Both travel inside
`encrypted_content`, the one member of a reasoning item that clients return as they got it, even
those that keep nothing else (`store: false`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from proxy.wire.surrogates import encode, without_lone

Entry = dict[str, Any]

CALL = "tool_call"
"""The type of an entry that is not of `reasoning_details`: what belongs to a call, by its `id`."""

TEXTS = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""The types of entries that have a text, and the member it is in."""

_PREFIX = "tw1."
_entries = msgspec.json.Decoder(list[dict[str, Any]])


def seal(entries: list[Entry]) -> str:
    """Entries as `encrypted_content`."""
    return _PREFIX + base64.urlsafe_b64encode(encode(entries)).decode()


def is_ours(content: str) -> bool:
    """Whether it was sealed here, so that no provider can read it."""
    return content.startswith(_PREFIX)


def unseal(content: str) -> list[Entry] | None:
    """The entries of our own `encrypted_content`; None of another's, or of what is damaged."""
    if not is_ours(content):
        return None
    try:
        text = base64.b64decode(content[len(_PREFIX) :], altchars=b"-_", validate=True)
        return _entries.decode(without_lone(text))
    except (binascii.Error, ValueError, RecursionError):
        return None


def text_of(entries: list[Entry]) -> str:
    """What the model thought, in words."""
    texts = (entry.get("text") or entry.get("summary") for entry in entries)
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def has_secret(entries: list[Entry]) -> bool:
    """Whether there is more to them than their text."""
    return any(entry.get("signature") or entry.get("data") for entry in entries)
