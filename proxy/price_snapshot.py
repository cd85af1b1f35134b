"""Writes the price snapshot: `python -m proxy.price_snapshot`, given the extra `prices`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from proxy.price_book import SNAPSHOT, Provider, Snapshot


def render(snapshot: Snapshot) -> str:
    """The snapshot as JSON with one model a line, so that a diff shows which prices changed."""
    head = f'{{"source":{_json(snapshot.source)},"as_of":{_json(snapshot.as_of)},"providers":[\n'
    return head + ",\n".join(_render_provider(each) for each in snapshot.providers) + "\n]}\n"


def _render_provider(provider: Provider) -> str:
    head = f'{{"id":{_json(provider.id)},"fallback":{_json(provider.fallback)},"models":[\n'
    return head + ",\n".join(_json(model) for model in provider.models) + "\n]}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the snapshot of the installed genai-prices.

    Raises SystemExit: 2 for wrong arguments, 1 with one line where genai-prices is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m proxy.price_snapshot", description=__doc__)
    parser.add_argument("--output", type=Path, default=SNAPSHOT, help="file to write")
    parser.add_argument(
        "--as-of",
        type=date.fromisoformat,
        default=datetime.now(UTC).date(),
        help="date of the snapshot, YYYY-MM-DD (default: today)",
    )
    options = parser.parse_args(arguments)
    try:
        # Here, not at the top: it needs an extra that a server does without.
        from proxy import price_source
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("genai_prices"):
            raise
        sys.exit("genai-prices is not installed; install tollway[prices] to refresh the prices")
    snapshot = price_source.snapshot(options.as_of)
    options.output.write_text(render(snapshot), encoding="utf-8", newline="\n")
    models = sum(len(provider.models) for provider in snapshot.providers)
    sys.stdout.write(
        f"{options.output}: {snapshot.source}, {models} models, {snapshot.priced} with a price\n"
    )


if __name__ == "__main__":
    main()
