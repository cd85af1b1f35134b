"""What happens between `tollway serve` and the first request."""

from __future__ import annotations

import gc
import ipaddress
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

from proxy import catalog, config, config_file, discovery, price_list, process_limits, tokens
from proxy.accounts import Accounts
from proxy.budgets import is_template
from proxy.clock import SystemClock
from proxy.config import FIXED, LOCAL_FOLDER, Config
from proxy.data_folder import DataFolder
from proxy.discovery import Found, with_demonstration
from proxy.errors import StartError
from proxy.inventory import FoundModel, Inventory
from proxy.ledger.protocol import (
    ApplyConfig,
    BudgetSettings,
    BudgetState,
    ConfigBudget,
    Limits,
)
from proxy.ledger.sync import open_ledger
from proxy.model_host import hosted
from proxy.model_host.client import HostClient
from proxy.model_host.lookout import Lookout, lookout
from proxy.price_book import PriceBook
from proxy.pricing import format_usd, parse_usd
from proxy.revisions import Revision
from proxy.swaps.core import Swap
from proxy.swaps.moves import meaningless
from proxy.target_table import build_table
from proxy.targets import CurrentTable, TargetTable
from proxy.yaml_file import YamlFile, read_text

if TYPE_CHECKING:  # see `run`
    from proxy.assembly import Plan

DEFAULT_ANONYMOUS_USD_PER_DAY = 10
_MOST_TARGETS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line sets; None leaves it to the environment and the file."""

    config: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    data: str | None = None


def load_config(options: Options, environ: Mapping[str, str]) -> Config:
    """The configuration with what the environment and the command line override."""
    loaded = config_file.load(config_file.find(options.config, environ), environ)
    return _overridden(loaded, options, environ)


def _overridden(loaded: Config, options: Options, environ: Mapping[str, str]) -> Config:
    server = loaded.server
    changes: dict[str, str | int] = {}
    for name, value in (
        ("host", options.host),
        ("port", options.port),
        ("workers", options.workers),
        ("data", options.data),
    ):
        chosen = environ.get(f"TOLLWAY_{name.upper()}") or None if value is None else value
        if chosen is not None:
            changes[name] = chosen
    try:
        fields = {**msgspec.structs.asdict(server), **changes}
        server = msgspec.convert(fields, config.Server, strict=False)
    except msgspec.ValidationError as error:
        raise StartError(f"TOLLWAY_* or the command line: {error}") from None
    return msgspec.structs.replace(loaded, server=server)


def data_path(options: Options, environ: Mapping[str, str]) -> str:
    """The data folder's path, also where the rest of the configuration lacks its secrets."""
    named = options.data or environ.get("TOLLWAY_DATA")
    return named or config_file.load_server(config_file.find(options.config, environ)).data


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration with what was discovered, ready to be served."""

    config: Config
    """With the providers of the environment's keys."""
    tables: CurrentTable
    by_keys: tuple[Found, ...]
    nearby: tuple[Found, ...]
    """What was found on this machine."""
    lookout: Lookout
    """What looks for models on this machine, and has looked once."""
    hosted: Callable[[Inventory], Sequence[hosted.HostedModel]]
    """The local models among what was found."""


