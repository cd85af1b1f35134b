"""Which tests say of themselves what they show."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).parent


def marked(mark: str) -> dict[object, set[str]]:
    """The tests with a mark, by what it says."""
    found = defaultdict(set)
    for folder in _TESTS.iterdir():
        files = folder.rglob("test_*.py") if folder.is_dir() else [folder]
        for path in files:
            if path.suffix == ".py" and "node_modules" not in path.parts:
                for said, name in _marks(path, f"pytest.mark.{mark}"):
                    found[said].add(name)
    return found


def _marks(path: Path, mark: str) -> Iterator[tuple[object, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for each in node.decorator_list:
                if isinstance(each, ast.Call) and ast.unparse(each.func) == mark:
                    assert node.name.startswith("test_"), f"{path}: {node.name} is no test"
                    (keyword,) = each.keywords
                    yield ast.literal_eval(keyword.value), node.name
