"""A chat that asks for its answer in one piece, though its client asked for a stream."""

from __future__ import annotations

import msgspec

from proxy.wire.body import Body
from proxy.wire.dialect import Sent

_OF_STREAMS: dict[str, bytes | None] = {"stream": None, "stream_options": None}


def unstreamed(sent: Sent) -> Sent:
    """The same chat without what belongs to a stream."""
    return msgspec.structs.replace(sent, body=Body.parse(sent.body).join(_OF_STREAMS))
