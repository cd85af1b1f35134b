"""Runs what a client can be asked for against each model, and prints what came of it, as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Client = TypeVar("Client")
SCENE: dict[str, Any] = json.loads(Path(__file__).with_name("scene.json").read_text())


def run(client: Client, features: Sequence[Callable[[Client, str], None]], models: str) -> None:
    """One line for each model and feature: `error` is null where all is as it should be."""

    def attempt(model: str) -> list[dict[str, str | None]]:
        return [
            {"model": model, "feature": feature.__name__, "error": _error(feature, client, model)}
            for feature in features
        ]

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(attempt, models.split(",")):
            for line in found:
                print(json.dumps(line))
    sys.stdout.flush()


def _error(feature: Callable[[Client, str], None], client: Client, model: str) -> str | None:
    try:
        feature(client, model)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[1]
        return f"{type(error).__name__}: {error} (in {place.line})"[:1000]
    return None


def same(found: object, expected: object) -> None:
    """Like `assert found == expected`, and says both."""
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")
