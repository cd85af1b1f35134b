"""Asking providers regularly whether they are there, before a request has to find out.

A provider is asked for its list of models, which costs nothing. One that does not answer is left
out with all its targets while there is another choice, and is back when it answers. Of servers on
this machine the model host knows as much, because it looks for models there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import NoReturn

from adapters.base import AdapterError, UpstreamError
from proxy.accounts import Account
from proxy.circuits import Circuits
from proxy.config import Health
from proxy.inventory import Inventory

_log = logging.getLogger("tollway")


class HealthChecks:
    """Asks the providers that are to be asked. One per worker and revision."""

    def __init__(
        self,
        checked: Mapping[str, Health],
        accounts: Mapping[str, Account],
        circuits: Circuits,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`checked` says how, by provider; `chance` returns from 0 to 1."""
        self._checked = checked
        self._accounts = accounts
        self._circuits = circuits
        self._chance = chance
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Ask until cancelled; returns where nobody is to be asked."""
        async with asyncio.TaskGroup() as group:
            for provider, health in self._checked.items():
                group.create_task(self._ask_always(provider, health))

    def look_at(self, inventory: Inventory) -> None:
        """Take over what the model host has seen of servers that are not asked here."""
        for provider in inventory.providers:
            if provider.name not in self._checked:
                is_silent = provider.name in inventory.silent
                self._hear(provider.name, "it did not list its models" if is_silent else "")

    async def _ask_always(self, provider: str, health: Health) -> NoReturn:
        misses = 0
        while True:
            problem = await self._ask(provider, health)
            misses = misses + 1 if problem else 0
            if misses == 0 or misses >= health.misses:
                self._hear(provider, problem)
            # Workers that were started together do not ask together for good.
            await asyncio.sleep(health.every_s * (0.9 + 0.2 * self._chance()))

    async def _ask(self, provider: str, health: Health) -> str:
        """What is wrong with a provider; "" where it answers, if only with a refusal."""
        try:
            async with asyncio.timeout(health.timeout_s):
                await self._accounts[provider].adapter.models()
        except UpstreamError as error:
            return error.message if error.status >= 500 else ""
        except AdapterError as error:
            return error.message
        except TimeoutError:
            return f"it did not list its models within {health.timeout_s:g} s"
        return ""

    def _hear(self, provider: str, problem: str) -> None:
        self._circuits.hear(provider, problem)
        if bool(problem) == (provider in self._silent):
            return
        if problem:
            self._silent.add(provider)
            _log.warning("%s is left out until it answers: %s", provider, problem)
        else:
            self._silent.discard(provider)
            _log.warning("%s answers again", provider)
