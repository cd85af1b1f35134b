from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from proxy.ledger.audit import audit
from proxy.ledger.folder import address_file, lock_file, socket_path
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    MAX_FRAME_BYTES,
    AlertRaised,
    Budgets,
    CreateBudget,
    CreateGroup,
    CreateKey,
    Extend,
    Failed,
    GroupChanged,
    GroupSettings,
    HardScope,
    Hello,
    KeyChanged,
    KeySettings,
    ListBudgets,
    Op,
    Refused,
    Reserve,
    Reserved,
    RotateKey,
    Settle,
    Settled,
    UpdateBudget,
    Welcome,
)
from proxy.ledger.reports import attempts
from tests.proxy.ledger.making import a_budget, a_settlement, an_attempt
from tests.proxy.ledger.process import ROOT, LedgerProcess, Line
from tests.waiting import until


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerProcess]:
    with LedgerProcess(tmp_path / "data") as process:
        yield process
        if process.file.exists():
            assert audit(process.file) == []


def reserve(session: int, counter: int, hold: int, *, floor: int = 0) -> Reserve:
    number = session << ATTEMPT_BITS | counter
    deadline = int(time.time()) + 600
    return Reserve(counter, an_attempt(number, hold, floor=floor, deadline=deadline))


def settle(session: int, counter: int, cost: int) -> Settle:
    return Settle(100 + counter, a_settlement(session << ATTEMPT_BITS | counter, cost))


def outcomes(ledger: LedgerProcess) -> list[tuple[str, int, int]]:
    return [(a.outcome, a.cost_nanousd, a.held_nanousd) for a in attempts(ledger.file, 100)]


# --- starting ----------------------------------------------------------------------------------


def test_a_second_ledger_is_refused_in_one_line_that_names_the_first(
    ledger: LedgerProcess,
) -> None:
    second = LedgerProcess(ledger.data_dir)
    second.launch()
    said = second.failure()
    assert said.count("\n") == 1
    assert said.startswith(f"LedgerLocked: {lock_file(ledger.data_dir)}: ")
    assert f"(pid {ledger.process.pid})" in said
    with Line(ledger.data_dir) as line:
        assert line.hello()


def test_a_start_waits_for_a_command_that_owns_the_ledger_for_a_moment(
    ledger: LedgerProcess,
) -> None:
    patient = LedgerProcess(ledger.data_dir, lock_s=10.0)
    patient.launch()
    assert ledger.stop() == 0
    with patient, Line(ledger.data_dir) as line:
        assert line.hello()


def test_the_socket_is_for_its_user_alone(ledger: LedgerProcess) -> None:
    for path in (Path(socket_path(ledger.data_dir)), ledger.file, ledger.data_dir):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize(
    "name", ["data", "a name that is too long for the path of a socket" + "x" * 100]
)
def test_the_socket_is_found_however_long_its_folder_is(tmp_path: Path, name: str) -> None:
    with LedgerProcess(tmp_path / name) as ledger:
        path = Path(socket_path(ledger.data_dir))
        with Line(ledger.data_dir) as line:
            assert line.hello()
        assert ledger.stop() == 0
    assert not path.exists()
    assert not address_file(tmp_path / name).exists()
    assert path.parent == tmp_path / name or not path.parent.exists()


def test_a_killed_ledger_does_not_keep_the_next_one_from_starting(ledger: LedgerProcess) -> None:
    ledger.kill()
    ledger.start()
    with Line(ledger.data_dir) as line:
        assert line.hello()


def test_the_hot_path_does_not_import_sqlite_utils() -> None:
    modules = "proxy.ledger.core, proxy.ledger.daemon, proxy.ledger.client, proxy.ledger.sync"
    code = f"import sys, {modules}\nassert 'sqlite_utils' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


# --- speaking ----------------------------------------------------------------------------------


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


