"""Where requests go while swaps are in force: what a worker makes of the target table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from policies.base import Candidate, Capability, Choice, Policy, Question, Sense
from proxy.auth import Caller
from proxy.http import Exchange
from proxy.swaps.conversations import conversation_of
from proxy.swaps.core import PARTS, Plan, Swap, is_moved
from proxy.targets import Downgrade, Target, TargetTable, VirtualModel
from proxy.wire.dialect import Request

Aim = Target | VirtualModel

# What a target is asked for at an endpoint of its own.
_KINDS: frozenset[Capability] = frozenset(
    {"chat", "embeddings", "rerank", "moderations", "images", "transcriptions", "speech"}
)


class Told(Protocol):
    """What every worker is told of swaps, as the ledger's client has it."""

    @property
    def swaps(self) -> Mapping[int, Swap]:
        """Those that are open or in force; another object after each change."""

    def began_moved(self, swap_id: int, conversation: int) -> bool:
        """Whether a conversation began at the new target."""

    def begin_conversation(self, swap_id: int, conversation: int) -> None:
        """Let everybody know that it did."""


@dataclass(frozen=True, slots=True)
class _Move:
    """What a name stands for, before its newest swap and after it."""

    swap: Swap
    before: Aim
    after: Aim


class Moves:
    """Applies the swaps in force to what requests ask for. One per worker."""

    def __init__(self, told: Told, secret: bytes) -> None:
        """`secret` keys the hashes, so that all workers draw alike and nobody else can."""
        self._told = told
        self._secret = secret
        self._seen: tuple[Mapping[int, Swap], TargetTable] | None = None
        self._moves: Mapping[str, _Move] = {}

    def aimed(
        self,
        name: str,
        found: Aim,
        table: TargetTable,
        caller: Caller,
        exchange: Exchange,
        request: Request,
        *,
        is_dry: bool = False,
    ) -> tuple[Aim, Swap | None]:
        """What `name` stands for in place of `found`, and the swap that moved the request there.

        One that `is_dry` is only asked about: it begins no conversation.
        """
        move = self._of(table).get(name)
        if move is None:
            return found, None
        if self._is_moved(move.swap, caller, exchange, request, is_dry=is_dry):
            return move.after, move.swap
        return move.before, None

    def effective(self, name: str, found: Aim, table: TargetTable) -> Aim:
        """What a name will stand for when the swap that is under way has ended well."""
        move = self._of(table).get(name)
        return found if move is None else move.after

    def uses(self, target: str, table: TargetTable) -> bool:
        """Whether a virtual model or an alias still leads to a target."""
        for name, model in table.models.items():
            if target in _targets_of(self.effective(name, model, table)):
                return True
        for alias in table.aliases:
            aimed = self.effective(alias, table.targets[table.aliases[alias]], table)
            # Every target has its bare name.
            if isinstance(aimed, Target) and aimed.name == target and alias != aimed.model:
                return True
        return False

    def problem(self, plan: Plan, table: TargetTable) -> str | None:
        """Why a swap makes no sense here; None where it does."""
        found = table.find(plan.name)
        is_own_name = plan.name in table.targets or plan.name not in table.aliases
        if found is None or (isinstance(found, Target) and is_own_name):
            return f"there is no virtual model and no alias {plan.name[:100]!r}"
        for name in (plan.source, plan.target):
            target = table.target(name)
            if target is None or target.name != name:
                right = "" if target is None else f"; write {target.name!r}"
                return f"there is no target {name[:100]!r}{right}"
        leads_to = _targets_of(self.effective(plan.name, found, table))
        if plan.source not in leads_to:
            return (
                f"{plan.name!r} does not lead to {plan.source!r}, but to "
                f"{', '.join(sorted(leads_to)) or 'nothing'}"
            )
        old, new = table.target(plan.source), table.target(plan.target)
        assert old is not None
        assert new is not None
        if new.demonstration and table.has_real_targets and isinstance(found, VirtualModel):
            return f"{new.name!r} is a demonstration, which no virtual model leads to here"
        if missing := (old.capabilities & _KINDS) - new.capabilities:
            return f"{new.name!r} has no {', '.join(sorted(missing))}, which {old.name!r} has"
        if old.vector_space is not None and new.vector_space != old.vector_space:
            return (
                f"the vectors of {new.name!r} are of the space {new.vector_space!r}, those of "
                f"{old.name!r} of {old.vector_space!r}: no index may hold both"
            )
        if new.price is None and old.price is not None:
            return f"{new.name!r} has no price, so that no budget admits it; see 'unpriced'"
        return None

    def _is_moved(
        self, swap: Swap, caller: Caller, exchange: Exchange, request: Request, *, is_dry: bool
    ) -> bool:
        if not swap.is_open:
            return True
        if not swap.plan.keeps_conversations:
            return is_moved(swap, self._draw(swap, exchange.request_id.encode()))
        conversation = conversation_of(caller, exchange, request, self._secret)
        if conversation is None:
            return is_moved(swap, self._draw(swap, exchange.request_id.encode()))
        number = conversation.number
        moved = is_moved(
            swap,
            self._draw(swap, b"%d" % number),
            continues=conversation.continues,
            began_moved=self._told.began_moved(swap.swap_id, number),
        )
        if moved and not conversation.continues and not is_dry:
            self._told.begin_conversation(swap.swap_id, number)
        return moved

    def _draw(self, swap: Swap, identity: bytes) -> int:
        """A number below `PARTS`, the same for the same request or conversation."""
        message = b"%d\0" % swap.swap_id + identity
        digest = hashlib.blake2b(message, key=self._secret[:64], digest_size=8).digest()
        return int.from_bytes(digest, "big") % PARTS

    def _of(self, table: TargetTable) -> Mapping[str, _Move]:
        swaps = self._told.swaps
        if self._seen is None or self._seen[0] is not swaps or self._seen[1] is not table:
            self._moves = moves_of(swaps.values(), table)
            self._seen = (swaps, table)
        return self._moves


