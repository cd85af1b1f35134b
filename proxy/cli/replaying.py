"""`tollway replay`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from proxy import config_file, price_list, replay_report, request_store, serve
from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption, UntilOption
from proxy.cli.output import Grid, console, note, print_json, when
from proxy.clock import SystemClock
from proxy.config import Config
from proxy.errors import StartError
from proxy.ledger import answers
from proxy.past_figures import Declared, Measured
from proxy.pricing import format_usd
from proxy.replay import Replay, Report, answers_of
from proxy.replay_report import About, share, summary, targets_of
from proxy.targets import TargetTable

app = typer.Typer(add_completion=False)

Known = Literal["measured", "declared"]
_MOST_SHOWN = 10
_BATCH = 1_000


@app.command()
def replay(
    policy: Annotated[
        Path | None, typer.Option(help="The configuration to ask; the one that serves if unset")
    ] = None,
    since: Annotated[str, typer.Option(help="2026-11-20, or 7d ago")] = "7d",
    until: UntilOption = None,
    figures: Annotated[
        str, typer.Option(help="measured in that time, or declared: what to go by of targets")
    ] = "measured",
    html: Annotated[Path | None, typer.Option(help="Write a report to this file, too")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Put what was asked to another configuration: what it would cost, and where it would go."""
    known: Known = asking.chosen(figures, Known, "--figures")
    begin, end = asking.moment(since, "--since"), asking.moment(until, "--until")
    folder = asking.data_folder(config, data).path
    database = asking.ledger_to_read(config, data)
    loaded = serve.load_config(serve.Options(config=config, data=data), os.environ)
    served = table_of(loaded)
    draft = served if policy is None else table_of(config_file.load(policy, os.environ))
    about = About(
        policy=str(policy or loaded.source),
        since=when(begin or 0),
        until=when(end or SystemClock().time()),
        figures=known,
    )
    shows: Measured | Declared = Declared()
    if known == "measured":
        shows = Measured(answers.done(database, begin or 0, end), answers.quality(database))
    asked_again = Replay(draft, shows, SystemClock(), served=served)
    with reading_requests():
        requests = request_store.read(folder, begin or 0, end)
        while batch := list(islice(requests, _BATCH)):
            names = [asked.request_id for asked, _ in batch]
            known_answers = answers_of(answers.done_for(database, names))
            for asked, prompt in batch:
                asked_again.add(asked, prompt, known_answers.get(asked.request_id))
    report = asked_again.report
    if not report.asked:
        raise StartError(
            f"{folder / request_store.FILE}: has no request of that time; they are written down "
            "with 'logging: {requests: true}' in the configuration"
        )
    if html is not None:
        _write(html, replay_report.page(report, about))
    if json:
        print_json(replay_report.as_json(report, about))
        return
    _print(report)
    if html is not None:
        note(f"the report is in {html}")


@contextmanager
def reading_requests() -> Iterator[None]:
    """Raise `StartError` where the file cannot be read, or is another version's."""
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise StartError(f"{request_store.FILE}: {error}; check the data folder") from None


def table_of(loaded: Config) -> TargetTable:
    """The targets and virtual models of a configuration, as it would be served now."""
    book, _ = price_list.load(Path(loaded.server.data))
    return serve.resolve(loaded, os.environ, book).tables()


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StartError(f"--html: {path}: {error.strerror}") from None


def _print(report: Report) -> None:
    console.print(
        f"{report.asked:,} requests, {report.compared:,} compared, "
        f"{report.changed:,} would go elsewhere"
    )
    for why, count in report.left_out.most_common():
        console.print(f"{count:,} left out: {why}", style="dim")
    console.print()
    grid = Grid("", numbers=("then", "now"))
    for row in summary(report):
        grid.add(*row)
    grid.print()
    console.print()
    grid = Grid("target", numbers=("then", "now", "cost then", "cost now"))
    for name in targets_of(report):
        grid.add(
            name,
            share(report.then.requests[name], report.compared),
            share(report.now.requests[name], report.compared),
            format_usd(report.then.cost_nanousd[name]),
            format_usd(report.now.cost_nanousd[name]),
        )
    grid.print()
    if not report.changes:
        return
    console.print()
    grid = Grid("task", "then", "now", "why now", name="request")
    for change in report.changes[:_MOST_SHOWN]:
        grid.add(change.request_id, change.task, change.then or "-", change.now, change.reason)
    grid.print()
    if report.changed > _MOST_SHOWN:
        console.print(f"and {report.changed - _MOST_SHOWN:,} more", style="dim")
