"""A provider that does not answer when it is asked is left out until it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from adapters.base import AdapterError, ConnectFailed, Overloaded, UpstreamAuth
from proxy.circuits import Circuits
from proxy.config import Circuit, Health
from proxy.health import HealthChecks
from proxy.inventory import FoundProvider, Inventory
from tests.proxy.test_figures import Hands


class Asked:
    """A provider that says one thing after the other, and then stands still."""

    def __init__(self, *answers: AdapterError | None) -> None:
        self._answers = list(answers)
        self.is_done = asyncio.Event()

    @property
    def adapter(self) -> Asked:
        return self

    async def models(self) -> Sequence[str]:
        if not self._answers:
            self.is_done.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if answer is not None:
            raise answer
        return ()


def _state_after(*answers: AdapterError | None, timeout_s: float = 60) -> str:
    async def scene() -> str:
        circuits = Circuits(Circuit(), Hands())
        provider = Asked(*answers)
        health = Health(every_s=0.0, misses=2, timeout_s=timeout_s)
        checks = HealthChecks({"p": health}, {"p": provider}, circuits)  # type: ignore[dict-item] # as much of one as is asked
        running = asyncio.create_task(checks.run())
        await asyncio.wait_for(provider.is_done.wait(), 30)
        running.cancel()
        return circuits.standing("p/a").state

    return asyncio.run(scene())


def test_a_provider_that_does_not_answer_is_left_out_until_it_does() -> None:
    gone = ConnectFailed("no route to host")
    assert _state_after(gone) == "in"
    assert _state_after(gone, None, gone) == "in"
    assert _state_after(gone, gone) == "silent"
    assert _state_after(Overloaded("down", status=503), gone) == "silent"
    assert _state_after(gone, gone, None) == "in"


def test_a_refusal_is_an_answer() -> None:
    refused = UpstreamAuth("no", status=401)
    assert _state_after(refused, refused, refused) == "in"


def test_it_has_so_much_time(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        circuits = Circuits(Circuit(), Hands())
        health = Health(every_s=0.0, misses=1, timeout_s=0.01)
        checks = HealthChecks({"p": health}, {"p": Asked()}, circuits)  # type: ignore[dict-item] # as above
        running = asyncio.create_task(checks.run())
        while circuits.all_in:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        running.cancel()
        assert circuits.standing("p/a").problem == "it did not list its models within 0.01 s"

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(scene(), 30))
    problem = "it did not list its models within 0.01 s"
    assert caplog.messages == [f"p is left out until it answers: {problem}"]


def test_what_the_model_host_sees_counts_where_nobody_is_asked() -> None:
    circuits = Circuits(Circuit(), Hands())
    health = Health(every_s=60.0)
    checks = HealthChecks({"asked": health}, {}, circuits)
    found = tuple(
        FoundProvider(name=name, adapter="ollama", by="port") for name in ("asked", "ollama")
    )
    checks.look_at(Inventory(providers=found, silent=frozenset({"asked", "ollama"})))
    assert circuits.standing("ollama/a").state == "silent"
    assert circuits.standing("asked/a").state == "in"
    checks.look_at(Inventory(providers=found))
    assert circuits.all_in
