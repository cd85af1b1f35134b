"""How urgent a request is, among those that wait for the same target."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.auth import Caller
from proxy.errors import InvalidRequest
from proxy.fair_queue import RANKS, Priority
from proxy.http import Exchange

PRIORITY_HEADER = b"x-tollway-priority"
KINDS = ("key", "team", "organisation")
"""What a priority can be given to; what is nearer to the request goes first."""

_BY_NAME: Mapping[bytes, Priority] = {name.encode(): name for name in RANKS}


class Priorities:
    """What operators allow, and what requests ask for within that."""

    def __init__(self, by_scope: Mapping[str, Priority]) -> None:
        self._by_scope = by_scope

    def of(self, caller: Caller, exchange: Exchange) -> Priority:
        """How urgent a request is: never more than its caller may be.

        Raises `InvalidRequest` for a header that is no priority.
        """
        allowed = self._allowed(caller)
        asked = exchange.headers.get(PRIORITY_HEADER)
        if asked is None:
            return allowed
        wanted = _BY_NAME.get(asked.strip().lower())
        if wanted is None:
            name = PRIORITY_HEADER.decode()
            raise InvalidRequest(f"{name}: must be one of {', '.join(RANKS)}", param=name)
        return max(allowed, wanted, key=lambda each: RANKS[each])

    def _allowed(self, caller: Caller) -> Priority:
        if not self._by_scope:
            return "normal"
        given = {
            scope.partition(":")[0]: self._by_scope[scope]
            for scope in caller.scopes
            if scope in self._by_scope
        }
        return next((given[kind] for kind in KINDS if kind in given), "normal")
