"""`/key/…`: keys with LiteLLM's field names.

Where LiteLLM takes a key or its hash, these take a key or its id: `token` in answers is the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from proxy import auth
from proxy.admin.books import Books
from proxy.admin.limits import Rate
from proxy.admin.litellm.bodies import LiteLlmBody
from proxy.admin.litellm.budgets import LiteLlmBudget, shown_template
from proxy.admin.litellm.durations import duration_of, expiry, overlap_s
from proxy.admin.litellm.money import Money, ReferringFields, Standings
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Shown, Usd, iso, usd, usd_or_none
from proxy.errors import InvalidRequest, NotFound
from proxy.ledger import reports
from proxy.ledger.protocol import (
    CreateKey,
    KeyChanged,
    KeyRecord,
    KeySettings,
    Limits,
    RotateKey,
    UpdateKey,
)

# What LiteLLM calls the limits.
LIMITS = {
    "rpm_limit": "requests_per_minute",
    "tpm_limit": "tokens_per_minute",
    "max_parallel_requests": "concurrent",
}
_ROUTES = {
    "/chat/completions": "chat",
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/responses": "responses",
    "/v1/responses": "responses",
    "/completions": "completions",
    "/v1/completions": "completions",
    "/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
    "/moderations": "moderations",
    "/v1/moderations": "moderations",
    "/images/generations": "images",
    "/v1/images/generations": "images",
    "/audio/transcriptions": "transcriptions",
    "/v1/audio/transcriptions": "transcriptions",
    "/audio/speech": "speech",
    "/v1/audio/speech": "speech",
    "/rerank": "rerank",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
}
_ALL_MODELS = ("all-proxy-models", "all-team-models")
_SHORTEST_OWN_KEY = 20


class KeyFields(ReferringFields, frozen=True, kw_only=True):
    """What `/key/generate` and `/key/update` have in common."""

    key_alias: str | UnsetType | None = UNSET
    duration: str | UnsetType | None = UNSET
    """How long from now it is accepted."""
    models: list[str] | UnsetType | None = UNSET
    team_id: str | UnsetType | None = UNSET
    allowed_routes: list[str] | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    blocked: bool | UnsetType | None = UNSET
    tpm_limit: Rate | UnsetType | None = UNSET
    rpm_limit: Rate | UnsetType | None = UNSET
    max_parallel_requests: Rate | UnsetType | None = UNSET


class GeneratedKey(KeyFields, frozen=True, kw_only=True):
    """`/key/generate`."""

    key: str | None = None
    """A key of one's own, e.g. one that is in use already."""


class UpdatedKey(KeyFields, frozen=True, kw_only=True):
    """`/key/update`: what is not named stays; null takes away."""

    key: str


class RegeneratedKey(LiteLlmBody, frozen=True, kw_only=True):
    """`/key/regenerate`."""

    key: str
    grace_period: str | None = None
    """How much longer the old key is accepted, e.g. `24h`; not at all where it is left out."""


class OneKey(LiteLlmBody, frozen=True, kw_only=True):
    """`/key/block` and `/key/unblock`."""

    key: str


class DeletedKeys(LiteLlmBody, frozen=True, kw_only=True):
    """`/key/delete`: by key or id, or by alias."""

    keys: list[str] | None = None
    key_aliases: list[str] | None = None


class KeyInfoQuery(Body, frozen=True, kw_only=True):
    """Which key."""

    key: str


class KeyListQuery(Body, frozen=True, kw_only=True):
    """Which keys."""

    page: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 1
    size: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    team_id: str | None = None
    key_alias: str | None = None
    key_hash: str | None = None
    return_full_object: bool = False


class LiteLlmKey(Shown, frozen=True, kw_only=True):
    """LiteLLM's `LiteLLM_VerificationToken`."""

    token: str
    """Its id."""
    key_name: str
    key_alias: str | None
    spend: Usd
    """In the open window of its budget; in all where it has none."""
    expires: str | None
    models: tuple[str, ...]
    team_id: str | None
    max_budget: Usd | None
    soft_budget: Usd | None
    budget_duration: str | None
    budget_reset_at: str | None
    budget_id: str | None
    litellm_budget_table: LiteLlmBudget | None
    allowed_routes: tuple[str, ...]
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    blocked: bool
    tpm_limit: int | None
    rpm_limit: int | None
    max_parallel_requests: int | None
    created_at: str | None
    user_id: str | None = None


class LiteLlmSecretKey(LiteLlmKey, frozen=True, kw_only=True):
    """LiteLLM's `GenerateKeyResponse`."""

    key: str
    token_id: str


class KeyInfo(Shown, frozen=True, kw_only=True):
    """Answers `/key/info`."""

    key: str
    info: LiteLlmKey


class KeysDeleted(Shown, frozen=True, kw_only=True):
    """Answers `/key/delete`."""

    deleted_keys: list[str]


class KeyPage(Shown, frozen=True, kw_only=True):
    """Answers `/key/list`."""

    keys: list[LiteLlmKey | str]
    total_count: int
    current_page: int
    total_pages: int


