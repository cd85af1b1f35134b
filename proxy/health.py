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
    """Asks the providers that are to be asked. One per worker."""

    def __init__(self, circuits: Circuits, *, chance: Callable[[], float] = random.random) -> None:
        """`chance` returns from 0 to 1."""
        self._circuits = circuits
        self._chance = chance
        self._asked: dict[str, tuple[Health, Account]] = {}
        self._asking: dict[str, asyncio.Task[NoReturn]] = {}
        self._silent: set[str] = set()

    def follow(self, checked: Mapping[str, Health], accounts: Mapping[str, Account]) -> None:
        """Ask these from now on; `checked` says how, by provider.

        Who stays what it was goes on to be asked, and to be silent; of others nothing is known.
        """
        asked = {name: (health, accounts[name]) for name, health in checked.items()}
        for name in [name for name, how in self._asked.items() if asked.get(name) != how]:
            self._asking.pop(name).cancel()
            self._forget(name)
        before, self._asked = self._asked, asked
        for name, (health, account) in asked.items():
            if before.get(name) != (health, account):
                self._forget(name)  # the model host may have known it
                self._asking[name] = asyncio.create_task(self._ask_always(name, health, account))

    def look_at(self, inventory: Inventory) -> None:
        """Take over what the model host has seen of servers that are not asked here."""
        there = {provider.name for provider in inventory.providers}
        for name in self._silent - there - self._asked.keys():
            self._forget(name)
        for name in sorted(there - self._asked.keys()):
            is_silent = name in inventory.silent
            self._hear(name, "it did not list its models" if is_silent else "")

    def close(self) -> None:
        """Ask nobody any more."""
        for task in self._asking.values():
            task.cancel()

    async def _ask_always(self, provider: str, health: Health, account: Account) -> NoReturn:
        misses = 0
        while True:
            problem = await self._ask(health, account)
            misses = misses + 1 if problem else 0
            if misses == 0 or misses >= health.misses:
                self._hear(provider, problem)
            # Workers that were started together do not ask together for good.
            await asyncio.sleep(health.every_s * (0.9 + 0.2 * self._chance()))

    async def _ask(self, health: Health, account: Account) -> str:
        """What is wrong with a provider; "" where it answers, if only with a refusal."""
        try:
            async with asyncio.timeout(health.timeout_s):
                await account.adapter.models()
        except UpstreamError as error:
            return error.message if error.status >= 500 else ""
        except AdapterError as error:
            return error.message
        except TimeoutError:
            return f"it did not list its models within {health.timeout_s:g} s"
        return ""

    def _forget(self, provider: str) -> None:
        self._silent.discard(provider)
        self._circuits.hear(provider, "")

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
