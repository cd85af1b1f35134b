"""When a configuration is read again by itself, and who asks the supervisor for it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from proxy.ledger.folder import OwnSocket, socket_path
from proxy.reloading import SOCKET, FileWatch, Outcome, Wanted, answer_next, ask, ask_soon

OUTCOME = Outcome(revision=3, source="router.yaml", needs_restart=("server.port",))


def test_a_file_is_news_once_nobody_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("a: 1")
    watch = FileWatch(lambda: path)
    assert not watch.look()
    path.write_text("a: 12")
    assert not watch.look()  # it may be half of what is to come
    path.write_text("a: 123")
    assert not watch.look()
    assert watch.look()
    watch.note()
    assert not watch.look()


def test_another_file_in_its_place_is_news_and_none_is_not(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("a: 1")
    before = path.stat()
    watch = FileWatch(lambda: path)
    path.unlink()
    assert not watch.look()
    assert not watch.look()  # there is nothing to read
    (tmp_path / "other").write_text("b: 1")
    (tmp_path / "other").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as long and as old
    assert [watch.look(), watch.look()] == [False, True]


def test_a_link_that_leads_elsewhere_is_news(tmp_path: Path) -> None:
    """As Kubernetes changes the files of a ConfigMap."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "router.yaml"
    path.symlink_to("one")
    watch = FileWatch(lambda: path)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(path)
    assert [watch.look(), watch.look()] == [False, True]


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(is_dry=True)])
def test_the_supervisor_is_asked_and_answers(tmp_path: Path, wanted: Wanted) -> None:
    own = OwnSocket.listen(tmp_path, SOCKET)
    own.socket.setblocking(True)
    heard: list[Wanted] = []

    def carry_out(asked: Wanted) -> Outcome:
        heard.append(asked)
        return OUTCOME

    def answer() -> None:
        for _ in range(2):
            answer_next(own.socket, carry_out)

    answering = threading.Thread(target=answer)
    answering.start()
    assert ask(tmp_path, wanted) == OUTCOME
    assert asyncio.run(ask_soon(tmp_path, wanted)) == OUTCOME
    answering.join()
    assert heard == [wanted, wanted]
    own.close()
    with pytest.raises(FileNotFoundError):
        ask(tmp_path, wanted)
    with pytest.raises(FileNotFoundError):
        asyncio.run(ask_soon(tmp_path, wanted))


def test_who_asks_nonsense_is_not_answered_and_does_no_harm(tmp_path: Path) -> None:
    own = OwnSocket.listen(tmp_path, SOCKET)
    own.socket.setblocking(True)
    for said in (b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(socket_path(tmp_path, SOCKET))
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            answer_next(own.socket, lambda wanted: pytest.fail("nobody asked for anything"))
            assert line.recv(10) == b""
    own.close()
