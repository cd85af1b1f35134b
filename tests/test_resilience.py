"""Each promise of docs/resilience.md has the tests that it says it has."""

from __future__ import annotations

import re
from pathlib import Path

from tests.marked import marked

PAGE = (Path(__file__).parent.parent / "docs/resilience.md").read_text()
_, _, _PROMISES = PAGE.partition("\n## What is promised\n")


def test_every_promise_is_kept_by_a_test() -> None:
    table, _, _ = _PROMISES.partition("\n## ")
    rows = re.findall(r"^\| ([a-z]+) \| [^|]+ \|$", table, re.MULTILINE)
    assert len(rows) == len(set(rows)) > 10
    assert set(marked("resilience")) == set(rows)
