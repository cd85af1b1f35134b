"""Connecting to hosts with several addresses, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from adapters.http.dialing import Address, dial, first_connected, reason_of, resolve
from tests.adapters.servers import closed_port, deaf_listener

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run(scenario: Coroutine[object, object, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scenario, 20))
        gc.collect()  # an open socket is reported here

    return run


def local(port: int) -> Address:
    return socket.AF_INET, ("127.0.0.1", port)


def test_a_silent_address_does_not_hold_up_the_next(run: Run) -> None:
    async def scenario() -> None:
        with deaf_listener() as deaf, socket.create_server(("127.0.0.1", 0)) as listener:
            addresses = [local(deaf), local(listener.getsockname()[1])]
            with await first_connected(addresses, 0.05) as connection:
                assert connection.getpeername() == listener.getsockname()

    run(scenario())


def test_a_refused_address_hands_over_at_once(run: Run) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            addresses = [local(closed_port()), local(listener.getsockname()[1])]
            with await asyncio.wait_for(first_connected(addresses, 3600), 5) as connection:
                assert connection.getpeername() == listener.getsockname()

    run(scenario())


def test_the_first_error_is_raised_when_all_fail(run: Run) -> None:
    async def scenario() -> None:
        unreachable = (socket.AF_INET6, ("::1", closed_port(), 0, 0))
        with pytest.raises(ConnectionRefusedError):
            await first_connected([local(closed_port()), unreachable], 0.05)

    run(scenario())


def test_losers_are_closed(run: Run) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            addresses = [local(listener.getsockname()[1])] * 3
            with await first_connected(addresses, 0):
                pass
            await asyncio.sleep(0)

    run(scenario())


def test_cancelling_leaves_no_socket_open(run: Run) -> None:
    async def scenario() -> None:
        with deaf_listener() as port:
            task = asyncio.create_task(first_connected([local(port), local(port)], 0.01))
            await asyncio.sleep(0.05)  # into the middle of connecting, which never ends
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(scenario())


def test_a_name_is_resolved_and_reached(run: Run) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert local(port) in await resolve("localhost", port)
            with await dial("localhost", port) as connection:
                assert connection.getpeername() == listener.getsockname()
                assert not connection.getblocking()

    run(scenario())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name not resolved: Name or service"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "TLS failed: "),
        (ConnectionResetError(), "ConnectionResetError"),
        (OSError("something else"), "something else"),
    ],
)
def test_reasons_are_told_in_words(error: OSError, reason: str) -> None:
    assert reason_of(error).startswith(reason)
