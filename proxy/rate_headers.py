"""`x-ratelimit-*` as OpenAI sends them: limits, what is left, and how long until all of it is back.

Source: OpenAI's guide "Rate limits", section "Rate limits in headers".
"""

from __future__ import annotations

from proxy.http import HeaderList
from proxy.ledger.protocol import Rate


def rate_headers(requests: Rate | None, tokens: Rate | None) -> HeaderList:
    """The headers of the limits that there are."""
    headers: HeaderList = []
    for name, rate in ((b"requests", requests), (b"tokens", tokens)):
        if rate is not None:
            headers += [
                (b"x-ratelimit-limit-" + name, b"%d" % rate.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % rate.left),
                (b"x-ratelimit-reset-" + name, duration(rate.reset_ms).encode()),
            ]
    return headers


def duration(milliseconds: int) -> str:
    """A span of time as OpenAI writes it: `0s`, `120ms`, `59.2s`, `1m1.5s`."""
    if milliseconds < 1_000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1_000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
