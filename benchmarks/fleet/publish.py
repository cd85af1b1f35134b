"""Puts what a run of the fleet came to into docs/routing.md, between its marks.

Run as `python -m benchmarks.fleet.publish FILE.json`, with what `--only fleet --output` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.subjects import ROOT

PAGE = ROOT / "docs" / "routing.md"


def published(text: str, results: Mapping[str, Any]) -> str:
    """The page with the figures of these results."""
    tables = {"fleet": _fleet(results["fleet"]), "histories": _histories(results["histories"])}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n\n{end}{after}"
    return text


def _fleet(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["policy", "answered", "cost of 1,000", "saved", "first token", "p95", "saved"]
    header += ["whole answer", "saved", "strong", "worth"]
    cells = [
        [
            row["model"],
            f"{row['answered']:.2%}",
            f"${row['cost_usd_per_1000']:.2f}",
            f"{row['cost_saved']:.0%}",
            f"{row['first_token_ms']:,.0f} ms",
            f"{row['first_token_p95_ms']:,.0f}",
            f"{row['first_token_saved']:.0%}",
            f"{row['whole_ms'] / 1e3:.1f} s",
            f"{row['whole_saved']:.0%}",
            f"{row['strong']:.0%}",
            f"{row['worth']:.3f}",
        ]
        for row in rows
    ]
    return _table(header, cells)


def _histories(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["conversations", "tokens a request", "`max_tokens`", "requests cut"]
    header += ["input saved", "its cost, with a cache"]
    cells = [
        [
            row["conversations"],
            f"{row['tokens_per_request']:,}",
            f"{row['max_tokens']:,}",
            f"{row['cut']:.0%}",
            f"{row['tokens']:.0%}",
            f"{row['cached_cost']:.0%}",
        ]
        for row in rows
    ]
    return _table(header, cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


if __name__ == "__main__":
    PAGE.write_text(published(PAGE.read_text(), json.loads(Path(sys.argv[1]).read_text())))
