"""Children that recite, for whoever tests what all children do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.children.child import STAND_IN, Child, running


@contextmanager
def reciting(folder: Path, *texts: list[str | None], **told: Any) -> Iterator[Child]:
    model = folder / "recital.json"
    model.write_text(json.dumps({"texts": texts, **told}))
    with running(STAND_IN, model) as child:
        yield child


Reciting = Callable[..., AbstractContextManager[Child]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reciting]:
    """One process for many tests, each of which says what is recited."""
    model = tmp_path_factory.mktemp("shared") / "recital.json"
    model.write_text('{"texts": []}')
    numbers = count()
    with running(STAND_IN, model) as child:

        @contextmanager
        def telling(*texts: list[str | None], **told: Any) -> Iterator[Child]:
            model.write_text(json.dumps({"texts": texts, "test": next(numbers), **told}))
            yield child

        yield telling
