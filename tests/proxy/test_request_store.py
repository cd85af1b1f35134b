"""What was asked is written down in batches, read back in order, and gone when its time is over."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.base import Prompt
from proxy import request_store
from proxy.asked import Asked
from proxy.request_store import FILE, RequestStore

CANARY = "zqxjkv-canary-0815"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RequestStore]:
    made = RequestStore(tmp_path)
    yield made
    made.close()


def an_asked(number: int, at: float) -> Asked:
    return Asked(
        request_id=f"req_{number}",
        at=at,
        model="auto",
        key_id="k",
        scopes=("global", "tag:t"),
        capability="chat",
        needs=frozenset({"chat"}),
        input_tokens=10,
        decision="d",
        revision=1,
    )


def test_what_was_written_is_read_in_order_with_its_prompts(
    store: RequestStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(request_store.read(tmp_path)) == []
    monkeypatch.setattr(request_store, "_BATCH", 3)
    prompt = Prompt(text="half a pair \ud800", opening="Hello", turns=3)
    # Many at the same moment, too, which must not be read twice or left out.
    store.put([(an_asked(n, at=float(n // 4)), prompt if n % 2 else None) for n in range(10)])
    found = list(request_store.read(tmp_path))
    assert [asked.request_id for asked, _ in found] == [f"req_{n}" for n in range(10)]
    assert found[0][1] is None
    assert found[1][1] == Prompt(text="half a pair ?", opening="Hello", turns=3)
    assert len(list(request_store.read(tmp_path, 1, 2))) == 4
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def _on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_no_byte_of_a_prompt_is_left_when_its_time_is_over(
    store: RequestStore, tmp_path: Path
) -> None:
    old, new = Prompt(text=f"{CANARY} old " * 400), Prompt(text=f"{CANARY} new")
    store.put([(an_asked(n, at=1.0), old) for n in range(50)])
    store.put([(an_asked(99, at=5.0), new)])
    assert f"{CANARY} old".encode() in _on_disk(tmp_path)
    while store.tidy(before=2.0):
        pass
    assert f"{CANARY} old".encode() not in _on_disk(tmp_path)
    assert f"{CANARY} new".encode() in _on_disk(tmp_path)
    assert [asked.request_id for asked, _ in request_store.read(tmp_path)] == ["req_99"]


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        list(request_store.read(tmp_path))