def resolve(
    loaded: Config,
    environ: Mapping[str, str],
    book: PriceBook,
    *,
    revision: int = 0,
    looks: bool = True,
    inventory: Inventory | None = None,
) -> Resolved:
    """The configuration with what was discovered, and its target table, day by day.

    Without `looks` nobody is asked, and no folder is read; nor where an `inventory` is known.
    """
    known = catalog.load()
    by_keys: tuple[Found, ...] = ()
    # Of what is written: a provider that a key brings has the catalogue's models.
    watching = lookout(loaded, environ) if looks else Lookout(servers=[], places=[])
    if loaded.discover:
        loaded, by_keys = discovery.discover(loaded, known, environ)
    if inventory is None:
        inventory = watching.first()

    def extended(inventory: Inventory) -> tuple[Config, Mapping[str, FoundModel]]:
        found_too, facts, _ = discovery.with_found(loaded, inventory)
        return found_too if found_too.targets else with_demonstration(found_too), facts

    def build(today: date, inventory: Inventory) -> TargetTable:
        config, facts = extended(inventory)
        return build_table(config, known, book, today=today, revision=revision, found=facts)

    def local_models(inventory: Inventory) -> Sequence[hosted.HostedModel]:
        config, facts = extended(inventory)
        table = build(datetime.now(UTC).date(), inventory)
        return hosted.found(config, table, facts, environ)

    return Resolved(
        config=loaded,
        tables=CurrentTable(build, SystemClock(), inventory),
        by_keys=by_keys,
        nearby=discovery.with_found(loaded, inventory)[2],
        lookout=watching,
        hosted=local_models,
    )


def check(loaded: Config, table: CurrentTable) -> None:
    """Find out, by making them, whether there can be the adapters; raises `StartError`."""
    try:
        Accounts(table, HostClient(Path(loaded.server.data)), clock=SystemClock(), workers=1)
    except StartError as error:
        raise StartError(f"{loaded.source}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the configuration of a server comes from, to be read again while it serves."""

    options: Options
    environ: Mapping[str, str] = field(repr=False)

    @property
    def path(self) -> Path:
        """The file that would be read now."""
        return config_file.find(self.options.config, self.environ)

    def read(self, number: int) -> Revision:
        """The file as it is now; raises `StartError`."""
        path = self.path
        return Revision(number=number, name=str(path), text=read_text(path))

    def plan(self, revision: Revision, before: Plan) -> Plan:
        """What a revision means for a server that serves by `before`; raises `StartError`.

        What is fixed at the start stays as it was. Blocks for a tenth of a second.
        """
        file = YamlFile.parse(revision.text, revision.name)
        loaded = _overridden(config_file.build(file, self.environ), self.options, self.environ)
        wanted = loaded.server
        fixed = {name: getattr(before.config.server, name) for name in FIXED}
        server = msgspec.structs.replace(wanted, **fixed)
        loaded = msgspec.structs.replace(loaded, server=server)
        book, _ = price_list.load(before.data.path)
        inventory = _still_found(before.table.inventory, before.config, loaded)
        number = revision.number
        resolved = resolve(loaded, self.environ, book, revision=number, inventory=inventory)
        tokens.load(target.model for target in resolved.tables().targets.values())
        return replace(
            before,
            config=resolved.config,
            table=resolved.tables,
            revision=number,
            host=hosted.plan(
                resolved.config,
                resolved.tables(),
                self.environ,
                lookout=resolved.lookout,
                found=resolved.hosted,
            ),
            by_keys={each.provider: each.by for each in resolved.by_keys},
            wanted=wanted,
        )

    def check(self, plan: Plan) -> None:
        """Find out what else could be wrong with a plan; raises `StartError`."""
        check(plan.config, plan.table)

    def apply(self, plan: Plan) -> None:
        """Tell the ledger what it is to keep to; raises `LedgerError`."""
        _apply_budgets(plan)


def run(options: Options, environ: Mapping[str, str], console: Console) -> None:
    """Serve until told to stop; raises `StartError`."""
    process_limits.prepare()
    loaded = load_config(options, environ)
    server = loaded.server
    book, problem = price_list.load(Path(server.data))
    resolved = resolve(loaded, environ, book)
    loaded, table = resolved.config, resolved.tables
    source = Source(options=options, environ=environ)
    found = (*resolved.by_keys, *resolved.nearby)
    data = DataFolder.open(Path(server.data))
    token, is_new_token = data.admin_token(environ)
    metrics = _prepare_metrics(data)
    # Only now: other commands read a configuration with this module, and need nothing of these.
    from proxy import worker
    from proxy.assembly import Plan
    from proxy.supervisor import Supervisor, bind

    worker.log_to_stderr()
    check(loaded, table)
    tokens.load(target.model for target in table().targets.values())  # shared by the workers
    plan = Plan(
        config=loaded,
        table=table,
        data=data,
        metrics=metrics,
        secret=data.secret(),
        admin_token=token,
        allow_anonymous=is_loopback(server.host),
        host=hosted.plan(loaded, table(), environ, lookout=resolved.lookout, found=resolved.hosted),
        by_keys={each.provider: each.by for each in resolved.by_keys},
        wanted=server,
        revise=source.plan,
    )
    listener = bind(server.host, server.port)
    supervisor = Supervisor(plan, listener, source)
    # What exists now lives as long as the server. A collector that looked at it would write to it,
    # and so give every child a copy of its own of what they share.
    gc.collect()
    gc.freeze()
    supervisor.start_ledger()
    try:
        _remove_old_metrics(data, metrics)
        has_keys, budgets, swaps = _apply_budgets(plan)
        if not has_keys and not plan.allow_anonymous:
            raise StartError(
                f"{server.host}: is not a loopback address and there are no keys, so anybody could "
                "spend; create one with 'tollway keys create NAME', or listen on 127.0.0.1"
            )
        supervisor.start_host()
        supervisor.start_workers()
    except BaseException:
        supervisor.stop()
        raise
    with console.capture() as overview:
        _print_overview(
            console, _address(listener), loaded, table(), found, budgets, data, has_keys=has_keys
        )
        today = datetime.now(UTC).date()
        stale = price_list.staleness(table().targets.values(), today)
        empty = _without_folders(resolved.lookout)
        files = process_limits.shortage(server.max_concurrent)
        for warning in filter(None, (problem, stale, files, *empty, *_meaningless(swaps, table()))):
            console.print(warning, style="yellow", soft_wrap=True)
        if is_new_token:
            console.print(f"\nAdmin token (shown once, kept in {data.path}/admin-token):")
            console.print(token, soft_wrap=True)
    # In one piece: whoever reads the first line may go on at once.
    console.file.write(overview.get())
    console.file.flush()
    supervisor.run()


def _still_found(inventory: Inventory, before: Config, now: Config) -> Inventory:
    """What was found, without what is looked for no more: the model host may not say so yet."""
    providers = tuple(
        found
        for found in inventory.providers
        if found.name in now.providers or (now.discover and found.name not in before.providers)
    )
    return msgspec.structs.replace(inventory, providers=providers)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _prepare_metrics(data: DataFolder) -> Path:
    """A folder of this start's own: another server may be using the data folder."""
    data.metrics.mkdir(mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=data.metrics))


