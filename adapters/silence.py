"""How long a stream may bring bytes and say nothing: comments, pings and empty deltas are no words.

A connection that brings nothing at all is ended sooner, by the transport (`Deadlines.idle_s`).
"""

from __future__ import annotations

import time

from adapters.base import UpstreamTimeout


def silent(since: float | None, limit_s: float) -> float:
    """Since when (monotonic) a stream says nothing, where bytes have come that say nothing either.

    Raises `UpstreamTimeout` once that is longer than `limit_s`.
    """
    now = time.monotonic()
    if since is None:
        return now
    if now - since > limit_s:
        raise UpstreamTimeout(
            f"the provider kept its stream open and said nothing for {limit_s:g} s", phase="idle"
        )
    return since