class LiteLlmKeys:
    """The operations on keys."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._money = Money(books)

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("POST", "/key/generate", self.generate_key, tag="litellm"),
            operation("GET", "/key/info", self.key_info, tag="litellm"),
            operation("POST", "/key/update", self.update_token, tag="litellm"),
            operation("POST", "/key/delete", self.delete_tokens, tag="litellm"),
            operation("POST", "/key/block", self.block_token, tag="litellm"),
            operation("POST", "/key/unblock", self.unblock_token, tag="litellm"),
            operation("POST", "/key/regenerate", self.regenerate_key, tag="litellm"),
            operation("GET", "/key/list", self.list_tokens, tag="litellm"),
        ]

    async def generate_key(self, body: GeneratedKey) -> LiteLlmSecretKey:
        """Make a key."""
        settings = msgspec.convert({"name": "", **await self._changes(body, Limits())}, KeySettings)
        budgets = await self._money.new_budgets(body)
        key = _own_key(body.key) if body.key else auth.new_key()
        op = CreateKey(0, auth.digest(key, self._books.secret), auth.hint(key), settings, budgets)
        changed = await self._books.call(op, KeyChanged)
        return await self._with_secret(changed.key, key)

    async def key_info(self, query: KeyInfoQuery) -> KeyInfo:
        """One key, by the key or its id."""
        record = await self._find(query.key)
        return KeyInfo(key=query.key, info=await self._shown(record))

    async def update_token(self, body: UpdatedKey) -> LiteLlmKey:
        """Change a key and its budgets."""
        record = await self._find(body.key)
        changes = await self._changes(body, record.settings.limits)
        await self._money.change(f"key:{record.key_id}", body)
        changed = await self._books.call(UpdateKey(0, record.key_id, changes), KeyChanged)
        return await self._shown(changed.key)

    async def delete_tokens(self, body: DeletedKeys) -> KeysDeleted:
        """Revoke keys for good."""
        if not body.keys and not body.key_aliases:
            raise InvalidRequest("name keys or key_aliases", param="keys")
        found = {sent: await self._find(sent) for sent in body.keys or ()}
        for alias in body.key_aliases or ():
            named = [key for key in self._books.all_keys() if key.settings.name == alias]
            if not named:
                raise NotFound(f"there is no key with the alias {alias[:100]!r}")
            found.update((key.key_id, key) for key in named if key.revoked_at is None)
        for record in found.values():
            await self._books.call(UpdateKey(0, record.key_id, revoked=True), KeyChanged)
        return KeysDeleted(deleted_keys=list(found))

    async def block_token(self, body: OneKey) -> LiteLlmKey:
        """Refuse a key until it is unblocked."""
        return await self._block(body.key, blocked=True)

    async def unblock_token(self, body: OneKey) -> LiteLlmKey:
        """Serve a blocked key again."""
        return await self._block(body.key, blocked=False)

    async def regenerate_key(self, body: RegeneratedKey) -> LiteLlmSecretKey:
        """Give a key a new secret."""
        record = await self._find(body.key)
        grace_s = overlap_s(body.grace_period, "grace_period") if body.grace_period else 0
        key, digest, hint = self._books.new_key()
        op = RotateKey(0, record.key_id, digest, hint, grace_s)
        return await self._with_secret((await self._books.call(op, KeyChanged)).key, key)

    async def list_tokens(self, query: KeyListQuery) -> KeyPage:
        """A page of the keys that are not revoked."""
        keys = [
            key
            for key in self._books.all_keys()
            if key.revoked_at is None
            and query.team_id in (None, key.settings.team_id)
            and query.key_alias in (None, key.settings.name)
            and query.key_hash in (None, key.key_id)
        ]
        page = keys[(query.page - 1) * query.size : query.page * query.size]
        shown: list[LiteLlmKey | str] = [key.key_id for key in page]
        if query.return_full_object:
            shown = list(await shown_keys(self._books, page))
        return KeyPage(
            keys=shown,
            total_count=len(keys),
            current_page=query.page,
            total_pages=-(-len(keys) // query.size),
        )

    async def _find(self, sent: str) -> KeyRecord:
        """A key by itself or by its id; raises `NotFound`, which does not repeat the key."""
        record = self._books.ledger.keys.get(auth.digest(sent, self._books.secret))
        if record is not None:
            return record
        try:
            return await self._books.key(sent)
        except NotFound:
            raise NotFound("there is no such key", param="key") from None

    async def _block(self, sent: str, *, blocked: bool) -> LiteLlmKey:
        record = await self._find(sent)
        op = UpdateKey(0, record.key_id, {"blocked": blocked})
        return await self._shown((await self._books.call(op, KeyChanged)).key)

    async def _changes(self, body: KeyFields, limits: Limits) -> dict[str, Any]:
        """The settings that the body names, by our names; raises `InvalidRequest`."""
        changes: dict[str, Any] = {}
        if not isinstance(body.key_alias, UnsetType):
            changes["name"] = body.key_alias or ""
        if not isinstance(body.duration, UnsetType):
            now = self._books.clock.time()
            changes["expires_at"] = expiry(body.duration, now) if body.duration else None
        if not isinstance(body.models, UnsetType):
            changes["models"] = known_models(self._books, body.models or ())
        if not isinstance(body.team_id, UnsetType):
            changes["team_id"] = (
                await self._books.living_group(body.team_id, "team", "team_id")
                if body.team_id
                else ""
            )
        if not isinstance(body.allowed_routes, UnsetType):
            changes["endpoints"] = _endpoints(body.allowed_routes or ())
        if not isinstance(body.metadata, UnsetType):
            changes["metadata"] = body.metadata or {}
        if not isinstance(body.tags, UnsetType):
            changes["tags"] = tuple(body.tags or ())
        if not isinstance(body.blocked, UnsetType):
            changes["blocked"] = bool(body.blocked)
        return changes | changed_limits(body, limits)

    async def _shown(self, record: KeyRecord) -> LiteLlmKey:
        return (await shown_keys(self._books, [record]))[0]

    async def _with_secret(self, record: KeyRecord, key: str) -> LiteLlmSecretKey:
        fields = msgspec.structs.asdict(await self._shown(record))
        return LiteLlmSecretKey(**fields, key=key, token_id=record.key_id)


def changed_limits(body: Body, limits: Limits) -> dict[str, Any]:
    """The change of `limits` that LiteLLM's fields ask for, if any."""
    changes = {
        ours: value
        for theirs, ours in LIMITS.items()
        if (value := getattr(body, theirs, UNSET)) is not UNSET
    }
    if not changes:
        return {}
    return {"limits": msgspec.to_builtins(msgspec.structs.replace(limits, **changes))}


