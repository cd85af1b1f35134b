"""`tollway keys`: make them, show them, change them, end them."""

from __future__ import annotations

import time
from typing import Annotated, Any, get_args

import msgspec
import typer

from adapters.base import Endpoint
from proxy import auth
from proxy.addresses import parse_network
from proxy.cli import asking
from proxy.cli.asking import (
    BudgetOption,
    ConcurrentOption,
    ConfigOption,
    DataOption,
    JsonOption,
    MetadataOption,
    RpmOption,
    TpmOption,
    WindowOption,
)
from proxy.cli.output import Grid, console, print_json, when, when_or_blank
from proxy.errors import StartError
from proxy.ledger.protocol import (
    AtCap,
    CreateKey,
    KeyChanged,
    KeyRecord,
    KeySettings,
    Limits,
    RotateKey,
    UpdateKey,
)
from proxy.ledger.sync import SyncLedger
from proxy.moments import parse_length_s

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Keys that callers authenticate with."
)

IdArgument = Annotated[str, typer.Argument(help="As 'tollway keys list' shows it")]
TeamOption = Annotated[str | None, typer.Option(help="Team whose budgets and limits also apply")]
ModelOption = Annotated[list[str] | None, typer.Option(help="May only name this; repeatable")]
EndpointOption = Annotated[
    list[str] | None,
    typer.Option(help=f"May only use this: {', '.join(get_args(Endpoint))}; repeatable"),
]
NetworkOption = Annotated[
    list[str] | None, typer.Option(help="Only from there, e.g. 10.0.0.0/8; repeatable")
]
ExpiresOption = Annotated[str | None, typer.Option(help="2026-11-20, or 30d from now")]
AtCapOption = Annotated[
    str | None, typer.Option(help=f"Where a budget ends: {', '.join(get_args(AtCap))}")
]
ClampOption = Annotated[
    bool | None,
    typer.Option("--clamp/--no-clamp", help="Lower what a request may write to what is affordable"),
]
TagOption = Annotated[list[str] | None, typer.Option(help="Tag of all its requests; repeatable")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is")],
    team: TeamOption = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    network: NetworkOption = None,
    expires: ExpiresOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrent: ConcurrentOption = None,
    at_cap: AtCapOption = None,
    clamp: ClampOption = None,
    tag: TagOption = None,
    metadata: MetadataOption = None,
    budget: BudgetOption = None,
    window: WindowOption = "month",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    asking.label(name)
    changes = _changes(
        team, model, endpoint, network, expires, at_cap, clamp, tag, asking.metadata(metadata)
    )
    settings = KeySettings(
        name=name, limits=Limits(**asking.limit_changes(rpm, tpm, concurrent)), **changes
    )
    budgets = asking.own_budgets(budget, window)
    folder = asking.data_folder(config, data)
    key = auth.new_key()
    op = CreateKey(0, auth.digest(key, folder.secret()), auth.hint(key), settings, budgets)
    with asking.ledger_of(config, data) as ledger:
        changed = asking.answered(ledger.call(op), KeyChanged)
    _print_new(key, changed.key)


@app.command("list")
def list_keys(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show the keys there are."""
    with asking.ledger_of(config, data) as ledger:
        keys = sorted(ledger.keys(), key=lambda key: (key.created_at, key.key_id))
    if json:
        print_json([_shown(key) for key in keys])
        return
    now = int(time.time())
    grid = Grid("id", "name", "key", "team", "models", "created", "state")
    for key in keys:
        grid.add(
            key.key_id,
            key.settings.name,
            key.hint,
            key.settings.team_id,
            ", ".join(key.settings.models) or "all",
            when(key.created_at),
            _state(key, now),
        )
    grid.print()


@app.command("show")
def show(
    key_id: IdArgument,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show all there is to know of a key, but for the key itself."""
    with asking.ledger_of(config, data) as ledger:
        key = _key(ledger, key_id)
    if json:
        print_json(_shown(key))
        return
    grid = Grid("", "")
    for name, value in _described(key, int(time.time())).items():
        grid.add(name, value)
    grid.print()


@app.command("update")
def update(
    key_id: IdArgument,
    name: Annotated[str | None, typer.Option(help="Whose key it is")] = None,
    team: TeamOption = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    network: NetworkOption = None,
    expires: ExpiresOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrent: ConcurrentOption = None,
    at_cap: AtCapOption = None,
    clamp: ClampOption = None,
    tag: TagOption = None,
    metadata: MetadataOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change what is named; an empty text takes away: --team '', --model '', --expires ''."""
    changes = asking.named(name=asking.label(name)) | _changes(
        team, model, endpoint, network, expires, at_cap, clamp, tag, asking.metadata(metadata)
    )
    limits = asking.limit_changes(rpm, tpm, concurrent)
    if not changes and not limits:
        raise StartError("keys update: nothing to change; see 'tollway keys update --help'")
    with asking.ledger_of(config, data) as ledger:
        if limits:
            there = _key(ledger, key_id).settings.limits
            changes["limits"] = asking.changed_limits(there, limits)
        ledger.call(UpdateKey(0, key_id, changes))
    console.print(f"{key_id} is changed")


@app.command("rotate")
def rotate(
    key_id: IdArgument,
    overlap: Annotated[str, typer.Option(help="How long the old one lives on: 90m, 12h, 7d")] = "",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Give a key a new secret and print it; the old one is refused at once, or after a while."""
    try:
        overlap_s = parse_length_s(overlap) if overlap else 0
    except ValueError as error:
        raise StartError(f"--overlap: {error}") from None
    folder = asking.data_folder(config, data)
    key = auth.new_key()
    op = RotateKey(0, key_id, auth.digest(key, folder.secret()), auth.hint(key), overlap_s)
    with asking.ledger_of(config, data) as ledger:
        changed = asking.answered(ledger.call(op), KeyChanged)
    _print_new(key, changed.key)
    if overlap_s:
        until = when(changed.key.previous_until)
        console.print(f"The old one is accepted until {until} (UTC)", style="dim")


@app.command("block")
def block(key_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Refuse a key until it is unblocked."""
    with asking.ledger_of(config, data) as ledger:
        ledger.call(UpdateKey(0, key_id, {"blocked": True}))
    console.print(f"{key_id} is blocked")


@app.command("unblock")
def unblock(key_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Serve a blocked key again."""
    with asking.ledger_of(config, data) as ledger:
        changed = ledger.call(UpdateKey(0, key_id, {"blocked": False}))
    if asking.answered(changed, KeyChanged).key.revoked_at is not None:
        raise StartError(f"{key_id} is revoked for good; make another with 'tollway keys create'")
    console.print(f"{key_id} is served again")


@app.command("revoke")
def revoke(key_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Revoke a key for good; running servers refuse it at once."""
    with asking.ledger_of(config, data) as ledger:
        ledger.call(UpdateKey(0, key_id, revoked=True))
    console.print(f"{key_id} is revoked")


def _changes(
    team: str | None,
    models: list[str] | None,
    endpoints: list[str] | None,
    networks: list[str] | None,
    expires: str | None,
    at_cap: str | None,
    clamp: bool | None,
    tags: list[str] | None,
    metadata: dict[str, Any] | None,
) -> dict[str, Any]:
    """The settings that options name, by field."""
    changes = asking.named(
        team_id=team,
        models=asking.listed(models),
        endpoints=_endpoints(asking.listed(endpoints)),
        networks=_networks(asking.listed(networks)),
        at_cap=None if at_cap is None else asking.chosen(at_cap, AtCap, "--at-cap"),
        clamp=clamp,
        tags=asking.listed(tags),
        metadata=metadata,
    )
    if expires is not None:
        changes["expires_at"] = asking.later(expires, "--expires") if expires else None
    return changes


def _endpoints(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for name in names or ():
        asking.chosen(name, Endpoint, "--endpoint")
    return names


def _networks(texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    try:
        return tuple(str(parse_network(text)) for text in texts)
    except ValueError as error:
        raise StartError(f"--network: {error}") from None


def _key(ledger: SyncLedger, key_id: str) -> KeyRecord:
    # A change of nothing is answered with the key, or with a clear refusal.
    return asking.answered(ledger.call(UpdateKey(0, key_id)), KeyChanged).key


def _print_new(key: str, record: KeyRecord) -> None:
    console.print(key, soft_wrap=True)
    console.print(f"{record.key_id}: shown once, kept only as a digest", style="dim")


def _state(key: KeyRecord, now: int) -> str:
    settings = key.settings
    if key.revoked_at is not None:
        return f"revoked {when(key.revoked_at)}"
    if settings.blocked:
        return "blocked"
    if settings.expires_at is None:
        return "active"
    word = "expired" if settings.expires_at <= now else "expires"
    return f"{word} {when(settings.expires_at)}"


def _shown(key: KeyRecord) -> dict[str, Any]:
    """A key as JSON: flat, times in Unix seconds, no digests."""
    return {
        "key_id": key.key_id,
        "hint": key.hint,
        **msgspec.to_builtins(key.settings),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "previous_until": key.previous_until or None,
    }


def _described(key: KeyRecord, now: int) -> dict[str, str]:
    settings, limits = key.settings, key.settings.limits
    return {
        "id": key.key_id,
        "name": settings.name,
        "key": key.hint,
        "state": _state(key, now),
        "created": when(key.created_at),
        "team": settings.team_id or "none",
        "models": ", ".join(settings.models) or "all",
        "endpoints": ", ".join(settings.endpoints) or "all",
        "networks": ", ".join(settings.networks) or "all",
        "expires": when_or_blank(settings.expires_at) or "never",
        "requests per minute": _limit(limits.requests_per_minute),
        "tokens per minute": _limit(limits.tokens_per_minute),
        "concurrent requests": _limit(limits.concurrent),
        "at cap": settings.at_cap,
        "clamp": "yes" if settings.clamp else "no",
        "tags": ", ".join(settings.tags) or "none",
        "metadata": msgspec.json.encode(settings.metadata).decode(),
        "old key until": when(key.previous_until) if key.previous_until > now else "",
    }


def _limit(limit: int | None) -> str:
    return "no limit" if limit is None else f"{limit:,}"
