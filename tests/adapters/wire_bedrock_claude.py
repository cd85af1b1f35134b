"""Anthropic's wire inside Amazon's, as Bedrock's `InvokeModelWithResponseStream` has it.

Sources: Amazon Bedrock's API reference, "InvokeModelWithResponseStream" and "PayloadPart".
"""

from __future__ import annotations

import json

from tests.adapters import clouds, wire_anthropic
from tests.adapters.wire import Said, read
from tests.adapters.wire_anthropic import tells, whole
from tests.adapters.wire_converse import content_type, error_event, failing

__all__ = [
    "content_type",
    "error_event",
    "failing",
    "frame",
    "optional",
    "read",
    "stream",
    "tells",
    "whole",
]

optional = 0


def stream(said: Said) -> list[bytes]:
    payloads = (event.partition(b"data: ")[2] for event in wire_anthropic.stream(said))
    return [clouds.chunk(json.loads(payload)) for payload in payloads]


def frame(payload: bytes) -> bytes:
    headers = clouds.header(":event-type", "chunk") + clouds.header(":message-type", "event")
    return clouds.message(headers, payload)