def moves_of(swaps: Iterable[Swap], table: TargetTable) -> Mapping[str, _Move]:
    """By name, what the swaps in force make of a table; those without an effect are left out.

    Several of one name apply in the order in which they were begun.
    """
    return {swap.plan.name: move for swap, move in _steps(swaps, table) if move is not None}


def meaningless(swaps: Iterable[Swap], table: TargetTable) -> list[Swap]:
    """The swaps in force that do nothing, since the configuration no longer has what they move."""
    return [swap for swap, move in _steps(swaps, table) if move is None and swap.is_in_force]


def _steps(swaps: Iterable[Swap], table: TargetTable) -> Iterator[tuple[Swap, _Move | None]]:
    """Each swap, and what it makes of what those of its name before it have made."""
    reached: dict[str, Aim] = {}
    for swap in sorted(swaps, key=lambda swap: swap.swap_id):
        name = swap.plan.name
        found = reached.get(name) or table.find(name)
        after = moved(found, swap, table) if swap.is_in_force and found is not None else None
        if found is None or after is None:
            yield swap, None
        else:
            reached[name] = after
            yield swap, _Move(swap, found, after)


def moved(found: Aim, swap: Swap, table: TargetTable) -> Aim | None:
    """What a name stands for once its swap has moved it; None where there is nothing to move.

    Nor may it be, since a configuration has changed: vectors of two spaces must not meet.
    """
    new, old = table.target(swap.plan.target), table.target(swap.plan.source)
    if new is not None and isinstance(found, VirtualModel) and not _targets_of(found):
        # What it led to was found on this machine, and may go once nobody needs it any more.
        return replace(found, targets=(new,))
    if new is None or old is None or old.vector_space not in (None, new.vector_space):
        return None
    if isinstance(found, Target):
        return new if found.name == old.name else None
    if old.name not in _targets_of(found):
        return None
    return _moved_model(found, old, new, keeps_old=swap.is_open)


def _moved_model(found: VirtualModel, old: Target, new: Target, *, keeps_old: bool) -> VirtualModel:
    targets: dict[str, Target] = {}
    for target in found.targets:
        if target.name == old.name:
            targets[new.name] = new
            if keeps_old:
                targets[old.name] = old
        else:
            targets.setdefault(target.name, target)
    return replace(
        found,
        targets=tuple(targets.values()),
        policy=OldBehindNew(found.policy, old=old.name, new=new.name)
        if keeps_old
        else found.policy,
        pinned_space=found.vector_space,
        in_place={
            rule: _moved_model(model, old, new, keeps_old=keeps_old)
            for rule, model in found.in_place.items()
        },
        downgrades=tuple(
            Downgrade(
                at_percent=tier.at_percent,
                model=_moved_model(tier.model, old, new, keeps_old=keeps_old),
            )
            for tier in found.downgrades
        ),
    )


def _targets_of(aim: Aim) -> frozenset[str]:
    """Every target that a name may lead to."""
    if isinstance(aim, Target):
        return frozenset({aim.name})
    models = (aim, *aim.in_place.values())
    tiers = (_targets_of(tier.model) for tier in aim.downgrades)
    own = frozenset(target.name for model in models for target in model.targets)
    return own.union(*tiers)


@dataclass(frozen=True, slots=True)
class OldBehindNew:
    """A policy, with the new target where it has put the first of the two, the old one behind it.

    A policy that goes by prices or figures would else move other requests than those of the share.
    """

    policy: Policy
    old: str
    new: str

    @property
    def name(self) -> str:
        """The policy's own."""
        return self.policy.name

    @property
    def reads(self) -> frozenset[Sense]:
        """The policy's own."""
        return self.policy.reads

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """See `policies.base.Policy`."""
        choices = self.policy.decide(question, candidates)
        of_swap = {choice.target: choice for choice in choices if choice.target in self._both}
        if len(of_swap) < len(self._both):
            return choices
        pair = (of_swap[self.new], of_swap[self.old])
        first = next(i for i, choice in enumerate(choices) if choice.target in of_swap)
        before = choices[:first]
        after = tuple(choice for choice in choices[first:] if choice.target not in of_swap)
        return (*before, *pair, *after)

    @property
    def _both(self) -> tuple[str, str]:
        return self.old, self.new
