"""`GET /v1/models` and `GET /v1/models/{id}`: virtual models first, then what a key may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from proxy.auth import Auth
from proxy.errors import UnknownModel
from proxy.http import Exchange
from proxy.targets import Target, TargetTable, VirtualModel

PREFIX = "/v1/models/"


class Models:
    """The list of models, as OpenAI's `models.list` and `models.retrieve` read it."""

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
        shown = [self._shown(model, name) for name, model in found if model is not None]
        await exchange.reply(200, msgspec.json.encode({"object": "list", "data": shown}))

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
        await exchange.reply(200, msgspec.json.encode(self._shown(found, name)))

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