HELLO = framed(msgspec.msgpack.encode([Hello("worker", "w")]))
MALFORMED = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "too long": (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
    "not msgpack": framed(b"\xc1\xc1"),
    "trailing bytes": framed(msgspec.msgpack.encode([Hello("worker", "w")]) + b"\x00"),
    "not a list": framed(msgspec.msgpack.encode(Hello("worker", "w"))),
    "unknown op": framed(msgspec.msgpack.encode([[77, 1]])),
    "not utf-8": framed(b"\x91\x93\x00\xa6worker\xa2\xff\xfe"),
    "no greeting": framed(msgspec.msgpack.encode([ListBudgets(1)])),
    "two greetings": HELLO + HELLO,
    "negative hold": HELLO + framed(msgspec.msgpack.encode([Reserve(1, an_attempt(1, -1))])),
    "endless cost": HELLO + framed(msgspec.msgpack.encode([Settle(1, a_settlement(1, 2**63))])),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_frame_closes_its_own_connection_and_no_other(
    ledger: LedgerProcess, what: str
) -> None:
    with Line(ledger.data_dir) as good, Line(ledger.data_dir) as bad:
        session = good.hello()
        bad.send_bytes(MALFORMED[what])
        while bad.receive() is not None:
            pass
        assert isinstance(good.ask(reserve(session, 1, 5)), Reserved)


def test_frames_may_arrive_in_any_pieces(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        data = framed(msgspec.msgpack.encode([reserve(session, 1, 5), reserve(session, 2, 5)]))
        for byte in data:
            line.send_bytes(bytes([byte]))
        assert {line.receive(), line.receive()} == {Reserved(1, None), Reserved(2, None)}


def test_a_settlement_alone_is_committed_without_anybody_else(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        assert isinstance(line.ask(reserve(session, 1, 5)), Reserved)
        assert line.ask(settle(session, 1, 3)) == Settled(101)
        assert outcomes(ledger) == [("ok", 3, 0)]


def test_a_changed_key_is_pushed_to_everyone_who_is_connected(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as one, Line(ledger.data_dir) as two, Line(ledger.data_dir) as late:
        one.hello()
        two.hello()
        made = one.ask(CreateKey(5, b"digest", "sk-…", KeySettings(name="ci")))
        assert isinstance(made, KeyChanged)
        assert made.seq == 5
        assert two.receive() == KeyChanged(made.key)
        welcome = late.ask(Hello("worker", "late"))
        assert isinstance(welcome, Welcome)
        assert welcome.keys == (made.key,)


def test_a_client_that_does_not_read_does_not_hold_up_the_others(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as deaf, Line(ledger.data_dir) as good:
        deaf.hello()
        session = good.hello()
        deaf.send(*(ListBudgets(n) for n in range(20_000)))
        for counter in range(1, 20):
            assert isinstance(good.ask(reserve(session, counter, 5)), Reserved)


# --- orphans and sessions ----------------------------------------------------------------------


def test_what_a_dead_worker_left_open_is_settled_at_once(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        assert isinstance(line.ask(reserve(session, 1, 50, floor=20)), Reserved)
    until(lambda: outcomes(ledger) == [("orphan", 20, 30)])


def test_an_orphans_remainder_is_released_at_its_deadline(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path, tick_s=0.05) as ledger:
        with Line(ledger.data_dir) as line:
            session = line.hello()
            attempt = an_attempt(session << 32 | 1, 50, floor=20, deadline=int(time.time()) + 1)
            assert isinstance(line.ask(Reserve(1, attempt)), Reserved)
        until(lambda: outcomes(ledger) == [("orphan", 20, 30)])
        until(lambda: outcomes(ledger) == [("orphan", 20, 0)])


def test_a_worker_that_resumes_after_a_crash_of_the_ledger_keeps_its_holds(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path, resume_s=0.3, tick_s=0.05) as ledger:
        with Line(ledger.data_dir) as line, Line(ledger.data_dir) as lost:
            session, lost_session = line.hello(), lost.hello()
            assert isinstance(line.ask(reserve(session, 1, 50, floor=20)), Reserved)
            assert isinstance(lost.ask(reserve(lost_session, 1, 70, floor=30)), Reserved)
            ledger.kill()
        ledger.start()
        with Line(ledger.data_dir) as line:
            assert line.hello(session) == session
            until(lambda: ("orphan", 30, 40) in outcomes(ledger))
            assert line.ask(settle(session, 1, 44)) == Settled(101)
            assert ("ok", 44, 0) in outcomes(ledger)


def test_a_worker_that_comes_back_makes_its_older_connection_void(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as older, Line(ledger.data_dir) as newer:
        session = older.hello()
        assert isinstance(older.ask(reserve(session, 1, 50)), Reserved)
        assert newer.hello(session) == session
        assert older.receive() is None
        assert newer.ask(reserve(session, 1, 50)) == Reserved(1, None)
        assert outcomes(ledger) == [("open", 0, 50)]


def test_a_session_that_was_never_given_out_is_not_resumed(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        assert line.hello(4_711) != 4_711


# --- money that is only held -------------------------------------------------------------------


def make_budget(line: Line, limit: int) -> int:
    made = line.ask(CreateBudget(1, "global", a_budget(limit, "lifetime")))
    assert isinstance(made, Budgets)
    return made.budgets[0].budget_id


def test_a_reserve_waits_for_held_money_and_is_admitted_when_it_frees(
    ledger: LedgerProcess,
) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        line.send(reserve(session, 2, 60))
        assert isinstance(line.ask(ListBudgets(7)), Budgets)  # the refusal did not come first
        line.send(settle(session, 1, 30))
        assert {line.receive(), line.receive()} == {Settled(101), Reserved(2, 10)}


def test_waiting_reserves_are_admitted_first_come_first_served(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 100)), Reserved)
        line.send(reserve(session, 2, 60))
        line.send(reserve(session, 3, 60))
        line.send(reserve(session, 4, 40))
        line.send(settle(session, 1, 0))
        assert line.receive() == Settled(101)
        assert [line.receive(), line.receive()] == [Reserved(2, 40), Reserved(4, 0)]
        line.send(settle(session, 2, 0))
        assert {line.receive(), line.receive()} == {Settled(102), Reserved(3, 0)}


def test_a_raised_limit_admits_who_waits(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        budget = make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 100)), Reserved)
        line.send(reserve(session, 2, 60))
        line.send(UpdateBudget(9, budget, {"limit_nanousd": 160}))
        replies = [line.receive(), line.receive()]
        assert isinstance(replies[0], Budgets)
        assert replies[1] == Reserved(2, 0)


def test_waiting_ends_with_a_refusal_that_says_held(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path, park_s=0.2) as ledger, Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        before = time.monotonic()
        refused = line.ask(reserve(session, 2, 60))
        assert time.monotonic() - before >= 0.2
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.held) == ("budget", True)


def test_nobody_waits_for_money_that_is_spent(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        assert line.ask(settle(session, 1, 80)) == Settled(101)
        before = time.monotonic()
        refused = line.ask(reserve(session, 2, 60))
        assert time.monotonic() - before < 1.0
        assert isinstance(refused, Refused)
        assert not refused.held


def test_a_waiting_reserve_goes_with_its_connection(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        with Line(ledger.data_dir) as other:
            other_session = other.hello()
            other.send(reserve(other_session, 1, 60))
            assert isinstance(other.ask(ListBudgets(7)), Budgets)
        assert line.ask(settle(session, 1, 30)) == Settled(101)
        assert line.ask(reserve(session, 2, 70)) == Reserved(2, 0)
        assert len(outcomes(ledger)) == 2


def test_the_settlement_of_a_waiting_fallback_is_committed_at_once(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 50)), Reserved)
        assert isinstance(line.ask(reserve(session, 2, 50)), Reserved)
        fallback = reserve(session, 3, 80)
        line.send(Reserve(3, fallback.attempt, settle(session, 1, 10).settlement))
        assert isinstance(line.ask(ListBudgets(7)), Budgets)
        assert ("ok", 10, 0) in outcomes(ledger)
        line.send(settle(session, 2, 10))
        assert {line.receive(), line.receive()} == {Settled(102), Reserved(3, 0)}


# --- disk trouble ------------------------------------------------------------------------------


def test_a_stranger_that_locks_the_file_costs_availability_and_nothing_else(
    ledger: LedgerProcess,
) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 40)), Reserved)
        stranger = sqlite3.connect(ledger.file, isolation_level=None)
        stranger.execute("BEGIN EXCLUSIVE")
        for op in (reserve(session, 2, 10), settle(session, 1, 5)):
            before = time.monotonic()
            failed = line.ask(op)
            assert time.monotonic() - before < 1.0
            assert isinstance(failed, Failed)
            assert failed.code == "unavailable"
        with Line(ledger.data_dir) as late:
            assert late.ask(Hello("worker", "late")) is None  # try again later
        stranger.execute("COMMIT")
        stranger.close()
        assert line.ask(reserve(session, 2, 10)) == Reserved(2, 50)
        assert line.ask(settle(session, 1, 5)) == Settled(101)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_full_disk_costs_availability_and_nothing_else(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        budget = make_budget(line, 10_000)
        assert isinstance(line.ask(reserve(session, 1, 40)), Reserved)
        pid, unlimited = ledger.process.pid, resource.RLIM_INFINITY
        full = ledger.file.with_name("ledger.db-wal").stat().st_size + 100
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, unlimited))
        for op in (reserve(session, 2, 10), settle(session, 1, 5), reserve(session, 3, 10)):
            failed = line.ask(op)
            assert isinstance(failed, Failed)
            assert failed.code == "unavailable"
        assert audit(ledger.file) == []
        assert outcomes(ledger) == [("open", 0, 40)]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert line.ask(settle(session, 1, 5)) == Settled(101)
        assert line.ask(reserve(session, 2, 10)) == Reserved(2, 10_000 - 5 - 10)
        assert line.ask(settle(session, 2, 10)) == Settled(102)
        ledger.kill()
        ledger.start()
    with Line(ledger.data_dir) as line:
        line.hello()
        listed = line.ask(ListBudgets(1))
        assert isinstance(listed, Budgets)
        assert [(s.budget_id, s.spent_nanousd) for s in listed.budgets] == [(budget, 15)]


