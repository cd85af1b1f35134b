"""`tollway budgets`: limits, and how much of them is used."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from proxy import budgets as budget_rules
from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption, WindowOption
from proxy.cli.output import Grid, console, print_json, when
from proxy.errors import StartError
from proxy.forecast import runs_out_at
from proxy.ledger.protocol import (
    Budgets,
    BudgetSettings,
    BudgetState,
    CreateBudget,
    Holds,
    Mode,
    UpdateBudget,
)
from proxy.ledger.sync import SyncLedger
from proxy.pricing import format_usd

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Limits on what may be spent.")

IdArgument = Annotated[int, typer.Argument(help="As 'tollway budgets list' shows it")]
HoldsHelp = "sliced holds a little of a stream at a time, full all of it"


@app.command("create")
def create(
    scope: Annotated[
        str,
        typer.Argument(
            help="global, anonymous, or organisation:, team:, key:, user:, tag:, model:, target: "
            "or provider: and a name; 'user:*' for a budget each; joined by ' & ' all must apply"
        ),
    ],
    limit: Annotated[str, typer.Argument(help="USD per window")],
    window: WindowOption = "day",
    mode: Annotated[str, typer.Option(help="hard refuses, soft only counts")] = "hard",
    holds: Annotated[str, typer.Option(help=HoldsHelp)] = "sliced",
    timezone: Annotated[str, typer.Option(help="Where its days begin")] = "UTC",
    name: Annotated[str, typer.Option(help="Your own name for it")] = "",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Set a limit on a scope over a window."""
    problem = budget_rules.scope_problem(scope)
    if problem is not None:
        raise StartError(problem)
    settings = BudgetSettings(
        asking.amount(limit, "USD"),
        window=asking.window(window),
        mode=asking.chosen(mode, Mode, "--mode"),
        timezone=timezone,
        holds=asking.chosen(holds, Holds, "--holds"),
        name=name,
    )
    with asking.ledger_of(config, data) as ledger:
        _check_scope(scope, ledger, config)
        made = asking.answered(ledger.call(CreateBudget(0, scope, settings)), Budgets)
    print_budgets(made.budgets)


@app.command("list")
def list_budgets(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show every budget with what is spent, held and left, and when it opens again or runs out."""
    with asking.ledger_of(config, data) as ledger:
        budgets = ledger.budgets()
    if json:
        now = int(time.time())
        print_json([_shown(budget, now) for budget in budgets])
    else:
        print_budgets(budgets)


@app.command("update")
def update(
    budget_id: IdArgument,
    limit: Annotated[str | None, typer.Option(help="USD per window")] = None,
    mode: Annotated[str | None, typer.Option(help="hard or soft")] = None,
    holds: Annotated[str | None, typer.Option(help="sliced or full")] = None,
    name: Annotated[str | None, typer.Option(help="Your own name for it")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change what is named; the window and time zone of a budget stay what they are."""
    changes = asking.named(
        limit_nanousd=None if limit is None else asking.amount(limit, "--limit"),
        mode=None if mode is None else asking.chosen(mode, Mode, "--mode"),
        holds=None if holds is None else asking.chosen(holds, Holds, "--holds"),
        name=name,
    )
    if not changes:
        raise StartError("budgets update: nothing to change; see 'tollway budgets update --help'")
    with asking.ledger_of(config, data) as ledger:
        changed = asking.answered(ledger.call(UpdateBudget(0, budget_id, changes)), Budgets)
    print_budgets(changed.budgets)


@app.command("delete")
def delete(budget_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """End a budget; what was spent under it stays on record."""
    with asking.ledger_of(config, data) as ledger:
        ledger.call(UpdateBudget(0, budget_id, deleted=True))
    console.print(f"budget {budget_id} is deleted")


def print_budgets(budgets: Iterable[BudgetState]) -> None:
    """Print budgets with the balance of the window that is open now."""
    now = int(time.time())
    grid = Grid(
        "id",
        "scope",
        "window",
        "mode",
        "then",
        numbers=("limit", "spent", "held", "left", "used"),
    )
    for budget in budgets:
        settings = budget.settings
        amounts = (
            settings.limit_nanousd,
            budget.spent_nanousd,
            budget.held_nanousd,
            budget.left_nanousd,
        )
        grid.add(
            str(budget.budget_id),
            f"{budget.scope} ({settings.name})" if settings.name else budget.scope,
            settings.window,
            settings.mode,
            _then(budget, now),
            *map(format_usd, amounts),
            _used(budget),
        )
    grid.print()


def _then(budget: BudgetState, now: int) -> str:
    """What happens to it next: it runs out, or it opens again."""
    if not budget.spent_nanousd:
        return ""
    out = runs_out_at(budget, now)
    if out is not None and out > now:
        return f"runs out {when(out)}"
    if budget.opens_at is None:
        return "" if out is None else "spent"
    return f"opens {when(budget.opens_at)}"


def _used(budget: BudgetState) -> str:
    """The share that is spent, to the tenth of a percent below it."""
    limit = budget.settings.limit_nanousd
    if not limit:
        return "-"
    tenths = budget.spent_nanousd * 1_000 // limit
    return f"{tenths // 10}.{tenths % 10}%"


def _shown(budget: BudgetState, now: int) -> dict[str, Any]:
    """A budget as JSON: flat, money in nano-USD, times in Unix seconds."""
    return {
        "budget_id": budget.budget_id,
        "scope": budget.scope,
        **msgspec.structs.asdict(budget.settings),
        "managed": budget.managed,
        "spent_nanousd": budget.spent_nanousd,
        "held_nanousd": budget.held_nanousd,
        "overrun_nanousd": budget.overrun_nanousd,
        "left_nanousd": budget.left_nanousd,
        "starts_at": budget.starts_at,
        "opens_at": budget.opens_at,
        "runs_out_at": runs_out_at(budget, now),
        "created_at": budget.created_at,
    }


def _check_scope(scope: str, ledger: SyncLedger, config: str | None) -> None:
    """Raise `StartError` unless everything it names is there."""
    keys, groups = ledger.keys(), ledger.groups()
    known = {f"key:{key.key_id}" for key in keys if key.revoked_at is None}
    known |= {f"{group.kind}:{group.group_id}" for group in groups if group.deleted_at is None}
    for kind, name in budget_rules.named_in(scope):
        if kind in ("key", "team", "organisation"):
            if f"{kind}:{name}" not in known:
                raise StartError(f"there is no {kind} {name[:100]!r}; see 'tollway {kind}s list'")
        elif not asking.may_be_configured(kind, name, config):
            raise StartError(
                f"there is no {kind} {name[:100]!r} in the configuration; see 'tollway check'"
            )
