"""Who asks: a key, or nobody on the loopback interface.

Keys are looked up by the HMAC-SHA256 of what was sent; the secret of that HMAC lies in the data
folder, so a stolen ledger holds nothing that could be tried against a list of leaked keys.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy import steering
from proxy.addresses import Network, client_address, is_in, parse_network
from proxy.clock import Clock
from proxy.errors import (
    ApiError,
    Forbidden,
    KeyBlocked,
    KeyExpired,
    MissingKey,
    NetworkRefused,
    WrongKey,
)
from proxy.http import Exchange
from proxy.ledger.protocol import AtCap, GroupRecord, KeyRecord

KEY_PREFIX = "sk-tw-"
# So many headers and keys are remembered with what follows from them.
_MOST_KNOWN = 100_000
_LONGEST_REMEMBERED_BYTES = 200
# Whether a key ever existed is nobody's business.
_UNKNOWN = "the API key is unknown or revoked"
# Where clients send keys besides in `authorization`.
_OTHERS = frozenset({b"x-api-key", b"api-key"})
_LOOPBACK_NAMES = frozenset({"localhost"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks: what they may ask for, and which scopes' budgets and limits that touches."""

    key_id: str
    """Empty for the anonymous caller."""
    name: str
    scopes: tuple[str, ...]
    team_id: str = ""
    models: tuple[frozenset[str], ...] = ()
    """What the key, its team and its organisation allow, where they restrict it at all."""
    endpoints: frozenset[str] = frozenset()
    """As `Attempt.endpoint` names them; empty is all."""
    at_cap: AtCap = "downgrade"
    clamp: bool = False
    tags: tuple[str, ...] = ()

    def may_name(self, model: str) -> bool:
        """Whether this caller may ask for the model by this name."""
        return all(model in allowed for allowed in self.models)

    def may_use(self, endpoint: str) -> bool:
        """Whether this caller may use the endpoint."""
        return not self.endpoints or endpoint in self.endpoints


ANONYMOUS = Caller(key_id="", name="anonymous", scopes=("global", "anonymous"))


def new_key() -> str:
    """A fresh key: 256 bits, URL-safe."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(key: str, secret: bytes) -> bytes:
    """What is stored and looked up in place of a key."""
    return hmac.digest(secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


def hint(key: str) -> str:
    """Enough of a key to tell it from others, too little to use it."""
    shown = len(KEY_PREFIX) + 2 if key.startswith(KEY_PREFIX) else len("sk-")
    return f"{key[:shown]}…{key[-4:]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What follows from a key and its groups, for as long as none of them changes."""

    record: KeyRecord
    team: GroupRecord | None
    organisation: GroupRecord | None
    caller: Caller
    refusal: tuple[type[ApiError], str] | None
    networks: tuple[Network, ...]
    is_plain: bool
    """Nothing else needs a look: no time, no address, no group."""


