"""`tollway export`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, get_args

import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, SinceOption, UntilOption
from proxy.cli.output import note
from proxy.errors import StartError
from proxy.ledger.export import Format, Opener, csv_file, jsonl_file, pages

app = typer.Typer(add_completion=False)

_STANDARD_OUTPUT = "-"
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


@app.command()
def export(
    output: Annotated[str, typer.Option("--output", "-o", help="File, or - for standard output")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help=f"{', '.join(get_args(Format))}; by the file's name if left out"
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Write every attempt to a file, beside a running server; the file is whole or not there."""
    begin, end = asking.moment(since, "--since"), asking.moment(until, "--until")
    opener = _opener(_format(form, output))
    ledger = asking.ledger_to_read(config, data)
    # Up to now: a busy server would otherwise be followed without end.
    last = int(time.time()) + 1 if end is None else end
    count = 0
    with _writing(output) as file, opener(file) as write:
        for page in pages(ledger, since=begin or 0, until=last):
            write(page)
            count += len(page)
    note(f"{count:,} attempts exported")


def _format(named: str | None, output: str) -> Format:
    if named is not None:
        form: Format = asking.chosen(named, Format, "--format")
        return form
    return _SUFFIXES.get(Path(output).suffix.lower(), "csv")


def _opener(form: Format) -> Opener:
    match form:
        case "csv":
            return csv_file
        case "jsonl":
            return jsonl_file
        case "parquet":
            try:
                from proxy.ledger.parquet import parquet_file
            except ModuleNotFoundError:
                raise StartError(
                    "--format parquet: needs pyarrow; pip install 'tollway[parquet]', or choose "
                    "csv or jsonl"
                ) from None
            return parquet_file


@contextmanager
def _writing(output: str) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole; nothing stays of one that is not."""
    if output == _STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    try:
        # Readable by the owner only, as the ledger is.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StartError(f"{output}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise StartError(f"{output}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
