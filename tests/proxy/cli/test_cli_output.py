"""Tables and bars on terminals of any width."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from proxy.cli import output
from proxy.cli.output import Grid, bars

LABELS = st.text(st.characters(exclude_categories=("C", "Z", "M")), min_size=1, max_size=40)
ROWS = st.lists(
    st.tuples(LABELS, st.integers(-5, 10**16), st.integers(0, 10**14).map("${:,}".format)),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.integers(50, 200), st.booleans())
def test_bars_fit_the_terminal_and_amounts_are_whole(
    rows: list[tuple[str, int, str]], width: int, ascii_only: bool
) -> None:
    lines = bars(rows, width, ascii_only=ascii_only)
    assert len(lines) == len(rows)
    for line, (_, value, amount) in zip(lines, rows, strict=True):
        assert cell_len(line) <= width
        assert amount in line
        drawn = line.rpartition(amount)[2].strip()
        assert bool(drawn) == (value > 0)
        assert not ascii_only or set(drawn) <= {"#"}


def test_bars_begin_at_zero() -> None:
    lines = bars([("a", 100, "100"), ("b", 50, "50"), ("c", 1, "1")], 80, ascii_only=True)
    long, half, sliver = (line.count("#") for line in lines)
    assert (half, sliver) == (long // 2, 1)
    assert bars([], 80, ascii_only=True) == []


def test_bars_need_no_room_for_long_labels() -> None:
    (line,) = bars([("x" * 200, 7, "$1,234.56")], 80, ascii_only=False)
    assert cell_len(line) <= 80
    assert "…" in line
    assert "$1,234.56" in line


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_numbers_stay_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=width, markup=False))
    grid = Grid("scope", "then", numbers=("limit", "spent", "left"))
    numbers = ("$123,456,789.000000001", "$0.000000001", "-$1,000.00")
    grid.add("organisation:a-long-name & user:somebody", "runs out 2026-11-20 04:00", *numbers)
    grid.print()
    for number in numbers:
        assert number in file.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_names_stay_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=width, markup=False))
    grid = Grid("at", "state", numbers=("MB",), name="found")
    grid.add("local/a-name-to-be-copied-Q4_K_M", "models/", "cannot be used: is cut", "4711")
    grid.print()
    for word in ("local/a-name-to-be-copied-Q4_K_M", "4711"):
        assert word in file.getvalue()


def test_words_stay_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=80, markup=False))
    grid = Grid("scope", "window", "mode", "then", numbers=("limit", "spent", "held", "left"))
    numbers = ("$10.00", "$0.0000402", "$0.00", "$9.9999598")
    grid.add("anonymous", "day", "hard", "opens 2026-11-22 00:00", *numbers)
    grid.print()
    for word in ("anonymous", "2026-11-22", *numbers):
        assert word in file.getvalue()


def test_nothing_shown_is_obeyed_by_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=80, markup=False))
    grid = Grid("name")
    grid.add("\x1b]0;evil\x07\r\nélan")
    grid.print()
    assert r"\x1b]0;evil\x07\r\nélan" in file.getvalue()
    (line,) = bars([("\x1b[2J", 1, "$1.00")], 80, ascii_only=True)
    assert line.startswith(r"\x1b[2J")