def test_orphans_that_a_failing_disk_kept_open_are_settled_later(tmp_path: Path) -> None:
    with LedgerProcess(tmp_path, tick_s=0.05, resume_s=0.0) as ledger:
        with Line(ledger.data_dir) as line:
            session = line.hello()
            assert isinstance(line.ask(reserve(session, 1, 40, floor=4)), Reserved)
            stranger = sqlite3.connect(ledger.file, isolation_level=None)
            stranger.execute("BEGIN EXCLUSIVE")
        with Line(ledger.data_dir) as line:
            assert line.ask(Hello("worker", "late")) is None  # so the close failed as well
        time.sleep(0.6)  # and fails again, at every tick
        assert outcomes(ledger) == [("open", 0, 40)]
        stranger.execute("COMMIT")
        stranger.close()
        until(lambda: outcomes(ledger) == [("orphan", 4, 36)])


# --- stopping ----------------------------------------------------------------------------------


def test_a_stop_commits_and_answers_what_was_said_before_it(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        make_budget(line, 100)
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        line.send(reserve(session, 2, 60))  # waits for the first
        assert isinstance(line.ask(ListBudgets(7)), Budgets)
        with ledger.frozen():
            line.send(settle(session, 1, 70))
            ledger.send_signal(signal.SIGTERM)
        replies = [line.receive(), line.receive()]
        assert Settled(101) in replies
        assert any(isinstance(reply, Refused) for reply in replies)
        assert line.receive() is None
        ledger.process.wait(10)
    assert not ledger.file.with_name("ledger.db-wal").exists()
    assert outcomes(ledger) == [("ok", 70, 0)]


def test_a_stop_leaves_open_holds_to_be_resumed(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        assert isinstance(line.ask(reserve(session, 1, 80)), Reserved)
        assert ledger.stop() == 0
    assert outcomes(ledger) == [("open", 0, 80)]


def test_without_its_supervisor_it_ends_with_the_last_worker(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with LedgerProcess(tmp_path, lifeline=ours) as ledger:
        os.close(ours)
        with Line(ledger.data_dir) as line:
            session = line.hello()
            ledger.send_signal(signal.SIGINT)  # a terminal sends it to everyone
            os.close(theirs)
            assert isinstance(line.ask(reserve(session, 1, 80, floor=8)), Reserved)
        assert ledger.process.wait(10) == 0
        assert outcomes(ledger) == [("orphan", 8, 72)]


def test_without_its_supervisor_it_does_not_wait_for_a_worker_for_ever(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with LedgerProcess(tmp_path, lifeline=ours, last_workers_s=0.1) as ledger:
        os.close(ours)
        with Line(ledger.data_dir) as line:
            line.hello()
            os.close(theirs)
            assert ledger.process.wait(10) == 0


def test_many_ops_in_one_frame_are_answered_in_one_transaction(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        ops: list[Op] = [reserve(session, counter, 5) for counter in range(1, 501)]
        line.send(*ops)
        assert [line.receive() for _ in ops] == [Reserved(n, None) for n in range(1, 501)]


# --- what streams ask for, and what everybody is told ------------------------------------------


def test_an_extension_never_waits(ledger: LedgerProcess) -> None:
    with Line(ledger.data_dir) as line:
        session = line.hello()
        line.ask(CreateBudget(1, "global", a_budget(300)))
        number = session << ATTEMPT_BITS | 1
        deadline = int(time.time()) + 600
        metered = an_attempt(number, 1_000, least=100, deadline=deadline)
        assert line.ask(Reserve(1, metered)) == Reserved(1, 200, 100)
        assert line.ask(reserve(session, 2, 150)) == Reserved(2, 50)
        refused = line.ask(Extend(3, number, 200, 200))
        assert isinstance(refused, Refused)
        assert (refused.seq, refused.held, refused.needed_nanousd) == (3, True, 100)
        assert line.ask(Extend(4, number, 150, 150)) == Reserved(4, 0, 150)


def test_groups_rotations_hard_scopes_and_alerts_are_pushed_to_everyone(
    ledger: LedgerProcess,
) -> None:
    with Line(ledger.data_dir) as asker, Line(ledger.data_dir) as other:
        session = asker.hello()
        other.ask(Hello("client", "c"))
        made = asker.ask(CreateGroup(1, "team", GroupSettings(name="ml"), (a_budget(100),), "t_1"))
        assert isinstance(made, GroupChanged)
        told = [other.receive_news(), other.receive_news()]
        assert told == [GroupChanged(made.group, 0), HardScope("team:t_1", True)]
        assert asker.receive_news() == HardScope("team:t_1", True)

        key = asker.ask(CreateKey(2, b"one", "…", KeySettings(name="k", team_id="t_1")))
        assert isinstance(key, KeyChanged)
        assert other.receive_news() == KeyChanged(key.key, 0)
        rotated = asker.ask(RotateKey(3, key.key.key_id, b"two", "…", 60))
        assert isinstance(rotated, KeyChanged)
        assert (rotated.key.digest, rotated.key.previous_digest) == (b"two", b"one")
        assert other.receive_news() == KeyChanged(rotated.key, 0)

        attempt = an_attempt(session << ATTEMPT_BITS | 1, 90, scopes=("team:t_1",))
        asker.ask(Reserve(4, attempt))
        asker.ask(Settle(5, a_settlement(attempt.attempt, 90)))
        raised = other.receive_news()
        assert isinstance(raised, AlertRaised)
        assert (raised.alert.kind, raised.alert.percent) == ("budget", 80)
        with Line(ledger.data_dir) as late:
            welcome = late.ask(Hello("client", "late"))
            assert isinstance(welcome, Welcome)
            assert welcome.keys == (rotated.key,)
            assert welcome.groups == (made.group,)
            assert welcome.hard_scopes == ("team:t_1",)
            assert welcome.alerts == (raised.alert,)
