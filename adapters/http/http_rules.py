"""The HTTP rules that every transport keeps, whichever library carries the bytes.

What an origin is, which request headers may be set, which answer heads are taken, and how an
answer's content coding is undone in bounded memory.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from adapters.base import MalformedAnswer

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100

# A decoded piece is as large as the read-ahead of a plain body: neither coding costs more memory.
_DECODED_PIECE_BYTES: Final = 256 * 1024

_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?\Z")
_PATH = re.compile(r"/[!-\"$-~]*\Z")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_FIELD_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?\Z")

# Framing and connection are the transport's own business; a caller who could set these could
# smuggle a second request past it.
TRANSPORT_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where requests of one transport go: a server, and the path that every request starts with.

    `host` is a lower-case name or a bare IP address; `path` is empty or starts with a slash and
    ends without one.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, base_url: str) -> Self:
        """The origin of `base_url`; raises `ValueError` where it is not a plain HTTP(S) URL.

        Refused are a query or fragment (paths are appended to the URL) and a user or password,
        which would turn up in every log line that names the URL.
        """
        parts = urlsplit(base_url)
        if parts.username is not None or parts.password is not None:
            # Not quoted: the message would show the password.
            raise ValueError("a base URL must not hold a user or password; use the key's setting")
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"the base URL {base_url!r} must start with http:// or https://")
        if parts.query or parts.fragment or "?" in base_url or "#" in base_url:
            raise ValueError(f"the base URL {base_url!r} must not have a query or a fragment")
        path = parts.path.rstrip("/")
        if path and not _PATH.match(path):
            raise ValueError(f"the base URL {base_url!r} has characters that need %-encoding")
        return cls(
            scheme="https" if parts.scheme == "https" else "http",
            host=_checked_host(parts.hostname or "", base_url),
            port=_DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port,
            path=path,
        )

    @property
    def address(self) -> str:
        """`host:port`, as messages name it."""
        return f"{self._host_in_url}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of the `Host` header (RFC 9110, section 7.2)."""
        is_default = self.port == _DEFAULT_PORTS[self.scheme]
        return self._host_in_url if is_default else self.address

    @property
    def is_loopback(self) -> bool:
        """True where the host can only be this machine."""
        if ":" in self.host or self.host[-1].isdigit():
            try:
                ip = ipaddress.ip_address(self.host)
            except ValueError:
                return False
            mapped = getattr(ip, "ipv4_mapped", None)
            return (mapped or ip).is_loopback
        name = self.host.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")

    def target(self, path: str) -> str:
        """The request target for `path`, which follows the base URL's own path.

        `path` starts with a slash and may hold a query; anything that is not printable ASCII
        must be %-encoded, otherwise `ValueError`.
        """
        if not _PATH.match(path):
            raise ValueError(f"the path {path!r} must start with a slash and be %-encoded")
        return self.path + path

    @property
    def _host_in_url(self) -> str:
        # An IPv6 zone ("%eth0") means something on this machine only (RFC 6874, section 3).
        return f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host


def _checked_host(host: str, base_url: str) -> str:
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError(f"the base URL {base_url!r} has a bad IPv6 address") from None
    if not _HOST_NAME.match(host):
        raise ValueError(
            f"the base URL {base_url!r} has no valid host (write other scripts as xn--… names)"
        )
    return host


