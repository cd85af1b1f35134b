"""The headers by which a request says more than its body does; any other of ours is a mistake."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.errors import InvalidRequest
from proxy.fair_queue import RANKS

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

_SWITCH = (b"true", b"false")
_ONE_OF: Mapping[bytes, tuple[bytes, ...]] = {
    b"x-tollway-clamp": _SWITCH,
    b"x-tollway-drop-params": _SWITCH,
    b"x-tollway-priority": tuple(name.encode() for name in RANKS),
}
_LONGEST_QUOTE = 100


def are_in(headers: Mapping[bytes, bytes]) -> bool:
    """Whether there may be any of ours: nearly never, and found out at once."""
    return PREFIX in b" ".join(headers)


def check(headers: Mapping[bytes, bytes]) -> None:
    """Raise `InvalidRequest` for one that nothing reads: a misspelt limit would be none.

    Nor is anything else than is expected of those with a few values taken for one of them.
    """
    for header, value in headers.items():
        if not header.startswith(PREFIX):
            continue
        name = header.decode("latin-1")[:_LONGEST_QUOTE]
        if header not in KNOWN:
            known = ", ".join(sorted(each.decode() for each in KNOWN))
            raise InvalidRequest(
                f"{name}: is no header that is known; there are {known}", param=name
            )
        expected = _ONE_OF.get(header)
        if expected is not None and value.strip().lower() not in expected:
            words = b", ".join(expected).decode()
            raise InvalidRequest(f"{name}: must be one of {words}", param=name)


def is_on(headers: Mapping[bytes, bytes], name: bytes) -> bool:
    """Whether a header that may be true or false is true."""
    value = headers.get(name)
    return value is not None and value.strip().lower() == b"true"