def known_models(books: Books, names: Iterable[str]) -> tuple[str, ...]:
    """The names; LiteLLM's words for all models are nobody's restriction."""
    names = tuple(names)
    if any(name in _ALL_MODELS for name in names):
        return ()
    return books.known_models(names)


async def shown_keys(books: Books, records: list[KeyRecord]) -> list[LiteLlmKey]:
    """Keys as LiteLLM shows them."""
    standings = Standings(await books.budgets())
    counted = [standings.of(f"key:{key.key_id}").counting for key in records]
    spent = await spent_by_key(books) if None in counted else {}
    return [_shown_key(key, standings, spent.get(key.key_id, 0)) for key in records]


async def spent_by_key(books: Books) -> Mapping[str, int]:
    """What every key has spent in all, nano-USD."""
    rows = await books.report(reports.spend, books.database, group_by=("key",))
    return {row.group[0]: row.cost_nanousd for row in rows}


def _shown_key(record: KeyRecord, standings: Standings, spent: int) -> LiteLlmKey:
    settings = record.settings
    standing = standings.of(f"key:{record.key_id}")
    counting, budget_id = standing.counting, standing.budget_id
    template = None
    if budget_id is not None:
        template = shown_template(budget_id, standings.template(budget_id))
    routes = tuple(route for route, name in _ROUTES.items() if name in settings.endpoints)
    return LiteLlmKey(
        token=record.key_id,
        key_name=record.hint,
        key_alias=settings.name or None,
        spend=usd(spent if counting is None else counting.spent_nanousd),
        expires=iso(settings.expires_at),
        models=settings.models,
        team_id=settings.team_id or None,
        max_budget=usd_or_none(standing.limit("max_budget")),
        soft_budget=usd_or_none(standing.limit("soft_budget")),
        budget_duration=None if counting is None else duration_of(counting.settings.window),
        budget_reset_at=None if counting is None else iso(counting.opens_at),
        budget_id=budget_id,
        litellm_budget_table=template,
        allowed_routes=routes,
        metadata=settings.metadata,
        tags=settings.tags,
        blocked=settings.blocked,
        tpm_limit=settings.limits.tokens_per_minute,
        rpm_limit=settings.limits.requests_per_minute,
        max_parallel_requests=settings.limits.concurrent,
        created_at=iso(record.created_at),
    )


def _endpoints(routes: Iterable[str]) -> tuple[str, ...]:
    """Our names of LiteLLM's routes; raises `InvalidRequest`."""
    endpoints: dict[str, None] = {}
    for route in routes:
        if route == "llm_api_routes":
            return ()
        if route not in _ROUTES:
            raise InvalidRequest(
                f"allowed_routes: {route[:100]!r} is not known here; there are llm_api_routes, "
                f"{', '.join(_ROUTES)}",
                param="allowed_routes",
            )
        endpoints[_ROUTES[route]] = None
    return tuple(endpoints)


def _own_key(key: str) -> str:
    if not key.startswith("sk-") or len(key) < _SHORTEST_OWN_KEY or not key.isprintable():
        raise InvalidRequest(
            f"key: a key of your own begins with 'sk-' and has at least {_SHORTEST_OWN_KEY} "
            "printable characters; leave it out to be given a good one",
            param="key",
        )
    return key
