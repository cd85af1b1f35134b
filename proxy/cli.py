"""`tollway`: serve, check, keys, budgets, spend."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from proxy import __version__, auth, config, price_list, price_refresh, serve
from proxy import budgets as budget_rules
from proxy.data_folder import DataFolder
from proxy.errors import StartError
from proxy.ledger import reports
from proxy.ledger.errors import LedgerError
from proxy.ledger.protocol import (
    Budgets,
    BudgetSettings,
    BudgetState,
    CreateBudget,
    CreateKey,
    KeyChanged,
    KeySettings,
    Mode,
    UpdateBudget,
    UpdateKey,
    Window,
)
from proxy.ledger.sync import open_ledger
from proxy.moments import parse_moment
from proxy.price_book import PriceBook
from proxy.pricing import format_usd, parse_usd

EXIT_USAGE = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An OpenAI-compatible gateway that routes, keeps every budget and counts every cent.",
)
keys_app = typer.Typer(no_args_is_help=True, help="Keys that callers authenticate with.")
budgets_app = typer.Typer(no_args_is_help=True, help="Limits on what may be spent.")
app.add_typer(keys_app, name="keys")
app.add_typer(budgets_app, name="budgets")

ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help="Configuration file [TOLLWAY_CONFIG]")
]
DataOption = Annotated[str | None, typer.Option(help="Data folder [TOLLWAY_DATA]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]

# What is shown comes from configurations and callers: none of it is markup.
console = Console(highlight=False, markup=False)


def main() -> None:
    """The command's entry point: expected failures are one line and exit code 2."""
    try:
        app()
    except (StartError, LedgerError) as error:
        print(f"tollway: {error}", file=sys.stderr)  # noqa: T201 # the command line's one line
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version")] = False,
) -> None:
    """Print the version if asked to."""
    if show:
        console.print(__version__)
        raise typer.Exit


