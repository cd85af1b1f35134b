"""What the operations work on: the ledger, its reports, and the models there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar, get_args

from adapters.base import Endpoint
from proxy import auth, budgets
from proxy.addresses import parse_network
from proxy.clock import Clock
from proxy.errors import ApiError, Conflict, InvalidRequest, LedgerDown, NotFound
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import LedgerRefusal, LedgerUnavailable
from proxy.ledger.protocol import (
    AdminOp,
    Budgets,
    BudgetState,
    GroupChanged,
    GroupRecord,
    KeyChanged,
    KeyRecord,
    ListBudgets,
    UpdateBudget,
    UpdateGroup,
    UpdateKey,
)
from proxy.targets import TargetTable, is_configured

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Books:
    """Writes go through the ledger process, reports read its file."""

    ledger: LedgerClient
    database: Path
    secret: bytes
    table: Callable[[], TargetTable]
    providers: Container[str]
    clock: Clock

    async def call(self, op: AdminOp, kind: type[T]) -> T:
        """Carry out an op, which is answered by `kind`.

        Raises `NotFound`, `Conflict`, `InvalidRequest` or `LedgerDown`.
        """
        try:
            reply = await self.ledger.call(op)
        except LedgerUnavailable as error:
            raise _down(error) from None
        except (OverflowError, ValueError) as error:
            raise InvalidRequest(f"something in this is too large to be kept: {error}") from None
        except LedgerRefusal as error:
            raise _FAILURES[error.code](str(error)) from None
        assert isinstance(reply, kind)
        return reply

    async def report(self, make: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What a report says; it reads the ledger's file in a thread. Raises `LedgerDown`."""
        try:
            return await asyncio.to_thread(make, *args, **kwargs)
        except LedgerUnavailable as error:
            raise _down(error) from None

    def all_keys(self) -> list[KeyRecord]:
        """Every key once, oldest first; revoked ones too."""
        found = {record.key_id: record for record in self.ledger.keys.values()}
        return sorted(found.values(), key=lambda key: (key.created_at, key.key_id))

    async def key(self, key_id: str) -> KeyRecord:
        """A key by its id; raises `NotFound`.

        One that another worker made a moment ago may not have reached this one: then the ledger is
        asked, by a change of nothing.
        """
        for record in self.ledger.keys.values():
            if record.key_id == key_id:
                return record
        return (await self.call(UpdateKey(0, key_id), KeyChanged)).key

    async def group(self, group_id: str, kind: str) -> GroupRecord:
        """A team or an organisation by its id, as `key`; raises `NotFound`."""
        record = self.ledger.groups.get(group_id)
        if record is None:
            record = (await self.call(UpdateGroup(0, group_id), GroupChanged)).group
        if record.kind != kind:
            raise NotFound(f"there is no {kind} {group_id[:100]!r}")
        return record

    async def living_group(self, group_id: str, kind: str, param: str) -> str:
        """The id, where there is such a group; else raises `InvalidRequest` that names `param`."""
        try:
            record = await self.group(group_id, kind)
        except NotFound:
            record = None
        if record is None or record.deleted_at is not None:
            raise InvalidRequest(f"{param}: there is no {kind} {group_id[:100]!r}", param=param)
        return group_id

    async def budgets(self, scope: str = "") -> tuple[BudgetState, ...]:
        """Every budget, or those of exactly that scope."""
        return (await self.call(ListBudgets(0, scope), Budgets)).budgets

    async def end_budget(self, budget_id: int) -> BudgetState:
        """Delete a budget; its rows stay."""
        ended = await self.call(UpdateBudget(0, budget_id, deleted=True), Budgets)
        return ended.budgets[0]

    def known_models(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names; raises `InvalidRequest` for one that is nobody's."""
        names = tuple(names)
        for name in names:
            if self.table().find(name) is None:
                raise InvalidRequest(f"there is no model {name[:100]!r}", param="models")
        return names

    async def check_scope(self, scope: str) -> None:
        """Raise `InvalidRequest` unless everything it names is there.

        A typo would make a budget that nothing is ever charged to.
        """
        problem = budgets.scope_problem(scope)
        if problem is not None:
            raise InvalidRequest(f"scope: {problem}", param="scope")
        for kind, name in budgets.named_in(scope):
            if not await self._exists(kind, name):
                raise InvalidRequest(f"scope: there is no {kind} {name[:100]!r}", param="scope")

    async def _exists(self, kind: str, name: str) -> bool:
        if kind in ("key", "team", "organisation"):
            try:
                if kind == "key":
                    return (await self.key(name)).revoked_at is None
                return (await self.group(name, kind)).deleted_at is None
            except NotFound:
                return False
        return is_configured(kind, name, self.table(), self.providers)

    def new_key(self) -> tuple[str, bytes, str]:
        """A fresh key, its digest and its hint."""
        key = auth.new_key()
        return key, auth.digest(key, self.secret), auth.hint(key)


def known_endpoints(names: Iterable[str]) -> tuple[str, ...]:
    """The names; raises `InvalidRequest` for one that is no endpoint's."""
    names, known = tuple(names), get_args(Endpoint)
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"there is no endpoint {name[:100]!r}; there are {', '.join(known)}",
                param="endpoints",
            )
    return names


def known_networks(texts: Iterable[str]) -> tuple[str, ...]:
    """The networks, in CIDR notation; raises `InvalidRequest` for what is none."""
    try:
        return tuple(str(parse_network(text)) for text in texts)
    except ValueError as error:
        raise InvalidRequest(f"networks: {error}", param="networks") from None


def _down(error: LedgerUnavailable) -> LedgerDown:
    return LedgerDown(str(error), headers={"retry-after": "1"})


_FAILURES: Mapping[str, type[ApiError]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "invalid": InvalidRequest,
}
