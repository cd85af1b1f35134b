"""What commands are asked with: options they share, and texts turned into values.

Every function here that reads a text raises `StartError` in one line that names the option.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec
import typer

from proxy import budgets as budget_rules
from proxy.data_folder import DataFolder
from proxy.errors import StartError
from proxy.ledger.folder import ledger_file
from proxy.ledger.protocol import BudgetSettings, Limits, Window
from proxy.ledger.sync import SyncLedger, open_ledger
from proxy.moments import parse_later, parse_moment
from proxy.pricing import parse_usd

T = TypeVar("T")

ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help="Configuration file [TOLLWAY_CONFIG]")
]
DataOption = Annotated[str | None, typer.Option(help="Data folder [TOLLWAY_DATA]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table")]

BudgetOption = Annotated[
    list[str] | None,
    typer.Option(help="Hard budget in USD, or USD/window (1/5h, 20/month); repeatable"),
]
WindowOption = Annotated[
    str, typer.Option(help="day, week, month, quarter, year, lifetime, or e.g. 90m, 5h, 30d")
]
RpmOption = Annotated[str | None, typer.Option(help="Requests per minute")]
TpmOption = Annotated[str | None, typer.Option(help="Tokens per minute")]
ConcurrentOption = Annotated[str | None, typer.Option(help="Requests at the same time")]
MetadataOption = Annotated[str | None, typer.Option(help="Your own, as a JSON object")]
SinceOption = Annotated[str | None, typer.Option(help="2026-11-20, or 7d ago")]
UntilOption = Annotated[str | None, typer.Option(help="2026-11-20, or 7d ago; excluded")]


def data_folder(config: str | None, data: str | None) -> DataFolder:
    """The data folder that the options, the environment or the configuration name."""
    path = data or os.environ.get("TOLLWAY_DATA") or _configured_folder(config)
    return DataFolder.open(Path(path))


def _configured_folder(config: str | None) -> str:
    # Not at the top: reading configurations takes longer to import than all else a command needs.
    from proxy import serve

    return serve.data_path(serve.Options(config=config), os.environ)


def may_be_configured(kind: str, name: str, config: str | None) -> bool:
    """Whether the configuration may have such a virtual `model`, `target` or `provider`."""
    # Not at the top, as above.
    from proxy import serve
    from proxy.config_checks import may_be_there

    return may_be_there(serve.load_config(serve.Options(config=config), os.environ), kind, name)


@contextmanager
def ledger_of(config: str | None, data: str | None) -> Iterator[SyncLedger]:
    """The ledger of the data folder, through the running server or by itself."""
    with open_ledger(data_folder(config, data).path) as ledger:
        yield ledger


def ledger_to_read(config: str | None, data: str | None) -> Path:
    """The ledger's file, made or migrated if need be."""
    folder = data_folder(config, data).path
    open_ledger(folder).close()
    return ledger_file(folder)


def label(text: str | None) -> str | None:
    """What people call something: not nothing, if it is named at all."""
    if text is not None and not text.strip():
        raise StartError("name: is empty; say whose it is")
    return text


def amount(text: str, option: str) -> int:
    """USD as nano-USD."""
    try:
        return parse_usd(text)
    except ValueError as error:
        raise StartError(f"{option}: {error}") from None


def window(text: str, option: str = "--window") -> Window:
    """The name of a window."""
    problem = budget_rules.window_problem(text)
    if problem is not None:
        raise StartError(f"{option}: {problem}")
    return text


def chosen(text: str, kind: Any, option: str) -> Any:
    """One of the words of a `Literal`."""
    if text not in get_args(kind):
        raise StartError(f"{option}: {text[:100]!r} is none of {', '.join(get_args(kind))}")
    return text


def moment(text: str | None, option: str) -> int | None:
    """Unix seconds of a date, a moment, or a time ago; None for no text."""
    try:
        return parse_moment(text)
    except ValueError as error:
        raise StartError(f"{option}: {error}") from None


def later(text: str, option: str) -> int:
    """Unix seconds of a date, a moment, or a time from now."""
    try:
        return parse_later(text, int(time.time()))
    except ValueError as error:
        raise StartError(f"{option}: {error}") from None


def own_budgets(texts: Iterable[str] | None, default_window: str) -> tuple[BudgetSettings, ...]:
    """Budgets of what is made with them: `20` is of the default window, `1/5h` of its own."""
    made = []
    for text in texts or ():
        usd, slash, own_window = text.partition("/")
        limit = amount(usd, "--budget")
        name = window(own_window, "--budget") if slash else window(default_window)
        made.append(BudgetSettings(limit, window=name))
    return tuple(made)


def listed(texts: list[str] | None) -> tuple[str, ...] | None:
    """The texts of a repeatable option; one empty text is an empty list, None is no option."""
    return None if texts is None else tuple(text for text in texts if text)


def metadata(text: str | None) -> dict[str, Any] | None:
    """A JSON object; an empty text is an empty one, None is no option."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise StartError(f"--metadata: {error}; write a JSON object") from None


def limit_changes(
    rpm: str | None, tpm: str | None, concurrent: str | None
) -> dict[str, int | None]:
    """Rates that are named, by field; an empty text takes one away."""
    named = (
        ("--rpm", "requests_per_minute", rpm),
        ("--tpm", "tokens_per_minute", tpm),
        ("--concurrent", "concurrent", concurrent),
    )
    return {field: _rate(text, option) for option, field, text in named if text is not None}


def _rate(text: str, option: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise StartError(f"{option}: {text[:40]!r} is no number of at most twelve digits")
    return int(text)


def changed_limits(limits: Limits, changes: Mapping[str, int | None]) -> dict[str, Any]:
    """What becomes of the limits there are, as an update says it."""
    fields: dict[str, Any] = msgspec.structs.asdict(limits)
    return {**fields, **changes}


def named(**changes: Any) -> dict[str, Any]:
    """Those of the changes that were asked for."""
    return {field: value for field, value in changes.items() if value is not None}


def one_form(*, json: bool, csv: bool) -> None:
    """Raise `StartError` where an answer is asked for in two forms."""
    if json and csv:
        raise StartError("--json and --csv: give one of them")


def answered(reply: object, kind: type[T]) -> T:
    """The reply, which the protocol says is of that kind."""
    assert isinstance(reply, kind)
    return reply
