"""`GET /v1/models` and `GET /v1/models/{id}`: virtual models first, then what a key may name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from proxy.auth import Auth
from proxy.errors import UnknownModel
from proxy.http import Exchange
from proxy.targets import Target, TargetTable, VirtualModel

PREFIX = "/v1/models/"
ANTHROPIC_VERSION = b"anthropic-version"
"""The header that every client of Anthropic's sends, which reads another list."""


class Models:
    """The list of models, as OpenAI's SDKs read it, or as Anthropic's do."""

    def __init__(self, *, auth: Auth, table: Callable[[], TargetTable], created: int) -> None:
        self._auth = auth
        self._table = table
        self._created = created

    async def list(self, exchange: Exchange) -> None:
        """Every name this caller may ask for."""
        caller = self._auth.identify(exchange)
        table = self._table()
        named = [model.name for model in table.listed()]
        # A key may be made out to aliases and bare names, which the table does not list.
        named += sorted(frozenset().union(*caller.models).difference(named))
        found = ((name, table.find(name)) for name in named if caller.may_name(name))
        show = self._shown_to(exchange)
        shown = [show(model, name) for name, model in found if model is not None]
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
        found = self._table().find(name)
        if found is None or not caller.may_name(name):
            raise UnknownModel(
                f"the model {name[:100]!r} does not exist or this key may not use it",
                param="model",
            )
        await exchange.reply(200, msgspec.json.encode(self._shown_to(exchange)(found, name)))

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
        }
