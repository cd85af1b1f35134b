"""Swaps in real processes: nothing is cut, nothing half moves, and nothing is lost by a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.tollway import Tollway, serving

WAIT_S = 60.0

OLD = {"models": ["m"], "replies": [{"text": "the old one says so, at length", "tokens_per_s": 0}]}
NEW = {"models": ["m"], "replies": [{"text": "the new one says so, at length", "tokens_per_s": 0}]}
BROKEN = {
    "models": ["m"],
    "replies": [
        {"when": "check", "text": "all is well"},
        {"fault": {"kind": "status", "status": 503}},
    ],
}


def config(folder: Path, **scripts: dict[str, Any]) -> dict[str, Any]:
    """A provider for each script, each with a model `m`; `auto` and `alias` lead to `old/m`."""
    providers, targets = {}, []
    for name, script in scripts.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(script))
        providers[name] = {"adapter": "scripted", "script": str(path)}
        target: dict[str, Any] = {"target": f"{name}/m", "price": {"input": 1, "output": 2}}
        targets.append({**target, "alias": ["nick"]} if name == "old" else target)
    return {
        "providers": providers,
        "targets": targets,
        "models": {"auto": {"targets": ["old/m"]}},
        "discover": False,
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("swaps")
    with serving(folder, config(folder, old=OLD, new=NEW, broken=BROKEN), "--workers", "2") as up:
        yield up


def until(found: Callable[[], Any], what: str = "it") -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return value


def swap(running: Tollway, name: str, source: str, target: str, **more: Any) -> int:
    body = {"name": name, "from": source, "to": target, **more}
    return int(running.admin("POST", "/swaps", body)["id"])


def state_of(running: Tollway, number: int) -> str:
    return str(running.admin("GET", f"/swaps/{number}")["state"])


def reaches(running: Tollway, number: int, *states: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = running.admin("GET", f"/swaps/{number}")
        return shown if shown["state"] in states else None

    found: dict[str, Any] = until(look, f"{states}: {running.admin('GET', f'/swaps/{number}')}")
    return found


def test_a_virtual_model_moves_and_comes_back(running: Tollway) -> None:
    assert running.chat().headers["x-tollway-model"] == "old/m"
    number = swap(running, "auto", "old/m", "new/m", grace_s=1)
    reaches(running, number, "draining", "completed")

    def all_new() -> bool:
        return all(running.chat().headers["x-tollway-model"] == "new/m" for _ in range(10))

    until(all_new)
    reply = running.chat()
    assert reply.headers["x-tollway-swap"] == str(number)
    shown = reaches(running, number, "completed")
    assert [event["state"] for event in shown["events"]] == [
        "preparing",
        "shifting",
        "draining",
        "completed",
    ]
    assert running.admin("POST", f"/swaps/{number}/rollback")["state"] == "rolled_back"
    until(lambda: all(running.chat().headers["x-tollway-model"] == "old/m" for _ in range(10)))
    assert "x-tollway-swap" not in running.chat().headers
