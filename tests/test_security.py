"""docs/security.md has forty attacks, and each has the tests that it says it has."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/security.md").read_text()
ATTACKS = {
    int(number): answer
    for number, answer in re.findall(r"^\| (\d+) \| .* \| ([^|]*) \|$", PAGE, re.MULTILINE)
}
"""By number, what is answered."""


def marks(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers that a file's tests are marked with, and the tests' names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if ast.unparse(mark).startswith("pytest.mark.negative("):
                    assert node.name.startswith("test_"), f"{path}: {node.name} is no test"
                    yield int(ast.unparse(mark).rpartition("=")[2].rstrip(")")), node.name


@pytest.fixture(scope="module")
def marked() -> dict[int, set[str]]:
    found = defaultdict(set)
    for folder in TESTS.iterdir():
        files = folder.rglob("test_*.py") if folder.is_dir() else [folder]
        for path in files:
            if path.suffix == ".py" and "node_modules" not in path.parts:
                for number, name in marks(path):
                    found[number].add(name)
    return found


def test_the_page_has_forty_attacks() -> None:
    assert list(ATTACKS) == list(range(1, 41))


def test_every_attack_is_tried(marked: dict[int, set[str]]) -> None:
    assert set(marked) == set(ATTACKS)