def _remove_old_metrics(data: DataFolder, kept: Path) -> None:
    """Call it when the ledger is ours: then no other server lives here."""
    for folder in data.metrics.iterdir():
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _apply_budgets(plan: Plan) -> tuple[bool, tuple[BudgetState, ...], tuple[Swap, ...]]:
    """Tell the ledger the configuration's budgets. Anonymous callers always have one.

    Returns whether there are keys, all budgets, and the swaps that are open or in force. Raises
    `LedgerError`.
    """
    loaded = plan.config
    budgets = [
        ConfigBudget(
            budget.joined_scope,
            BudgetSettings(
                limit_nanousd=budget.limit_nanousd,
                window=budget.window,
                mode=budget.mode,
                timezone=budget.timezone,
                holds=budget.holds,
                name=budget.name,
            ),
        )
        for budget in loaded.budgets
    ]
    if not any(b.scope in ("anonymous", "global") and b.settings.mode == "hard" for b in budgets):
        limit = parse_usd(DEFAULT_ANONYMOUS_USD_PER_DAY)
        default = BudgetSettings(limit_nanousd=limit, window="day")
        budgets.append(ConfigBudget("anonymous", default))
    with open_ledger(plan.data.path) as ledger:
        percents, number = loaded.alerts.percents, plan.revision
        limits = _limits(loaded)
        ledger.call(ApplyConfig(number, tuple(budgets), limits=limits, alert_percents=percents))
        return bool(ledger.keys()), ledger.budgets(), ledger.swaps()


