"""Who asks: a key, or nobody on the loopback interface.

Keys are looked up by the HMAC-SHA256 of what was sent; the secret of that HMAC lies in the data
folder, so a stolen ledger holds nothing that could be tried against a list of leaked keys.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.errors import Forbidden, MissingKey, WrongKey
from proxy.http import Exchange
from proxy.ledger.protocol import KeyRecord

KEY_PREFIX = "sk-tw-"
_LOOPBACK_NAMES = frozenset({"localhost"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and which budgets' scopes that touches. `models` empty means any model."""

    key_id: str
    name: str
    models: frozenset[str]
    scopes: tuple[str, ...]

    def may_name(self, model: str) -> bool:
        """Whether this caller may ask for the model by this name."""
        return not self.models or model in self.models


ANONYMOUS = Caller(key_id="", name="anonymous", models=frozenset(), scopes=("global", "anonymous"))


def scope_problem(scope: str, keys: Iterable[KeyRecord]) -> str | None:
    """What is wrong with a budget's scope: a typo would make one that nothing is charged to."""
    kind, _, key_id = scope.partition(":")
    if scope in ("global", "anonymous"):
        return None
    if kind == "key" and any(key.key_id == key_id for key in keys):
        return None
    return f"unknown scope {scope[:100]!r}; there are global, anonymous and key:<id>"


def new_key() -> str:
    """A fresh key: 256 bits, URL-safe."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(key: str, secret: bytes) -> bytes:
    """What is stored and looked up in place of a key."""
    return hmac.digest(secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def hint(key: str) -> str:
    """Enough of a key to tell it from others, too little to use it."""
    return f"{key[: len(KEY_PREFIX) + 2]}…{key[-4:]}"


class Auth:
    """Turns the headers of a request into a `Caller`.

    `keys` is the ledger's live table. While it is empty and `allow_anonymous` holds, a caller
    needs no key; whatever the client's SDK insists on sending is accepted, except what looks like
    one of our own keys.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        keys: Callable[[], Mapping[bytes, KeyRecord]],
        allow_anonymous: bool,
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._allow_anonymous = allow_anonymous
        self._hosts = _LOOPBACK_NAMES | hosts
        self._callers: dict[KeyRecord, Caller] = {}

    def identify(self, exchange: Exchange) -> Caller:
        """The caller; raises `MissingKey`, `WrongKey` or, for a web page, `Forbidden`."""
        key = _sent_key(exchange)
        keys = self._keys()
        if not keys and self._allow_anonymous and not (key or "").startswith(KEY_PREFIX):
            self._check_local(exchange)
            return ANONYMOUS
        if key is None:
            raise MissingKey(
                "no API key was sent; send 'Authorization: Bearer <key>' "
                "(keys are made with 'tollway keys create')"
            )
        record = keys.get(digest(key, self._secret))
        if record is None or record.revoked_at is not None:
            raise WrongKey("the API key is unknown or revoked")
        return self._caller(record)

    def _caller(self, record: KeyRecord) -> Caller:
        caller = self._callers.get(record)
        if caller is None:
            if len(self._callers) > 100_000:
                self._callers.clear()
            caller = self._callers[record] = Caller(
                key_id=record.key_id,
                name=record.name,
                models=frozenset(record.models),
                scopes=("global", f"key:{record.key_id}"),
            )
        return caller

    def _check_local(self, exchange: Exchange) -> None:
        """No web page may spend the user's money.

        A page reaches a loopback port either with its own origin, or by a name that was made to
        resolve there (DNS rebinding), and then with that name as the host.
        """
        host = exchange.header(b"host")
        if host is None or not self._is_local(f"//{host}"):
            raise Forbidden(
                f"without keys only local callers are served, and Host {host!r} is not local; "
                "create a key with 'tollway keys create', or list the name in server.hosts"
            )
        origin = exchange.header(b"origin")
        if origin is not None and not self._is_local(origin):
            raise Forbidden(
                f"without keys no web page is served, and Origin {origin!r} is foreign; "
                "create a key with 'tollway keys create'"
            )
        if exchange.header(b"sec-fetch-site") == "cross-site":
            raise Forbidden("without keys no web page is served; create a key first")

    def _is_local(self, url: str) -> bool:
        """A name that cannot be made to resolve to us, or an address that is us."""
        try:
            name = urlsplit(url).hostname
            return name in self._hosts or ipaddress.ip_address(name or "").is_loopback
        except ValueError:
            return False


def _sent_key(exchange: Exchange) -> str | None:
    """The key of the request, from any of the three headers in use; two that differ are refused."""
    headers = exchange.headers
    found: str | None = None
    authorization = headers.get(b"authorization")
    if authorization is not None:
        kind, _, value = authorization.decode("latin-1").partition(" ")
        if kind.lower() == "bearer" and value.strip():
            found = value.strip()
    if b"x-api-key" in headers or b"api-key" in headers:
        for name in (b"x-api-key", b"api-key"):
            other = exchange.header(name)
            if (
                other
                and found is not None
                and not hmac.compare_digest(other.encode(), found.encode())
            ):
                raise WrongKey("the request carries two different API keys")
            found = other or found
    return found
