"""`ollama`: an Ollama server by its own API, which alone has a say in the context length."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

import msgspec

from adapters.base import AdapterError, Call, Deadlines, MalformedAnswer, UpstreamError
from adapters.http.over_http import MAX_ANSWER_BYTES, Account, Dispatch, HttpAdapter, Reader
from adapters.http.transport import Response
from adapters.listing import Listed, Progress
from adapters.wire import loose_json
from adapters.wire.lines import LineDecoder
from adapters.wire.ollama_answer import ChatReader, CompletionReader, EmbeddingsReader
from adapters.wire.ollama_request import Translated, to_chat, to_embed, to_generate

# What Ollama gives a model at the least where nothing is said ("FAQ": context window size).
_LEAST_CONTEXT = 4096
_NUMBER = re.compile(r"[0-9]{1,9}")
_ASIDE = Deadlines(connect_s=5.0, first_byte_s=5.0, idle_s=5.0)
# Asking for every model of a long list is left to the next time after so long, so many at a time.
_SHOW_S = 0.5
_AT_ONCE = 4
# A pull tells its progress a few times a second, but verifies a large file in silence.
_PULL = Deadlines(connect_s=5.0, first_byte_s=60.0, idle_s=600.0)
# Its words for what a model can do, and ours. What chats also follows a schema.
_CAPABILITIES: Mapping[str, frozenset[str]] = {
    "completion": frozenset({"chat", "json_schema", "logprobs"}),
    "embedding": frozenset({"embeddings"}),
    **{name: frozenset({name}) for name in ("tools", "vision", "audio", "thinking")},
}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,4})?)([KMBT])")
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


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
        self._digests: dict[str, object] = {}
        """Which version of a model it is that was shown."""

    async def prepare(self, call: Call) -> Dispatch:
        """See `HttpAdapter`. Asks the server what is loaded, before it asks the model."""
        path, translated, reader = _translate(call)
        context = None
        if translated.needs_context is not None:
            # Another length than the operator's would load the model anew.
            context = call.context_length
            if context is None:
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
            context_length=length if type(length) is int and 0 < length < 1 << 31 else 0,
            num_ctx=_parameter(said.parameters or "", "num_ctx"),
        )
        self._shown[model] = shown
        return shown

    async def models(self) -> Sequence[str]:
        """The names of the models that `GET /api/tags` lists."""
        listed = _decode(_running, await self.get("/api/tags"))
        return tuple(entry.name for entry in listed.models or ())

    async def listed(self) -> Sequence[Listed]:
        """Its models, what they can do, and which are loaded.

        Each is shown once, and again when it has changed.
        """
        tags = _decode(_running, await self.get("/api/tags")).models or ()
        try:
            running = _decode(_running, await self._ask("GET", "/api/ps")).models or ()
        except AdapterError:
            running = ()
        loaded = {entry.name for entry in running}
        await self._show_changed(tags)
        return tuple(
            _listed(entry, self._shown.get(entry.name), is_loaded=entry.name in loaded)
            for entry in tags
        )

    async def _show_changed(self, tags: Sequence[_Entry]) -> None:
        names = {entry.name for entry in tags}
        for gone in self._shown.keys() - names:
            self._forget(gone)
        for entry in tags:
            if entry.digest != self._digests.get(entry.name, entry.digest):
                self._forget(entry.name)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def show(entry: _Entry) -> None:
            async with gate:
                try:
                    await self.show(entry.name)
                except AdapterError:
                    return
                self._digests[entry.name] = entry.digest

        asked = [show(entry) for entry in tags if entry.name not in self._shown]
        try:
            async with asyncio.timeout(_SHOW_S):
                await asyncio.gather(*asked)
        except TimeoutError:
            return

    def _forget(self, model: str) -> None:
        self._shown.pop(model, None)
        self._digests.pop(model, None)

    async def pull(self, model: str) -> AsyncIterator[Progress]:
        """Have the server fetch a model, and tell how far it is; raises `AdapterError`."""
        body = loose_json.encode({"model": model, "stream": True})
        headers = {"content-type": "application/json"}
        response = await self._transport.post("/api/pull", headers, body, _PULL)
        layers: dict[str, tuple[int, int]] = {}
        try:
            await self.check(response)
            lines = LineDecoder()
            last = ""
            while chunk := await response.read():
                for line in lines.feed(chunk):
                    last = _pulled(line, layers)
                    done = sum(completed for completed, _ in layers.values())
                    total = sum(size for _, size in layers.values())
                    yield Progress(status=last, done_bytes=done, total_bytes=total)
            if last != "success":
                raise MalformedAnswer("the server stopped in the middle of fetching the model")
        finally:
            response.close()

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
    """What else speaks this dialect may tell of a model is not always what it should be."""

    name: str
    context_length: int = 0
    digest: Any = None
    size: Any = None
    modified_at: Any = None
    details: Any = None


class _Entries(msgspec.Struct):
    models: list[_Entry] | None = None


class _Show(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] = {}
    parameters: str | None = None


class _Step(msgspec.Struct):
    status: str = ""
    error: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


_running = msgspec.json.Decoder(_Entries)
_step = msgspec.json.Decoder(_Step)
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


def _listed(entry: _Entry, shown: Shown | None, *, is_loaded: bool) -> Listed:
    details = entry.details if isinstance(entry.details, dict) else {}
    size = entry.size
    capabilities = None
    if shown is not None and shown.capabilities:
        told = (_CAPABILITIES.get(word, frozenset()) for word in shown.capabilities)
        capabilities = frozenset[str]().union(*told)
    return Listed(
        name=entry.name,
        capabilities=capabilities or None,
        context_length=(shown.context_length if shown else 0) or None,
        architecture=_text(details.get("family")),
        parameters=_parameters(_text(details.get("parameter_size"))),
        quantisation=_text(details.get("quantization_level")),
        size_bytes=size if type(size) is int and 0 < size < 1 << 53 else None,
        changed_at=_moment(_text(entry.modified_at)),
        is_loaded=is_loaded,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parameters(size: str) -> int | None:
    """`8.0B` as a number."""
    found = _SIZE.fullmatch(size)
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def _moment(text: str) -> int | None:
    """Unix seconds of a time with nanoseconds, which Python reads up to microseconds."""
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text))
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        return None


def _pulled(line: bytes, layers: dict[str, tuple[int, int]]) -> str:
    """Note what a line of a pull says of a layer; the status. Raises `UpstreamError`."""
    said = _decode(_step, line)
    if said.error:
        raise UpstreamError(said.error, status=502)
    if said.digest and 0 <= said.completed <= said.total < 1 << 53:
        layers[said.digest] = said.completed, said.total
    return str(said.status)