def _meaningless(swaps: Iterable[Swap], table: TargetTable) -> Iterator[str]:
    """A line for each swap in force that moves nothing, now that the configuration is another.

    The newest comes first: in that order they can be rolled back.
    """
    for swap in reversed(meaningless(swaps, table)):
        plan = swap.plan
        yield (
            f"swap {swap.swap_id} of {plan.name} has no effect: the configuration leads it from "
            f"{plan.source} to {plan.target} no more; end it with "
            f"'tollway swap --rollback {swap.swap_id}'"
        )


def _without_folders(watching: Lookout) -> Iterator[str]:
    """A line for each folder that is not there: it may be misspelt, or on a disk to come."""
    for name, folder in watching.missing_folders():
        yield (
            f"providers.{name}.folder: there is no folder {str(folder)!r}; its models are found "
            "once there is, or correct 'folder'"
        )


def _limits(loaded: Config) -> dict[str, Limits]:
    """The limits of targets and providers, by scope."""
    limits = {f"target:{target.target}": target.limits for target in loaded.targets}
    limits |= {f"provider:{name}": each.limits for name, each in loaded.providers.items()}
    wanted = {scope: Limits(*msgspec.structs.astuple(said)) for scope, said in limits.items()}
    return {scope: said for scope, said in wanted.items() if said != Limits()}


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 # shown, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_overview(
    console: Console,
    address: str,
    loaded: Config,
    table: TargetTable,
    found: tuple[Found, ...],
    budgets: tuple[BudgetState, ...],
    data: DataFolder,
    *,
    has_keys: bool,
) -> None:
    console.print(f"Tollway serves {address}/v1  ({loaded.source})", style="bold", soft_wrap=True)
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    by = {f.provider: f.by for f in found}
    providers = [f"{n} ({by[n]})" if n in by else n for n in table.providers]
    grid.add_row("providers", ", ".join(providers))
    for model in table.models.values():
        names = [target.name for target in model.targets]
        if len(names) > _MOST_TARGETS_SHOWN:  # a folder may hold hundreds
            more = len(names) - _MOST_TARGETS_SHOWN
            names[_MOST_TARGETS_SHOWN:] = [f"{more} more"]
        grid.add_row(model.name, " → ".join(names) or "nothing configured for it")
    grid.add_row("ledger", str(data.path / "ledger.db"))
    for budget in budgets:
        applies = budget.scope != "anonymous" or not has_keys
        # Of those that a budget with `*` made there may be one for each of a million users.
        if applies and budget.managed != "each" and not is_template(budget.scope):
            settings = budget.settings
            limit, spent = format_usd(settings.limit_nanousd), format_usd(budget.spent_nanousd)
            grid.add_row("budget", f"{budget.scope}: {limit} per {settings.window}, {spent} spent")
    grid.add_row("callers", "with a key" if has_keys else "anybody on this machine, without a key")
    console.print(grid)
    if not table.has_real_targets:
        console.print(
            "No provider was found: a built-in demonstration answers, at made-up prices. "
            f"Set OPENAI_API_KEY, put a model file into {LOCAL_FOLDER}/, or add a provider to "
            "router.yaml.",
            style="yellow",
        )
    key = ' -H "Authorization: Bearer $TOLLWAY_KEY"' if has_keys else ""
    console.print("\nTry it:", style="bold")
    body = {"model": _example(table), "stream": True}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    console.print(
        f"curl -N {address}/v1/chat/completions{key} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(msgspec.json.encode(body).decode())}",
        soft_wrap=True,
    )


def _example(table: TargetTable) -> str:
    """A model that chats: `auto`, where the configuration has it."""
    chatting = {name for name, t in table.targets.items() if "chat" in t.capabilities}
    models = (m.name for m in table.models.values() if chatting & {t.name for t in m.targets})
    names = [*models, *(name for name in table.targets if name in chatting)]
    return "auto" if "auto" in names else next(iter(names), "auto")
