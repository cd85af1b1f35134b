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
        checks = HealthChecks(circuits)
        checks.follow({"p": health}, {"p": provider})  # type: ignore[dict-item] # as much of one as is asked
        await asyncio.wait_for(provider.is_done.wait(), 30)
        checks.close()
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
        checks = HealthChecks(circuits)
        checks.follow({"p": health}, {"p": Asked()})  # type: ignore[dict-item] # as above
        while circuits.all_in:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        checks.close()
        assert circuits.standing("p/a").problem == "it did not list its models within 0.01 s"

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(scene(), 30))
    problem = "it did not list its models within 0.01 s"
    assert caplog.messages == [f"p is left out until it answers: {problem}"]


def test_other_settings_leave_what_is_known_of_those_who_stay() -> None:
    gone = ConnectFailed("no route to host")

    async def scene() -> None:
        circuits = Circuits(Circuit(), Hands())
        health = Health(every_s=0.0, misses=1)
        stays, changes = Asked(gone), Asked(gone)
        checks = HealthChecks(circuits)
        checks.follow({"p": health, "q": health}, {"p": stays, "q": changes})  # type: ignore[dict-item] # as above
        async with asyncio.timeout(30):
            await stays.is_done.wait()
            await changes.is_done.wait()
        before = asyncio.all_tasks()
        for _ in range(50):
            changed = Asked(None)
            checks.follow({"p": health, "q": health}, {"p": stays, "q": changed})  # type: ignore[dict-item] # as above
            assert circuits.standing("p/a").state == "silent"
            assert circuits.standing("q/a").state == "in"
            async with asyncio.timeout(30):
                await changed.is_done.wait()
        assert len(asyncio.all_tasks()) == len(before)
        checks.follow({}, {})
        assert circuits.all_in
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scene())


def test_what_the_model_host_sees_counts_where_nobody_is_asked() -> None:
    async def scene() -> None:
        circuits = Circuits(Circuit(), Hands())
        checks = HealthChecks(circuits)
        checks.follow({"asked": Health(every_s=60.0)}, {"asked": Asked()})  # type: ignore[dict-item] # as above
        found = tuple(
            FoundProvider(name=name, adapter="ollama", by="port") for name in ("asked", "ollama")
        )
        silent = Inventory(providers=found, silent=frozenset({"asked", "ollama"}))
        checks.look_at(silent)
        assert circuits.standing("ollama/a").state == "silent"
        assert circuits.standing("asked/a").state == "in"
        checks.look_at(Inventory(providers=found))
        assert circuits.all_in
        checks.look_at(silent)
        checks.look_at(Inventory(providers=()))
        assert circuits.all_in
        checks.close()

    asyncio.run(scene())
