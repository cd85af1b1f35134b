"""`/v1/responses`: answers, what they continue, and those that were kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from proxy.auth import Auth, Caller
from proxy.engine import Engine
from proxy.errors import EndpointForbidden, InvalidRequest, NotFound, UnknownPrevious
from proxy.http import Exchange
from proxy.response_store import Kept, ResponseStore, TooLong
from proxy.wire.responses import request as wire
from proxy.wire.responses.response import FAILURES, response_id
from proxy.wire.surrogates import without_lone

PREFIX = "/v1/responses/"

_MOST_ITEMS = 100
# A client waits no longer for the end of its answer because others are kept before.
_KEEP_WITHIN_S = 5.0
_logger = logging.getLogger("tollway")


class _Item(msgspec.Struct):
    id: str


class _Response(msgspec.Struct):
    output: list[msgspec.Raw] | None = None


_items = msgspec.json.Decoder(list[msgspec.Raw])
_item = msgspec.json.Decoder(_Item)
_response = msgspec.json.Decoder(_Response)


class Responses:
    """The endpoint and what it keeps; without a `store` that is nothing."""

    def __init__(
        self, *, auth: Auth, engine: Engine, store: ResponseStore | None, max_body: int
    ) -> None:
        self._auth = auth
        self._engine = engine
        self._store = store
        self._max_body = max_body

    async def create(self, exchange: Exchange) -> None:
        """Answer a request; raises `ApiError` while nothing of the reply has left."""
        exchange.failures = FAILURES
        caller = self._auth.identify(exchange)
        asked = wire.read(await exchange.read_body(self._max_body))
        if not caller.may_use("responses"):
            raise EndpointForbidden("this API key may not use the endpoint 'responses'")
        history = await self._history(asked, caller)
        referred = await self._referred(asked, caller, history)
        request = asked.resolved(history, referred, keeps=self._store is not None)
        if self._store is not None and asked.stores:
            kept = Kept(
                id=response_id(exchange.request_id),
                owner=caller.key_id,
                previous=asked.previous,
                input=b"[%b]" % b",".join(map(bytes, request.items)),
                response=b"",
            )
            exchange.before_end = partial(self._keep, self._store, kept, request.result)
        await self._engine.serve(exchange, caller, request)

    async def show(self, exchange: Exchange) -> None:
        """`GET /v1/responses/{id}` and `/{id}/input_items`."""
        name, _, rest = _path(exchange)
        if rest not in ("", "input_items"):
            raise NotFound(f"there is no GET {exchange.scope['path'][:200]!r} here")
        kept = await self._find(exchange, name)
        query = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
        if rest:
            await exchange.reply(200, _page(_input_items(kept), query))
        elif query.get("stream") == ["true"]:
            raise InvalidRequest("kept responses are not streamed again", param="stream")
        else:
            await exchange.reply(200, kept.response)

    async def delete(self, exchange: Exchange) -> None:
        """`DELETE /v1/responses/{id}`."""
        name, slash, _ = _path(exchange)
        caller = self._auth.identify(exchange)
        if slash or self._store is None or not await self._store.delete(name, caller.key_id):
            raise _unknown(name)
        said = {"id": name, "object": "response", "deleted": True}
        await exchange.reply(200, msgspec.json.encode(said))

    async def cancel(self, exchange: Exchange) -> None:
        """`POST /v1/responses/{id}/cancel`: nothing runs in the background that it could end."""
        name, _, rest = _path(exchange)
        if rest != "cancel":
            raise NotFound(f"there is no POST {exchange.scope['path'][:200]!r} here")
        await self._find(exchange, name)
        raise InvalidRequest(
            "only responses made in the background can be cancelled, and none are here"
        )

    async def _find(self, exchange: Exchange, name: str) -> Kept:
        caller = self._auth.identify(exchange)
        kept = None if self._store is None else await self._store.get(name, caller.key_id)
        if kept is None:
            raise _unknown(name)
        return kept

    async def _history(self, asked: wire.Asked, caller: Caller) -> Sequence[msgspec.Raw]:
        """The items of all that the response continues: what went in and what came out."""
        if asked.previous is None:
            return ()
        try:
            chain = await self._store.chain(asked.previous, caller.key_id) if self._store else None
        except TooLong:
            raise _too_long("previous_response_id") from None
        if chain is None:
            raise UnknownPrevious(
                f"Previous response with id {asked.previous[:100]!r} not found.",
                param="previous_response_id",
            )
        return [
            item for kept in chain for item in (*_items.decode(kept.input), *_output(kept.response))
        ]

    async def _referred(
        self, asked: wire.Asked, caller: Caller, history: Sequence[msgspec.Raw]
    ) -> Mapping[int, msgspec.Raw]:
        """The items that others stand for, by the number of those."""
        references = asked.references()
        if not references:
            return {}
        known = _by_id(history)
        size = 0
        for index, name in references.items():
            if name not in known and self._store is not None:
                kept = await self._store.find_item(name, caller.key_id)
                known |= _by_id(_output(kept.response)) if kept is not None else {}
            if name not in known:
                raise UnknownPrevious(
                    f"Item with id {name[:100]!r} not found.", param=f"input[{index}]"
                )
            # The same one may be named many times.
            size += len(memoryview(known[name]))
            if size > self._max_body:
                raise _too_long(f"input[{index}]")
        return {index: known[name] for index, name in references.items()}

    async def _keep(self, store: ResponseStore, kept: Kept, result: wire.Result) -> None:
        """Keep the response, if there is one, before the client can ask for it."""
        if result.response is None:
            return
        item_ids = list(_by_id(_output(result.response)))
        whole = replace(kept, response=result.response, item_ids=item_ids)
        try:
            async with asyncio.timeout(_KEEP_WITHIN_S):
                is_kept = await store.put(whole)
            if not is_kept:
                _logger.warning("response %s is too large to be kept", kept.id)
        # The answer is whole, and goes out all the same.
        except (sqlite3.Error, OSError) as error:
            problem = str(error) or "the database is busy"
            _logger.warning("response %s is not kept: %s", kept.id, problem)


def _path(exchange: Exchange) -> tuple[str, str, str]:
    """The id in a path, and what follows it."""
    path: str = exchange.scope["path"]
    name, slash, rest = path.removeprefix(PREFIX).partition("/")
    return name, slash, rest


def _too_long(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"what {param!r} stands for is larger than a request may be (server.max_body_mb)",
        param=param,
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"Response with id {name[:100]!r} not found.")


def _output(response: bytes) -> list[msgspec.Raw]:
    """The items of a response, without lone surrogates."""
    if rb"\ud" in response or rb"\uD" in response:
        response = without_lone(response)
    return _response.decode(response).output or []


def _by_id(items: Sequence[msgspec.Raw]) -> dict[str, msgspec.Raw]:
    found = {}
    for item in items:
        with contextlib.suppress(msgspec.ValidationError):  # it has no id
            found[_item.decode(item).id] = item
    return found


def _input_items(kept: Kept) -> list[dict[str, Any]]:
    """The input as items, each with an id."""
    found = []
    for index, raw in enumerate(_items.decode(kept.input)):
        item: dict[str, Any] = msgspec.json.decode(raw)
        item.setdefault("type", "message")
        if not item.get("id"):
            item["id"] = f"{item['type']}_{kept.id.removeprefix('resp_')}i{index:02x}"
        if isinstance(item.get("content"), str):
            kind = "output_text" if item.get("role") == "assistant" else "input_text"
            item["content"] = [{"type": kind, "text": item["content"]}]
        found.append(item)
    return found


def _page(items: list[dict[str, Any]], query: Mapping[str, list[str]]) -> bytes:
    """A page of a list, newest first unless asked otherwise. Source: OpenAI, "List input items"."""
    limit = query.get("limit", ["20"])[-1]
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:4]) <= _MOST_ITEMS:
        raise InvalidRequest(f"'limit' is 1 to {_MOST_ITEMS}", param="limit")
    if query.get("order", ["desc"])[-1] != "asc":
        items = items[::-1]
    if "after" in query:
        places = [n for n, item in enumerate(items) if item["id"] == query["after"][-1]]
        if not places:
            raise InvalidRequest("'after' names no item of this response", param="after")
        items = items[places[0] + 1 :]
    shown = items[: int(limit)]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(items) > len(shown),
        }
    )