def header_lines(headers: Mapping[str, str], reserved: frozenset[str]) -> str:
    """`headers` as lines of a request head, each ending in CRLF.

    Raises `ValueError` for a name that is no token or is in `reserved` (lower case), and for a
    value with CR, LF, NUL or another control character, or with blanks around it. The message
    names the header but never quotes its value, which may be a credential.
    """
    lines = []
    for name, value in headers.items():
        if not _FIELD_NAME.match(name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in reserved:
            raise ValueError(f"the header {name!r} is set by the transport")
        if not _FIELD_VALUE.match(value):
            raise ValueError(f"the value of the header {name!r} has characters headers cannot hold")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


def accepted_headers(
    status: int, fields: Sequence[tuple[bytes, bytes]], address: str
) -> dict[str, str]:
    """An answer's headers by lower-case name; repeated ones joined by commas (RFC 9110, 5.3).

    Raises `MalformedAnswer` for more than `MAX_HEADERS` fields, for a change of protocol, and for
    a redirect: following one would send the prompt and the credentials to a host that nobody
    configured.
    """
    if len(fields) > MAX_HEADERS:
        raise MalformedAnswer(
            f"{address} answered with {len(fields)} headers; at most {MAX_HEADERS} are taken"
        )
    if status == 101:
        raise MalformedAnswer(f"{address} switched to another protocol, unasked")
    if 300 <= status < 400 and status != 304:
        raise MalformedAnswer(
            f"{address} answered with a redirect (status {status}), which is never followed; "
            "set the base URL to the final address"
        )
    headers = {_name(name): value.decode("latin-1").strip(" \t") for name, value in fields}
    return headers if len(headers) == len(fields) else _joined(fields)


# The same few names come with every answer.
@functools.lru_cache(maxsize=256)
def _name(name: bytes) -> str:
    return name.lower().decode("latin-1")


def _joined(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name = _name(raw_name)
        value = raw_value.decode("latin-1").strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def head_too_large(address: str) -> MalformedAnswer:
    """The error for an answer head of more than `MAX_HEAD_BYTES`."""
    return MalformedAnswer(f"{address} answered with more than {MAX_HEAD_BYTES} bytes of headers")


def answer_too_large(limit: int, address: str) -> MalformedAnswer:
    """The error for an answer body of more than `limit` bytes."""
    return MalformedAnswer(f"the answer of {address} is larger than {limit} bytes")


def decoder_for(headers: Mapping[str, str], address: str) -> ContentDecoder | None:
    """What undoes the answer's content coding; None where it has none.

    Requests ask for `identity`, but some servers compress all the same. Raises `MalformedAnswer`
    for a coding other than gzip and deflate.
    """
    if "content-encoding" not in headers:
        return None
    coding = headers["content-encoding"].strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return ContentDecoder(coding, address)
    raise MalformedAnswer(f"{address} answered in the content coding {coding!r}, unasked")


class ContentDecoder:
    """Undoes gzip or deflate piece by piece.

    However much a few compressed bytes unfold to, no more than one piece of 256 KiB is held at a
    time: `push` what arrived, then `pull` until it returns nothing.
    """

    def __init__(self, coding: str, address: str) -> None:
        self._coding = coding
        self._address = address
        self._compressed = b""
        self._inflater: zlib._Decompress | None = None

    def push(self, compressed: bytes) -> None:
        """Take bytes in; raises `MalformedAnswer` where the coded data had already ended."""
        if self._inflater is None:
            self._inflater = zlib.decompressobj(wbits=self._wbits(compressed))
        if self._inflater.eof:
            raise self._broken("goes on after its end")
        self._compressed += compressed

    def pull(self) -> bytes:
        """The next decoded piece; empty when more input is needed. Raises `MalformedAnswer`."""
        inflater = self._inflater
        if inflater is None or inflater.eof:
            return b""
        try:
            piece = inflater.decompress(self._compressed, _DECODED_PIECE_BYTES)
        except zlib.error as error:
            raise self._broken(f"is broken ({error})") from None
        self._compressed = inflater.unconsumed_tail
        if inflater.unused_data:
            raise self._broken("goes on after its end")
        return piece

    def finish(self) -> None:
        """The body has ended: raises `MalformedAnswer` where the coded data has not.

        A body without a byte (status 204) is no coded data at all.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise self._broken("stops in the middle")

    def _wbits(self, compressed: bytes) -> int:
        if self._coding != "deflate":
            return 16 + zlib.MAX_WBITS  # the gzip format, in zlib's numbering
        # "deflate" means the zlib format, but some servers send the bare one (RFC 9110, 8.4.1.2).
        # The low half of zlib's first byte is always 8; bare data practically never starts so.
        return zlib.MAX_WBITS if compressed[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS

    def _broken(self, how: str) -> MalformedAnswer:
        return MalformedAnswer(f"the {self._coding} data of {self._address} {how}")


async def read_bounded(read: Callable[[], Awaitable[bytes]], limit: int, address: str) -> bytes:
    """All that `read` returns until it returns nothing.

    Raises `MalformedAnswer` beyond `limit` bytes, and what `read` raises.
    """
    pieces = []
    size = 0
    while piece := await read():
        size += len(piece)
        if size > limit:
            raise answer_too_large(limit, address)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
