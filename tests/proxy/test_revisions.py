"""The line between the supervisor and a child."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy import revisions
from proxy.errors import StartError
from proxy.revisions import Line, Revision, follow, tell_all

LARGE = "x" * (4 << 20)
"""More than a socket holds, so that it arrives in many parts."""


class Follower:
    """A child, in a thread of its own."""

    def __init__(self, end: socket.socket) -> None:
        self.applied: list[Revision] = []
        self.problem: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._thread = threading.Thread(target=lambda: asyncio.run(follow(end, self._apply)))
        self._thread.start()

    async def _apply(self, revision: Revision) -> None:
        await asyncio.to_thread(self.gate.wait, 30)
        if self.problem is not None:
            raise self.problem
        self.applied.append(revision)

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextmanager
def following() -> Iterator[tuple[Line, Follower]]:
    ours, theirs = socket.socketpair()
    line, follower = Line(ours), Follower(theirs)
    try:
        yield line, follower
    finally:
        line.close()
        follower.join()


def revision(number: int, text: str = "models: {}") -> Revision:
    return Revision(number=number, name="router.yaml", text=text)


def test_every_child_is_told_and_waited_for() -> None:
    with following() as (one, first), following() as (two, second):
        lines = {"worker 0": one, "worker 1": two}
        assert tell_all(lines, revision(1)) == []
        assert tell_all(lines, revision(2, LARGE)) == []
        told = [revision(1), revision(2, LARGE)]
        assert first.applied == second.applied == told


def test_what_a_child_cannot_do_is_said_and_it_hears_of_the_next() -> None:
    with following() as (line, follower):
        follower.problem = StartError("local/a: there is no file")
        assert tell_all({"worker 0": line}, revision(1)) == [
            "the worker 0: local/a: there is no file"
        ]
        follower.problem = ValueError("a secret")
        (said,) = tell_all({"worker 0": line}, revision(2))
        assert "secret" not in said
        follower.problem = None
        assert tell_all({"worker 0": line}, revision(3)) == []
        assert follower.applied == [revision(3)]


def test_an_answer_that_comes_too_late_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with following() as (line, follower):
        follower.gate.clear()
        monkeypatch.setattr(revisions, "ANSWER_S", 0.05)
        (said,) = tell_all({"worker 0": line}, revision(1))
        assert "it may yet" in said
        follower.problem = StartError("this is about the second")
        monkeypatch.setattr(revisions, "ANSWER_S", 30.0)
        follower.gate.set()
        (said,) = tell_all({"worker 0": line}, revision(2))
        assert said.endswith("this is about the second")


def test_a_child_that_does_not_listen_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "ANSWER_S", 0.2)
    ours, theirs = socket.socketpair()
    with theirs:
        line = Line(ours)
        (said,) = tell_all({"worker 0": line}, revision(1, LARGE))
        assert "does not listen" in said
        line.close()


def test_a_child_that_has_ended_is_no_problem() -> None:
    ours, theirs = socket.socketpair()
    line = Line(ours)
    theirs.close()
    with following() as (other, follower):
        assert tell_all({"worker 0": line, "worker 1": other}, revision(1)) == []
        assert follower.applied == [revision(1)]
    line.close()


def test_a_child_that_ends_instead_of_answering_is_no_problem() -> None:
    ours, theirs = socket.socketpair()
    line = Line(ours)

    def end() -> None:
        theirs.recv(1 << 16)
        theirs.close()

    ending = threading.Thread(target=end)
    ending.start()
    began_at = time.monotonic()
    assert tell_all({"worker 0": line}, revision(1)) == []
    assert time.monotonic() - began_at < revisions.ANSWER_S
    ending.join()
    line.close()
