"""What is kept of responses, whose it is, and when it goes."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.response_store import FILE, Kept, ResponseStore, TooLong

run = asyncio.run
DAY_S = 86_400


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def time(self) -> float:
        return self.now


def kept(name: str, previous: str | None = None, owner: str = "k1", size: int = 10) -> Kept:
    return Kept(
        id=name,
        owner=owner,
        previous=previous,
        input=b'[{"role":"user","content":"%b"}]' % name.encode(),
        response=b"x" * size,
        item_ids=[f"msg_{name}"],
    )


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def store(tmp_path: Path, clock: Hand) -> Iterator[ResponseStore]:
    made = open_store(tmp_path, clock)
    yield made
    made.close()


def open_store(folder: Path, clock: Hand, total_bytes: int = 10_000) -> ResponseStore:
    return ResponseStore(
        folder,
        days=30,
        total_bytes=total_bytes,
        largest_bytes=5_000,
        chain_bytes=8_000,
        clock=clock,
    )


def test_what_is_put_is_there(store: ResponseStore, tmp_path: Path) -> None:
    assert run(store.put(kept("a")))
    found = run(store.get("a", "k1"))
    assert found is not None
    assert (found.input, found.response) == (kept("a").input, kept("a").response)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_another_key_finds_nothing(store: ResponseStore) -> None:
    run(store.put(kept("a")))
    for owner in ("", "k2"):
        assert run(store.get("a", owner)) is None
        assert run(store.chain("a", owner)) is None
        assert run(store.find_item("msg_a", owner)) is None
        assert not run(store.delete("a", owner))
    assert run(store.get("a", "k1")) is not None


def test_a_chain_is_told_from_its_beginning(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b"), ("d", "b")):
        run(store.put(kept(name, previous)))
    chain = run(store.chain("d", "k1"))
    assert chain is not None
    assert [one.id for one in chain] == ["a", "b", "d"]


def test_a_chain_with_a_gap_is_none(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        run(store.put(kept(name, previous)))
    assert run(store.delete("b", "k1"))
    assert run(store.chain("c", "k1")) is None
    assert run(store.chain("a", "k1")) is not None


def test_a_chain_does_not_run_into_another_key(store: ResponseStore) -> None:
    run(store.put(kept("a", owner="k2")))
    run(store.put(kept("b", "a")))
    assert run(store.chain("b", "k1")) is None


def test_a_chain_has_a_bound(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        run(store.put(kept(name, previous, size=3_000)))
    assert run(store.chain("b", "k1")) is not None
    with pytest.raises(TooLong):
        run(store.chain("c", "k1"))


def test_items_are_found_and_go_with_their_response(store: ResponseStore) -> None:
    run(store.put(kept("a")))
    found = run(store.find_item("msg_a", "k1"))
    assert found is not None and found.id == "a"
    run(store.delete("a", "k1"))
    assert run(store.find_item("msg_a", "k1")) is None


def test_what_is_too_large_is_not_kept(store: ResponseStore) -> None:
    assert not run(store.put(kept("a", size=5_001)))
    assert run(store.get("a", "k1")) is None


def test_what_is_old_goes_unless_it_is_used(store: ResponseStore, clock: Hand) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", None)):
        run(store.put(kept(name, previous)))
    clock.now += 20 * DAY_S
    run(store.chain("b", "k1"))
    clock.now += 20 * DAY_S
    assert run(store.tidy()) == 1
    assert run(store.get("c", "k1")) is None
    assert run(store.chain("b", "k1")) is not None


def test_what_is_too_much_goes_oldest_first(tmp_path: Path, clock: Hand) -> None:
    store = open_store(tmp_path, clock, total_bytes=3_000)
    for name in "abcde":
        clock.now += 1
        run(store.put(kept(name, size=900)))
    assert run(store.tidy()) == 2
    left = [name for name in "abcde" if run(store.get(name, "k1"))]
    assert left == ["c", "d", "e"]
    store.close()


def test_many_go_in_batches(store: ResponseStore, clock: Hand) -> None:
    for number in range(450):
        run(store.put(kept(f"r{number}", size=1)))
    clock.now += 31 * DAY_S
    assert run(store.tidy()) == 450
    assert run(store.tidy()) == 0


def test_workers_write_one_file(tmp_path: Path, clock: Hand) -> None:
    stores = [open_store(tmp_path, clock) for _ in range(3)]

    async def put_all() -> None:
        await asyncio.gather(
            *(
                store.put(kept(f"{n}-{m}", size=1))
                for n, store in enumerate(stores)
                for m in range(20)
            )
        )

    run(put_all())
    for n in range(3):
        assert run(stores[-1 - n].get(f"{n}-19", "k1")) is not None
    for store in stores:
        store.close()


def test_a_damaged_file_is_an_error_and_no_crash(tmp_path: Path, clock: Hand) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    store = open_store(tmp_path, clock)
    with pytest.raises(sqlite3.Error):
        run(store.put(kept("a")))
    store.close()


def test_a_full_disk_can_be_read_and_is_written_once_there_is_room(
    store: ResponseStore, tmp_path: Path
) -> None:
    run(store.put(kept("a")))
    _, hardest = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = max(file.stat().st_size for file in tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, hardest))
    try:
        with pytest.raises(sqlite3.OperationalError):
            run(store.put(kept("b", "a", size=4_900)))
        chain = run(store.chain("a", "k1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hardest, hardest))
    assert chain is not None and [each.id for each in chain] == ["a"]
    assert run(store.put(kept("c", "a")))
    assert run(store.get("b", "k1")) is None and run(store.get("c", "k1")) is not None
