from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ledger.errors import LedgerLocked, LedgerRefusal, LedgerUnavailable
from proxy.ledger.folder import LedgerLock, ledger_file
from proxy.ledger.protocol import (
    Budgets,
    CreateBudget,
    CreateKey,
    KeyChanged,
    KeySettings,
    UpdateKey,
)
from proxy.ledger.sync import SyncLedger, open_ledger
from tests.proxy.ledger.making import a_budget
from tests.proxy.ledger.process import LedgerProcess, Line


@pytest.fixture(params=["directly", "through the daemon"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncLedger]:
    if request.param == "directly":
        with open_ledger(tmp_path / "data") as opened:
            yield opened
    else:
        with LedgerProcess(tmp_path / "data") as process, open_ledger(process.data_dir) as opened:
            yield opened


def test_keys_are_made_listed_and_revoked(ledger: SyncLedger) -> None:
    made = ledger.call(CreateKey(0, b"digest", "sk-…", KeySettings(name="ci")))
    assert isinstance(made, KeyChanged)
    assert ledger.keys() == (made.key,)
    ledger.call(UpdateKey(0, made.key.key_id, revoked=True))
    assert ledger.keys()[0].revoked_at is not None


def test_budgets_are_made_and_listed(ledger: SyncLedger) -> None:
    made = ledger.call(CreateBudget(0, "global", a_budget(10**9, "month")))
    assert isinstance(made, Budgets)
    assert ledger.budgets() == made.budgets


def test_a_refused_op_says_why(ledger: SyncLedger) -> None:
    with pytest.raises(LedgerRefusal, match="no key 'k_x'"):
        ledger.call(UpdateKey(0, "k_x"))


def test_what_was_done_directly_is_there_for_the_daemon(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as direct:
        made = direct.call(CreateKey(0, b"digest", "sk-…", KeySettings(name="ci")))
        assert isinstance(made, KeyChanged)
    with LedgerProcess(tmp_path), open_ledger(tmp_path) as remote:
        assert remote.keys() == (made.key,)


def test_an_owner_that_does_not_answer_is_named(tmp_path: Path) -> None:
    lock = LedgerLock.acquire(tmp_path)
    with pytest.raises(LedgerLocked, match="another process"):
        open_ledger(tmp_path, wait_s=0.1)
    lock.close()
    open_ledger(tmp_path).close()


def test_an_owner_that_is_just_starting_is_waited_for(tmp_path: Path) -> None:
    process = LedgerProcess(tmp_path)
    process.launch()
    with process, open_ledger(tmp_path, wait_s=10) as opened:
        assert opened.budgets() == ()


def test_a_stuck_daemon_is_unavailable(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path) as process:
        opened = open_ledger(tmp_path, timeout_s=0.1)
        with process.frozen(), pytest.raises(LedgerUnavailable, match="does not answer"):
            opened.budgets()
        assert opened.budgets() == ()
        process.kill()
        with pytest.raises(LedgerUnavailable):
            opened.keys()


def test_a_copy_of_a_folder_that_is_being_served_is_a_ledger_of_its_own(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path / "served") as process:
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("ledger.address", "ledger.lock"):
            (copy / name).write_bytes((process.data_dir / name).read_bytes())
        with open_ledger(copy) as opened:
            opened.call(CreateBudget(0, "global", a_budget(5, "day")))
        with Line(process.data_dir) as line:
            line.hello()
        with open_ledger(process.data_dir) as served:
            assert served.budgets() == ()


def test_a_file_that_is_no_ledger_gives_the_lock_back(tmp_path: Path) -> None:
    ledger_file(tmp_path).write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(Exception, match="not a database"):
            open_ledger(tmp_path)
