"""`GET /v1/models` and `GET /v1/models/{id}`: virtual models first, then what a key may name.

The list is cheap, and says little of each. One that is asked for alone has its catalogue entry.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import parse_qs, unquote

import msgspec

from policies.base import Capability
from proxy.admin.shapes import usd
from proxy.auth import Auth
from proxy.entries import Entries
from proxy.errors import InvalidRequest, UnknownModel
from proxy.http import Exchange
from proxy.swaps.moves import Moves
from proxy.target_entry import TargetEntry
from proxy.targets import Target, TargetTable, VirtualModel

PREFIX = "/v1/models/"
ANTHROPIC_VERSION = b"anthropic-version"
"""The header that every client of Anthropic's sends, which reads another list."""


class Models:
    """The list of models, as OpenAI's SDKs read it, or as Anthropic's do."""

    def __init__(
        self,
        *,
        auth: Auth,
        table: Callable[[], TargetTable],
        moves: Moves,
        entries: Entries,
        created: int,
    ) -> None:
        self._auth = auth
        self._table = table
        self._moves = moves
        self._entries = entries
        self._created = created

    async def list(self, exchange: Exchange) -> None:
        """Every name this caller may ask for; with `capability`, of what can do all of that.

        Raises `InvalidRequest` for a word that no model has.
        """
        caller = self._auth.identify(exchange)
        table = self._table()
        wanted = _wanted(exchange, table)
        named = [model.name for model in table.listed()]
        # A key may be made out to aliases and bare names, which the table does not list.
        named += sorted(frozenset().union(*caller.models).difference(named))
        found = ((name, self._find(name, table)) for name in named if caller.may_name(name))
        show = self._shown_to(exchange)
        shown = [
            show(model, name)
            for name, model in found
            if model is not None and (not wanted or _can(model, wanted))
        ]
        page: dict[str, Any] = {"object": "list", "data": shown}
        if show == self._shown_by_anthropic:
            ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
            page = {"data": shown, "has_more": False, "first_id": None, "last_id": None, **ends}
        await exchange.reply(200, msgspec.json.encode(page))

    async def retrieve(self, exchange: Exchange) -> None:
        """One of them; raises `UnknownModel`."""
        caller = self._auth.identify(exchange)
        raw: bytes = exchange.scope.get("raw_path") or exchange.scope["path"].encode()
        name = unquote(raw.partition(b"?")[0].decode("latin-1")).removeprefix(PREFIX)
        found = self._find(name, self._table())
        if found is None or not caller.may_name(name):
            raise UnknownModel(
                f"the model {name[:100]!r} does not exist or this key may not use it",
                param="model",
            )
        show = self._shown_to(exchange)
        shown = show(found, name)
        if isinstance(found, Target) and show == self._shown:
            shown |= _entry(await self._entries.of(found))
        await exchange.reply(200, msgspec.json.encode(shown))

    def _find(self, name: str, table: TargetTable) -> VirtualModel | Target | None:
        """What a name leads to, swaps included."""
        found = table.find(name)
        return None if found is None else self._moves.effective(name, found, table)

    def _shown_to(
        self, exchange: Exchange
    ) -> Callable[[VirtualModel | Target, str], dict[str, Any]]:
        is_anthropic = ANTHROPIC_VERSION in exchange.headers
        return self._shown_by_anthropic if is_anthropic else self._shown

    def _shown_by_anthropic(self, model: VirtualModel | Target, name: str) -> dict[str, Any]:
        """Source: Anthropic's API reference, "List Models"; the whole list is one page."""
        target = model if isinstance(model, Target) else None
        return {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": datetime.fromtimestamp(self._created, UTC),
            "lifecycle": "active",
            "max_input_tokens": target and target.context_length,
            "max_tokens": target and target.max_output_tokens,
        }

    def _shown(self, model: VirtualModel | Target, name: str) -> dict[str, Any]:
        head = {"id": name, "object": "model", "created": self._created}
        if isinstance(model, VirtualModel):
            return {
                **head,
                "owned_by": "tollway",
                "description": model.description,
                "targets": [target.name for target in model.targets],
            }
        return {
            **head,
            "owned_by": model.provider,
            "context_length": model.context_length,
            "max_output_tokens": model.max_output_tokens,
            "capabilities": sorted(model.capabilities),
            **({"tags": sorted(model.tags)} if model.tags else {}),
        }


def _wanted(exchange: Exchange, table: TargetTable) -> frozenset[str]:
    """The words behind `capability=`, which may come several times, or with commas between."""
    query = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
    words = frozenset(
        word for value in query.get("capability", ()) for word in value.split(",") if word
    )
    known = {*get_args(Capability), *table.tags}
    for word in sorted(words - known):
        raise InvalidRequest(
            f"no model has the capability {word[:60]!r}; there are {', '.join(sorted(known))}",
            param="capability",
        )
    return words


def _can(model: VirtualModel | Target, wanted: frozenset[str]) -> bool:
    """Whether a target has all of that, or any one target of a virtual model."""
    targets = model.targets if isinstance(model, VirtualModel) else (model,)
    return any(wanted <= target.capabilities | target.tags for target in targets)


def _entry(entry: TargetEntry) -> dict[str, Any]:
    """A catalogue entry as JSON: moments in ISO 8601, money in USD."""
    health = msgspec.to_builtins(entry.health)
    for moment in ("answered_at", "failed_at"):
        health[moment] = _moment(health[moment])
    return {
        "tags": sorted(entry.tags),
        "input_modalities": entry.input_modalities,
        "output_modalities": entry.output_modalities,
        "profile": {"declared": entry.declared, "measured": entry.measured},
        "needs": {
            "memory_mb": entry.needs_mb,
            "gpu_memory_mb": entry.needs_gpu_mb,
            "concurrency": entry.concurrency,
            "backend": entry.backend,
        },
        "cost": entry.cost
        and {
            "input_usd_per_million_tokens": usd(entry.cost.input_nanousd),
            "output_usd_per_million_tokens": usd(entry.cost.output_nanousd),
            "usd_per_request": usd(entry.cost.per_request_nanousd),
            "source": entry.cost.source,
        },
        "health": health,
        "state": entry.state,
        "weights": entry.weights,
        "found_by": entry.found_by,
        "changed_at": _moment(entry.changed_at),
    }


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
