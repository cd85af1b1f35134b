"""Whether a request's head says one thing only.

The parser (llhttp) refuses most of what servers read in different ways: two lengths, a length
beside an encoding, folded lines, bare CR and LF, spaces before a colon, control characters. This
is what it lets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from proxy.errors import ApiError, HeadTooLarge, InvalidRequest

MOST_HEAD_BYTES = 64 << 10
MOST_HEADERS = 100

Headers = Sequence[tuple[bytes, bytes]]

# Those that decide who asks for what. Of two, a proxy in front may have checked the other one.
_ONCE = frozenset(
    b"""host authorization x-api-key api-key content-type content-encoding content-length
    transfer-encoding origin sec-fetch-site anthropic-version""".split()
)
_OURS = b"x-tollway-"

# RFC 3986's reg-name or an IP literal, and a port.
_host = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


@lru_cache(maxsize=64)  # clients nearly all say the same
def _is_host(host: bytes) -> bool:
    return _host.fullmatch(host.strip()) is not None


def fault(
    version: str, url: bytes, headers: Headers, fields: Mapping[bytes, bytes]
) -> ApiError | None:
    """Why the request is not answered, if it is not.

    `fields` are the `headers` by name, in lower case.
    """
    if version not in ("1.1", "1.0"):
        return InvalidRequest(f"HTTP/{version} is not spoken here; send HTTP/1.1")
    if not url.startswith(b"/") or b"#" in url:
        return InvalidRequest("the request's target must be a path, as in 'POST /v1/responses'")
    if len(headers) > MOST_HEADERS:
        return HeadTooLarge(f"the request has more than {MOST_HEADERS} headers")
    host = fields.get(b"host")
    if host is None:
        if version == "1.1":
            return InvalidRequest("the request has no Host header")
    elif not _is_host(host):
        return InvalidRequest("the Host header is no name and no address")
    encoding = fields.get(b"transfer-encoding")
    if encoding is not None and (version == "1.0" or encoding.strip().lower() != b"chunked"):
        return InvalidRequest("the only Transfer-Encoding here is 'chunked', and in HTTP/1.1")
    return _repeated(headers) if len(fields) < len(headers) else None


def too_large(url: bytes, headers: Headers) -> HeadTooLarge | None:
    """The refusal of a head that is larger than it may be."""
    size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
    return head_too_large() if size > MOST_HEAD_BYTES else None


def head_too_large() -> HeadTooLarge:
    """The refusal itself, for a head that never ends."""
    return HeadTooLarge(f"the request's head is larger than {MOST_HEAD_BYTES} bytes")


def _repeated(headers: Headers) -> InvalidRequest | None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and (name in _ONCE or name.startswith(_OURS)):
            return InvalidRequest(f"the header {name.decode('latin-1')!r} is there twice")
        seen.add(name)
    return None