class Auth:
    """Turns the headers of a request into a `Caller`.

    `keys` and `groups` are the ledger's live tables. While there are no keys and `allow_anonymous`
    holds, a caller needs none; whatever the client's SDK insists on sending is accepted, except
    what looks like one of our own keys.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        keys: Callable[[], Mapping[bytes, KeyRecord]],
        groups: Callable[[], Mapping[str, GroupRecord]],
        allow_anonymous: bool,
        clock: Clock,
        hosts: frozenset[str] = frozenset(),
        trusted_proxies: tuple[Network, ...] = (),
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._groups = groups
        self._allow_anonymous = allow_anonymous
        self._clock = clock
        self._hosts = _LOOPBACK_NAMES | hosts
        self._trusted_proxies = trusted_proxies
        self._known: dict[bytes, _Known] = {}
        self._digests: dict[bytes, bytes] = {}
        """By `authorization`, of those that had a right key.

        Two are only compared where their hashes are the same, which nobody outside can foresee:
        how much of a guess is right does not show in how long it takes.
        """

    def identify(self, exchange: Exchange) -> Caller:
        """The caller.

        Raises `MissingKey` or `WrongKey`; where the key is right, `KeyExpired`, `KeyBlocked` or
        `NetworkRefused`; and `Forbidden` for a web page without one. Raises `InvalidRequest` where
        the request says itself where it is to be sent.
        """
        known = self._identified(exchange)
        steering.check_head(exchange.scope["query_string"], exchange.headers)
        return ANONYMOUS if known is None else known.caller

    def record(self, exchange: Exchange) -> KeyRecord | None:
        """The caller's key, None of an anonymous one; raises as `identify` does."""
        known = self._identified(exchange)
        return None if known is None else known.record

    def _identified(self, exchange: Exchange) -> _Known | None:
        headers = exchange.headers
        keys = self._keys()
        sent: bytes | None = self._digests.get(headers.get(b"authorization", b""), b"")
        if sent not in keys or not _OTHERS.isdisjoint(headers):
            sent = self._read_key(exchange, keys)
        if sent is None:
            return None
        record = keys.get(sent)
        known = self._known.get(sent)
        # A changed record is another object: nothing is ever changed in place.
        if known is None or known.record is not record or not known.is_plain:
            known = self._checked(exchange, sent, record)
        return known

    def _checked(self, exchange: Exchange, sent: bytes, record: KeyRecord | None) -> _Known:
        """What follows from the key at this moment. Raises why it is not served."""
        if record is None or record.revoked_at is not None:
            raise WrongKey(_UNKNOWN)
        if sent != record.digest and not self._is_in_overlap(sent, record):
            raise WrongKey(_UNKNOWN)
        known = self._what_follows(sent, record)
        if known.refusal is not None:
            error, message = known.refusal
            raise error(message)
        expires_at = record.settings.expires_at
        if expires_at is not None and self._clock.time() >= expires_at:
            raise KeyExpired("the API key has expired")
        if known.networks:
            self._check_network(exchange, known.networks)
        return known

    def _read_key(self, exchange: Exchange, keys: Mapping[bytes, KeyRecord]) -> bytes | None:
        """The digest of the key that was sent, None of an anonymous caller."""
        key = _sent_key(exchange)
        if not keys and self._allow_anonymous and not (key or "").startswith(KEY_PREFIX):
            self._check_local(exchange)
            return None
        if key is None:
            raise MissingKey(
                "no API key was sent; send 'Authorization: Bearer <key>' "
                "(keys are made with 'tollway keys create')"
            )
        sent = digest(key, self._secret)
        authorization = exchange.headers.get(b"authorization", b"")
        is_short = len(authorization) <= _LONGEST_REMEMBERED_BYTES
        if sent in keys and is_short and _OTHERS.isdisjoint(exchange.headers):
            if len(self._digests) > _MOST_KNOWN:
                self._digests.clear()
            self._digests[authorization] = sent
        return sent

    def _is_in_overlap(self, sent: bytes, record: KeyRecord) -> bool:
        """Whether it is the secret from before the key was rotated, and still accepted."""
        return sent == record.previous_digest and self._clock.time() < record.previous_until

    def _what_follows(self, sent: bytes, record: KeyRecord) -> _Known:
        team = organisation = None
        if record.settings.team_id:
            groups = self._groups()
            team = groups.get(record.settings.team_id)
            if team is not None and team.settings.organisation_id:
                organisation = groups.get(team.settings.organisation_id)
        known = self._known.get(sent)
        if (
            known is None
            or known.record is not record
            or known.team is not team
            or known.organisation is not organisation
        ):
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            refusal = _refusal(record, team, organisation)
            settings = record.settings
            known = self._known[sent] = _Known(
                record=record,
                team=team,
                organisation=organisation,
                caller=_caller(record, team, organisation),
                refusal=refusal,
                networks=tuple(parse_network(text) for text in settings.networks),
                is_plain=sent == record.digest
                and refusal is None
                and not (settings.team_id or settings.networks)
                and settings.expires_at is None,
            )
        return known

    def _check_network(self, exchange: Exchange, networks: tuple[Network, ...]) -> None:
        peer = exchange.scope.get("client")
        forwarded = [
            value.decode("latin-1")
            for name, value in exchange.scope["headers"]
            if name == b"x-forwarded-for"
        ]
        address = client_address(peer[0] if peer else None, forwarded, self._trusted_proxies)
        if address is None or not is_in(address, networks):
            raise NetworkRefused(f"the API key may not be used from {address or 'here'}")

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


def _caller(
    record: KeyRecord, team: GroupRecord | None, organisation: GroupRecord | None
) -> Caller:
    settings = record.settings
    scopes = ["global"]
    if organisation is not None:
        scopes.append(f"organisation:{organisation.group_id}")
    if team is not None:
        scopes.append(f"team:{team.group_id}")
    scopes.append(f"key:{record.key_id}")
    groups = (group.settings.models for group in (team, organisation) if group is not None)
    return Caller(
        key_id=record.key_id,
        name=settings.name,
        team_id=settings.team_id,
        scopes=tuple(scopes),
        models=tuple(frozenset(models) for models in (settings.models, *groups) if models),
        endpoints=frozenset(settings.endpoints),
        at_cap=settings.at_cap,
        clamp=settings.clamp,
        tags=settings.tags,
    )


def _refusal(
    record: KeyRecord, team: GroupRecord | None, organisation: GroupRecord | None
) -> tuple[type[ApiError], str] | None:
    """Why the key is not served, whatever it asks for; a group that is not there serves nobody."""
    if record.settings.blocked:
        return KeyBlocked, "the API key is blocked"
    for kind, group_id, group in (
        ("team", record.settings.team_id, team),
        (
            "organisation",
            team.settings.organisation_id if team is not None else "",
            organisation,
        ),
    ):
        if group_id and (group is None or group.deleted_at is not None):
            return KeyBlocked, f"the API key's {kind} no longer exists"
        if group is not None and group.settings.blocked:
            return KeyBlocked, f"the API key's {kind} is blocked"
    return None


def _sent_key(exchange: Exchange) -> str | None:
    """The key of the request, from any of the three headers in use; two that differ are refused."""
    headers = exchange.headers
    found: str | None = None
    authorization = headers.get(b"authorization")
    if authorization is not None:
        kind, _, value = authorization.decode("latin-1").partition(" ")
        if kind.lower() == "bearer" and value.strip():
            found = value.strip()
    if not _OTHERS.isdisjoint(headers):
        for name in _OTHERS:
            other = exchange.header(name)
            if (
                other
                and found is not None
                and not hmac.compare_digest(other.encode(), found.encode())
            ):
                raise WrongKey("the request carries two different API keys")
            found = other or found
    return found
