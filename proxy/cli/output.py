"""How answers look: tables whose numbers stay whole, bars, JSON and CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

# What is shown comes from configurations and callers: none of it is markup.
console = Console(highlight=False, markup=False)

_PAD = 2
_LEAST_TEXT = 6
_LEAST_BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Grid:
    """A table whose texts fold where the terminal is narrow, and whose numbers stay whole.

    Where not even folding makes room for all numbers, its lines are longer than the terminal.
    """

    def __init__(self, *texts: str, numbers: Sequence[str] = (), name: str | None = None) -> None:
        """With a `name` there is a first column of that header, whose texts stay whole too."""
        names = () if name is None else (name,)
        self._headers = (*names, *texts, *numbers)
        self._folding = slice(len(names), len(names) + len(texts))
        self._table = Table(
            box=None,
            padding=(0, _PAD, 0, 0),
            pad_edge=False,
            show_header=any(self._headers),
        )
        for header in names:
            self._table.add_column(header, no_wrap=True)
        for header in texts:
            self._table.add_column(header, overflow="fold")
        for header in numbers:
            self._table.add_column(header, justify="right", no_wrap=True)
        self._widths = [cell_len(header) for header in self._headers]

    def add(self, *cells: str, style: str | None = None) -> None:
        """Append a row, a cell for each column. What a terminal would obey is escaped."""
        cells = tuple(map(printable, cells))
        self._widths = [max(pair) for pair in zip(self._widths, map(cell_len, cells), strict=True)]
        self._table.add_row(*cells, style=style)

    def print(self) -> None:
        """Print it."""
        folding = self._widths[self._folding]
        texts = sum(min(width, _LEAST_TEXT) + _PAD for width in folding)
        numbers = sum(width + _PAD for width in self._widths) - sum(w + _PAD for w in folding)
        if sum(width + _PAD for width in self._widths) > console.width:
            # Columns closer together, so that fewer words are broken.
            self._table.padding = (0, 1, 0, 0)
        if texts + numbers <= console.width:
            console.print(self._table)
            return
        wide = Console(
            file=console.file,
            width=texts + numbers,
            highlight=False,
            markup=False,
            force_terminal=console.is_terminal,
            no_color=console.no_color,
        )
        wide.print(self._table, soft_wrap=False)


def print_json(rows: object) -> None:
    """Print a value as JSON for programs."""
    console.file.write(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n")


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as RFC 4180."""
    writer = csv.writer(console.file)
    writer.writerow(columns)
    writer.writerows(rows)


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    print(text, file=sys.stderr)  # noqa: T201 # beside the answer on standard output


def printable(text: str) -> str:
    """The text, with what is not printable written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def when(seconds: float) -> str:
    """A moment, to the minute, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def when_or_blank(seconds: float | None) -> str:
    """The same; nothing for no moment."""
    return "" if seconds is None else when(seconds)


def bars(rows: Sequence[tuple[str, int, str]], width: int, *, ascii_only: bool) -> list[str]:
    """A bar chart in lines of at most `width` columns, if that leaves room for bars at all.

    A row is a label, a value and how the value is written, which is never cut. Bars begin at zero;
    a value below zero has none, one above has at least a sliver.
    """
    if not rows:
        return []
    amount_width = max(cell_len(amount) for _, _, amount in rows)
    label_width = max(cell_len(printable(label)) for label, _, _ in rows)
    label_width = min(label_width, max(_LEAST_TEXT, (width - amount_width - 2 * _PAD) // 2))
    room = max(_LEAST_BAR, width - label_width - amount_width - 2 * _PAD)
    most = max(max(value for _, value, _ in rows), 1)
    return [
        f"{_cut(printable(label), label_width, ascii_only=ascii_only)}{' ' * _PAD}"
        f"{' ' * (amount_width - cell_len(amount))}{amount}{' ' * _PAD}"
        f"{_bar(value, most, room, ascii_only=ascii_only)}".rstrip()
        for label, value, amount in rows
    ]


def _cut(label: str, width: int, *, ascii_only: bool) -> str:
    if cell_len(label) <= width:
        return set_cell_size(label, width)
    return set_cell_size(label, width - 1) + ("~" if ascii_only else "…")


def _bar(value: int, most: int, room: int, *, ascii_only: bool) -> str:
    if value <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, value * room // most)
    whole, rest = divmod(max(1, value * room * 8 // most), 8)
    return "█" * whole + _EIGHTHS[rest].strip()


def print_bars(rows: Sequence[tuple[str, int, str]]) -> None:
    """Print a bar chart as wide as the terminal."""
    ascii_only = "utf" not in console.encoding.lower()
    for line in bars(rows, console.width, ascii_only=ascii_only):
        console.print(line, soft_wrap=True)
