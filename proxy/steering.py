"""Where a request goes and with which credentials is the operator's to say, never a client's.

Gateways and SDKs know names by which a request says it itself. One that was relayed might be obeyed
by a gateway behind us, which would then send the operator's key wherever the client likes; one
that was passed over in silence would let the client believe it was obeyed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from proxy.errors import InvalidRequest, WrongKey

MEMBERS = frozenset({"api_base", "base_url", "api_key"})
"""Of a body, in lower case."""
_HEADERS = frozenset(
    {b"api_base", b"api-base", b"base_url", b"base-url", b"x-api-base", b"x-base-url"}
)
_ADDRESSES = frozenset({"api_base", "base_url"})
# What is in a URL is in the log of every server that it passes.
_KEYS = frozenset({"key", "api_key", "api-key", "access_token"})


def check_members(names: Collection[str]) -> None:
    """Raise `InvalidRequest` where a body's names say where to send it."""
    if not MEMBERS.isdisjoint(names):
        name = min(MEMBERS.intersection(names))
        raise InvalidRequest(f"{name!r} is configured here, not sent; leave it out", param=name)


def check_head(query: bytes, headers: Mapping[bytes, bytes]) -> None:
    """Raise `InvalidRequest` where a URL or a header says where to send a request.

    Raises `WrongKey` where a key is in the URL.
    """
    if not _HEADERS.isdisjoint(headers):
        header = min(_HEADERS.intersection(headers)).decode()
        raise InvalidRequest(f"the header {header!r} is not obeyed; leave it out")
    if query:
        names = {
            name.lower() for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        }
        if not names.isdisjoint(_KEYS):
            raise WrongKey("a key in the URL is not read; send 'Authorization: Bearer <key>'")
        if not names.isdisjoint(_ADDRESSES):
            name = min(names & _ADDRESSES)
            raise InvalidRequest(f"{name!r} is configured here, not sent; leave it out", param=name)
