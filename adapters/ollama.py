"""`ollama`: an Ollama server by its own API, which alone has a say in the context length."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import msgspec

from adapters.base import AdapterError, Call, Deadlines, MalformedAnswer
from adapters.http.over_http import MAX_ANSWER_BYTES, Account, Dispatch, HttpAdapter, Reader
from adapters.http.transport import Response
from adapters.wire import loose_json
from adapters.wire.ollama_answer import ChatReader, CompletionReader, EmbeddingsReader
from adapters.wire.ollama_request import Translated, to_chat, to_embed, to_generate

# What Ollama gives a model at the least where nothing is said ("FAQ": context window size).
_LEAST_CONTEXT = 4096
_NUMBER = re.compile(r"[0-9]{1,9}")
_ASIDE = Deadlines(connect_s=5.0, first_byte_s=5.0, idle_s=5.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """What `/api/show` tells of a model: what it can do, and the longest context it can have.

    `num_ctx` is the one that its author chose; 0 where there is none.
    """

    capabilities: frozenset[str]
    context_length: int
    num_ctx: int


class Ollama(HttpAdapter):
    """One server."""

    speaks = frozenset({"chat", "completions", "embeddings"})

    def __init__(self, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        super().__init__(**account)
        self._shown: dict[str, Shown] = {}

    async def prepare(self, call: Call) -> Dispatch:
        """See `HttpAdapter`. Asks the server what is loaded, before it asks the model."""
        path, translated, reader = _translate(call)
        context = None
        if translated.needs_context is not None:
            context = await self._context(call.model, translated.needs_context)
        return Dispatch(
            path=path, body=translated.body(context), reader=reader, dropped=translated.dropped
        )

    async def _context(self, model: str, needed: int) -> int | None:
        """The context length to ask for; None for what the server gives anyway.

        A loaded model is loaded anew for any other length, which takes seconds: it is asked for
        the length it has, unless that is too short.
        """
        loaded = await self._loaded(model)
        if loaded >= needed:
            return loaded
        if not loaded and needed <= _LEAST_CONTEXT:
            return None
        try:
            shown = self._shown.get(model) or await self.show(model)
        except AdapterError:
            shown = Shown(frozenset(), 0, 0)
        if not loaded and shown.num_ctx >= needed:
            return None
        wanted = 1 << (needed - 1).bit_length()
        return min(wanted, shown.context_length or wanted)

    async def _loaded(self, model: str) -> int:
        """The context length of a model that is loaded; 0 where it is not, or nothing is told."""
        try:
            running = _decode(_running, await self._ask("GET", "/api/ps"))
        except AdapterError:
            return 0
        lengths = {entry.name: entry.context_length for entry in running.models or ()}
        return lengths.get(model) or lengths.get(f"{model}:latest") or 0

    async def show(self, model: str) -> Shown:
        """What the server tells of a model; raises `AdapterError`."""
        said = _decode(_show, await self._ask("POST", "/api/show", {"model": model}))
        architecture = said.model_info.get("general.architecture")
        length = said.model_info.get(f"{architecture}.context_length")
        shown = Shown(
            capabilities=frozenset(said.capabilities or ()),
            context_length=length if type(length) is int and length > 0 else 0,
            num_ctx=_parameter(said.parameters or "", "num_ctx"),
        )
        self._shown[model] = shown
        return shown

    async def models(self) -> Sequence[str]:
        """The names of the models that `GET /api/tags` lists."""
        listed = _decode(_running, await self.get("/api/tags"))
        return tuple(entry.name for entry in listed.models or ())

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Something small that is asked on the side of a call."""
        headers = {"content-type": "application/json"}
        response: Response = (
            await self._transport.get(path, {}, _ASIDE)
            if method == "GET"
            else await self._transport.post(path, headers, loose_json.encode(body), _ASIDE)
        )
        try:
            await self.check(response)
            return await response.read_all(MAX_ANSWER_BYTES)
        finally:
            response.close()


def _translate(call: Call) -> tuple[str, Translated, Reader]:
    match call.endpoint:
        case "embeddings":
            return "/api/embed", to_embed(call), EmbeddingsReader()
        case "completions":
            return "/api/generate", to_generate(call), CompletionReader()
        case _:
            return "/api/chat", to_chat(call), ChatReader()


class _Entry(msgspec.Struct):
    name: str
    context_length: int = 0


class _Entries(msgspec.Struct):
    models: list[_Entry] | None = None


class _Show(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] = {}
    parameters: str | None = None


_running = msgspec.json.Decoder(_Entries)
_show = msgspec.json.Decoder(_Show)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return loose_json.decode_as(decoder, body)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None


def _parameter(parameters: str, name: str) -> int:
    """A number among the lines of a model's parameters; 0 where it is not there."""
    for line in parameters.split("\n"):
        words = line.split()
        if len(words) == 2 and words[0] == name and _NUMBER.fullmatch(words[1]):
            return int(words[1])
    return 0
