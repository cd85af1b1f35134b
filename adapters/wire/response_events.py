"""Reads the events of OpenAI's Responses API: the last one says that it is the last.

Source: OpenAI's API reference, "Streaming events" of the Responses API.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from adapters.http.over_http import EventReader

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_DONE = b"[DONE]"


class _Event(msgspec.Struct):
    type: str = ""


_event = msgspec.json.Decoder(_Event)


class ResponseEvents(EventReader):
    """The events up to the one that ends a response, and nothing behind it."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """See `adapters.http.over_http.Reader`."""
        ready: list[bytes] = []
        for payload in payloads:
            if not payload or payload.strip() == _DONE:
                continue  # what servers send that write chat streams, too
            ready.append(payload)
            if _type(payload) in _ENDS:
                self.is_done = True
                break
        return ready


def _type(payload: bytes) -> str:
    try:
        try:
            return _event.decode(payload).type
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # it may hold a surrogate that stands alone
            return msgspec.convert(json.loads(payload), _Event).type
    except (ValueError, RecursionError):
        return ""  # whoever reads the event says what is wrong with it