@app.command("serve")
def serve_command(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address [TOLLWAY_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 for any [TOLLWAY_PORT]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes [TOLLWAY_WORKERS]")] = None,
    data: DataOption = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    options = serve.Options(config=config, host=host, port=port, workers=workers, data=data)
    serve.run(options, os.environ, console)


@app.command("check")
def check_command(
    path: Annotated[Path, typer.Argument(help="The file to check")] = Path("router.yaml"),
) -> None:
    """Check a configuration without starting anything; exit code 2 names file, path and remedy."""
    loaded = config.load(path, os.environ)
    loaded = msgspec.structs.replace(loaded, discover=False)
    _, tables, _ = serve.resolve(loaded, os.environ, PriceBook.load())
    table = tables()
    console.print(f"{path}: is fine")
    grid = _table("virtual model", "policy", "targets")
    for model in table.models.values():
        targets = " → ".join(target.name for target in model.targets)
        grid.add_row(model.name, model.policy.name, targets or "found at start, if any")
    console.print(grid)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is")],
    model: Annotated[list[str] | None, typer.Option(help="May only name this; repeatable")] = None,
    budget: Annotated[str | None, typer.Option(help="Hard budget in USD")] = None,
    window: Annotated[str, typer.Option(help="day, week, month or lifetime")] = "month",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    own = () if budget is None else (BudgetSettings(_amount(budget), window=_window(window)),)
    folder = _folder(config, data)
    key = auth.new_key()
    op = CreateKey(
        0,
        digest=auth.digest(key, folder.secret()),
        hint=auth.hint(key),
        settings=KeySettings(name=name, models=tuple(model or ())),
        budgets=own,
    )
    with open_ledger(folder.path) as ledger:
        changed = ledger.call(op)
    assert isinstance(changed, KeyChanged)
    console.print(key, soft_wrap=True)
    console.print(f"{changed.key.key_id}: shown once, kept only as a digest", style="dim")


@keys_app.command("list")
def list_keys(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show the keys there are."""
    with open_ledger(_folder(config, data).path) as ledger:
        keys = sorted(ledger.keys(), key=lambda key: key.created_at)
    if json:
        rows = [
            {k: v for k, v in msgspec.structs.asdict(key).items() if k != "digest"} for key in keys
        ]
        _print_json(rows)
        return
    table = _table("id", "name", "key", "models", "created", "revoked")
    for key in keys:
        revoked = "" if key.revoked_at is None else _when(key.revoked_at)
        models = ", ".join(key.settings.models) or "all"
        table.add_row(
            key.key_id, key.settings.name, key.hint, models, _when(key.created_at), revoked
        )
    console.print(table)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="As 'tollway keys list' shows it")],
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Revoke a key for good; running servers refuse it at once."""
    with open_ledger(_folder(config, data).path) as ledger:
        ledger.call(UpdateKey(0, key_id=key_id, revoked=True))
    console.print(f"{key_id} is revoked")


@budgets_app.command("create")
def create_budget(
    scope: Annotated[str, typer.Argument(help="global, anonymous or key:<id>")],
    limit: Annotated[str, typer.Argument(help="USD per window")],
    window: Annotated[str, typer.Option(help="day, week, month or lifetime")] = "day",
    mode: Annotated[str, typer.Option(help="hard refuses, soft only counts")] = "hard",
    timezone: Annotated[str, typer.Option(help="Where its days begin")] = "UTC",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Set a limit on a scope over a window."""
    op = CreateBudget(
        0,
        scope=scope,
        settings=BudgetSettings(
            _amount(limit), window=_window(window), mode=_mode(mode), timezone=timezone
        ),
    )
    with open_ledger(_folder(config, data).path) as ledger:
        problem = auth.scope_problem(scope, ledger.keys())
        if problem is not None:
            raise StartError(problem)
        made = ledger.call(op)
    assert isinstance(made, Budgets)
    _print_budgets(made.budgets)


@budgets_app.command("list")
def list_budgets(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show every budget with what is spent, held and left."""
    with open_ledger(_folder(config, data).path) as ledger:
        budgets = ledger.budgets()
    if json:
        _print_json([msgspec.structs.asdict(budget) for budget in budgets])
    else:
        _print_budgets(budgets)


@budgets_app.command("update")
def update_budget(
    budget_id: Annotated[int, typer.Argument(help="As 'tollway budgets list' shows it")],
    limit: Annotated[str | None, typer.Option(help="USD per window")] = None,
    mode: Annotated[str | None, typer.Option(help="hard or soft")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="End the budget")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change a limit or a mode, or end a budget."""
    op = UpdateBudget(
        0,
        budget_id=budget_id,
        changes={
            **({} if limit is None else {"limit_nanousd": _amount(limit)}),
            **({} if mode is None else {"mode": _mode(mode)}),
        },
        deleted=delete,
    )
    with open_ledger(_folder(config, data).path) as ledger:
        changed = ledger.call(op)
    assert isinstance(changed, Budgets)
    _print_budgets(changed.budgets)


@app.command("spend")
def spend_command(
    by: Annotated[
        str, typer.Option(help=f"Comma-separated: {', '.join(get_args(reports.Dimension))}")
    ] = "day,virtual_model,target",
    since: Annotated[str | None, typer.Option(help="2026-11-20, or 7d ago")] = None,
    until: Annotated[str | None, typer.Option(help="2026-11-20, or 7d ago")] = None,
    last: Annotated[int, typer.Option(help="Show the last N attempts instead")] = 0,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show what was spent and what is left of the budgets."""
    folder = _folder(config, data)
    with open_ledger(folder.path) as ledger:
        budgets = ledger.budgets()
        database = folder.path / "ledger.db"
        if last:
            _print_attempts(reports.attempts(database, last), json=json)
            return
        groups: tuple[reports.Dimension, ...] = tuple(
            _convert(group, reports.Dimension, "--by") for group in by.split(",") if group
        )
        rows = reports.spend(
            database,
            since=_moment(since, "--since") or 0,
            until=_moment(until, "--until"),
            group_by=groups,
        )
    if json:
        _print_json([msgspec.to_builtins(row) for row in rows])
        return
    _print_spend(groups, rows)
    console.print()
    _print_budgets(budgets)


@app.command("prices")
def prices_command(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch today's prices into the data folder first")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="File or URL to refresh from")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show what every configured target charges, by whose word and how old that is."""
    if source is not None and not refresh:
        raise StartError("--from: says where --refresh gets the prices; give both")
    folder = Path(serve.data_path(serve.Options(config=config, data=data), os.environ))
    today = datetime.now(UTC).date()
    if refresh:
        path = DataFolder.open(folder).path
        note = price_refresh.refresh(path, source=source, today=today)
        print(note, file=sys.stderr)  # noqa: T201 # beside the table, or JSON, on standard output
    book, problem = price_list.load(folder)
    if problem:
        print(f"tollway: {problem}", file=sys.stderr)  # noqa: T201 # a warning, not an answer
    loaded = serve.load_config(serve.Options(config=config, data=data), os.environ)
    _, tables, _ = serve.resolve(loaded, os.environ, book)
    rows = price_list.rows(tables().targets.values(), today)
    if json:
        _print_json(rows)
    else:
        _print_prices(rows)


def _folder(config_path: str | None, data: str | None) -> DataFolder:
    options = serve.Options(config=config_path, data=data)
    return DataFolder.open(Path(serve.data_path(options, os.environ)))


def _amount(text: str) -> int:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise StartError(str(error)) from None


def _window(text: str) -> Window:
    problem = budget_rules.window_problem(text)
    if problem is not None:
        raise StartError(f"--window: {problem}")
    return text


def _mode(text: str) -> Mode:
    mode: Mode = _convert(text, Mode, "--mode")
    return mode


def _convert(text: str, kind: Any, option: str) -> Any:
    if text not in get_args(kind):
        raise StartError(f"{option}: {text!r} is none of {', '.join(get_args(kind))}")
    return text


def _moment(text: str | None, option: str) -> int | None:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise StartError(f"{option}: {error}") from None


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _print_json(rows: object) -> None:
    console.file.write(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n")


def _table(*texts: str, numbers: Sequence[str] = ()) -> Table:
    """A table whose texts fold where the terminal is narrow, and whose numbers stay whole."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in texts:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _print_budgets(budgets: tuple[BudgetState, ...]) -> None:
    table = _table("budget", "scope", "window", "mode", numbers=("limit", "spent", "held", "left"))
    for b in budgets:
        limit, left = b.settings.limit_nanousd, b.left_nanousd
        amounts = map(format_usd, (limit, b.spent_nanousd, b.held_nanousd, left))
        table.add_row(str(b.budget_id), b.scope, b.settings.window, b.settings.mode, *amounts)
    console.print(table)


def _print_spend(groups: Sequence[str], rows: list[reports.SpendRow]) -> None:
    table = _table(*groups, numbers=("requests", "attempts", "input", "output", "cost"))
    for row in rows:
        table.add_row(
            *map(str, row.group),
            str(row.requests),
            str(row.attempts),
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            format_usd(row.cost_nanousd),
        )
    total = sum(row.cost_nanousd for row in rows)
    blanks = [""] * (len(groups) + 3)
    table.add_row(*blanks, "total", format_usd(total), style="bold")
    console.print(table)


def _print_prices(rows: list[price_list.Row]) -> None:
    table = _table(
        "target",
        "",
        "source",
        "from",
        numbers=("input", "cached", "output", "per request", "days old"),
    )
    for row in rows:
        amounts = (row.input, row.cached_input, row.output, row.per_request)
        table.add_row(
            row.target,
            "" if row.state == "ok" else row.state,
            row.source,
            "" if row.as_of is None else str(row.as_of),
            *("" if amount is None else format_usd(amount) for amount in amounts),
            "" if row.age_days is None else str(row.age_days),
            style="yellow" if row.state in ("stale", "unpriced") else None,
        )
    console.print(table)
    console.print(
        "USD per million tokens, or per request, in the standard service tier.", style="dim"
    )


def _print_attempts(rows: list[reports.AttemptRow], *, json: bool) -> None:
    if json:
        _print_json([msgspec.to_builtins(row) for row in rows])
        return
    table = _table("time", "key", "asked", "target", "outcome", numbers=("tokens", "cost", "s"))
    for row in rows:
        about = "≈" if row.estimated else ""
        table.add_row(
            datetime.fromtimestamp(row.started_at, UTC).strftime("%m-%d %H:%M:%S"),
            row.key_id or "anonymous",
            row.virtual_model or row.target,
            row.target,
            row.outcome,
            f"{about}{row.input_tokens}+{row.output_tokens}",
            f"{about}{format_usd(row.cost_nanousd)}",
            f"{row.total_us / 1e6:.2f}",
        )
    console.print(table)
