"""The headers by which a request says more than its body does; any other of ours is a mistake."""

from __future__ import annotations

from collections.abc import Collection

from proxy.errors import InvalidRequest

PREFIX = b"x-tollway-"

KNOWN = frozenset(
    {
        b"x-tollway-clamp",
        b"x-tollway-conversation",
        b"x-tollway-deadline-ms",
        b"x-tollway-drop-params",
        b"x-tollway-max-cost-usd",
        b"x-tollway-max-latency-ms",
        b"x-tollway-priority",
        b"x-tollway-tags",
        b"x-tollway-user",
        b"x-tollway-weights",
    }
)

_LONGEST_QUOTE = 100


def check(headers: Collection[bytes]) -> None:
    """Raise `InvalidRequest` for one that nothing reads: a misspelt limit would be none."""
    if PREFIX not in b" ".join(headers):  # nearly always, and at once
        return
    for header in headers:
        if header.startswith(PREFIX) and header not in KNOWN:
            name = header.decode("latin-1")[:_LONGEST_QUOTE]
            known = ", ".join(sorted(each.decode() for each in KNOWN))
            raise InvalidRequest(
                f"{name}: is no header that is known; there are {known}", param=name
            )
