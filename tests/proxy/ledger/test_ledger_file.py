"""What a file may look like when a ledger is opened on it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from proxy.ledger.core import Ledger
from proxy.ledger.errors import (
    LedgerCorrupt,
    LedgerLocked,
    LedgerStartError,
    LedgerTooNew,
    LedgerUnwritable,
)
from proxy.ledger.folder import LedgerLock, OwnSocket
from proxy.ledger.schema import migrations
from proxy.ledger.store import SCHEMA_VERSION, open_store
from tests.proxy.ledger.making import Books


def alter(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"this is not a database, by far" * 50)


def another_database(path: Path) -> None:
    alter(path, "CREATE TABLE recipes (name)")


def newer(path: Path) -> None:
    open_store(path).close()
    alter(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def scribbled_over(path: Path) -> None:
    open_store(path).close()
    data = bytearray(path.read_bytes())
    data[4_096:] = random.Random(1).randbytes(len(data) - 4_096)
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    open_store(path).close()
    os.truncate(path, 3 * 4_096)


def a_damaged_table(path: Path) -> None:
    books = Books(path)
    for _ in range(50):
        books.budget(5)
    books.close()
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'budgets'").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4_096 + 8 : (page - 1) * 4_096 + 400] = b"\xff" * 392
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (no_database, LedgerCorrupt, "not a database"),
        (another_database, LedgerCorrupt, "not a ledger"),
        (newer, LedgerTooNew, "newer version"),
        (scribbled_over, LedgerCorrupt, "damaged"),
        (cut_short, LedgerCorrupt, "damaged"),
        (a_damaged_table, LedgerCorrupt, "damaged"),
        (a_folder, LedgerUnwritable, "directory"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], error: type[LedgerStartError], words: str
) -> None:
    path = tmp_path / "ledger.db"
    make(path)
    with pytest.raises(error, match=words) as caught:
        Ledger.open(path)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{path}: ")
    assert ";" in said  # what to do about it


def test_a_file_that_a_stranger_uses_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_store(path).close()
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("PRAGMA locking_mode = EXCLUSIVE")
    stranger.execute("BEGIN EXCLUSIVE")
    stranger.execute("CREATE TABLE theirs (name)")
    with pytest.raises(LedgerLocked, match="another program"):
        Ledger.open(path)
    stranger.close()


def test_a_refused_file_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for make in (no_database, another_database, newer):
        path.unlink(missing_ok=True)
        make(path)
        before = path.read_bytes()
        with pytest.raises(LedgerStartError):
            Ledger.open(path)
        assert path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == ["ledger.db"]


def test_the_version_in_the_file_counts_the_migrations(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_store(path).close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert db.execute("SELECT count(*) FROM _sqlite_migrations").fetchone() == (SCHEMA_VERSION,)
    db.close()
    with Database(memory=True) as empty:
        assert len(migrations.pending(empty)) == SCHEMA_VERSION


def test_a_creation_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    alter(
        path,
        "CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set, name, applied_at)",
    )
    open_store(path).close()
    Books(path).close()


def test_the_files_are_for_their_user_alone(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    books.close()


# --- the folder --------------------------------------------------------------------------------


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that other users may look into, unlike pytest's."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def as_a_common_user(act: Callable[[], None]) -> str:
    """What `act` says when it fails, done without root's rights."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if os.getuid() == 0:
                os.setuid(65_534)
            act()
        except LedgerStartError as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(theirs, said.encode())
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(open_to_all: Path) -> None:
    data_dir = open_to_all / "data"
    data_dir.mkdir(mode=0o555)
    said = as_a_common_user(lambda: LedgerLock.acquire(data_dir).close())
    assert said == (
        f"LedgerUnwritable: {data_dir}/ledger.lock: Permission denied; "
        "make the folder writable, or choose another data folder"
    )


def test_a_file_that_cannot_be_written_is_refused_in_one_line(open_to_all: Path) -> None:
    path = open_to_all / "ledger.db"
    open_store(path).close()
    path.chmod(0o444)
    said = as_a_common_user(lambda: Ledger.open(path).close())
    assert said.startswith(f"LedgerUnwritable: {path}: Permission denied; ")


def test_a_data_folder_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.touch()
    with pytest.raises(LedgerUnwritable, match="writable"):
        LedgerLock.acquire(data_dir)


def test_a_lock_is_free_again_once_it_is_closed(tmp_path: Path) -> None:
    first = LedgerLock.acquire(tmp_path / "new" / "folder")
    with pytest.raises(LedgerLocked, match=f"pid {os.getpid()}"):
        LedgerLock.acquire(tmp_path / "new" / "folder")
    first.close()
    LedgerLock.acquire(tmp_path / "new" / "folder").close()


def test_a_socket_that_fits_nowhere_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(LedgerUnwritable, match="TMPDIR"):
        OwnSocket.listen(deep)
