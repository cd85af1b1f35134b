"""`openai_compatible`, and the providers that speak OpenAI's dialect in a way of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, Unpack

import msgspec

from adapters.base import Call, Endpoint, MalformedAnswer
from adapters.http.over_http import Account, Dispatch, EventReader, HttpAdapter
from adapters.listing import Listed
from adapters.presets import PLAIN, Preset
from adapters.wire import thoughts
from adapters.wire.failures import read_error
from adapters.wire.fitting import fit
from adapters.wire.ranking import cohere_ranking
from adapters.wire.response_events import ResponseEvents
from adapters.wire.sse import NamedPayload

_DONE = b"[DONE]"
# Below this many bytes a payload may be blank, or the end mark with blanks around it.
_SHORTEST_CHUNK = 32


class OpenAICompatible(HttpAdapter):
    """One base URL with one key; `preset` is what is known of who answers there."""

    speaks: Set[Endpoint] = PLAIN.speaks

    def __init__(self, *, preset: Preset = PLAIN, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        super().__init__(**account)
        self._preset = preset
        self._chat_reader = _CHAT_READERS[preset.answers]
        self.speaks = preset.speaks

    def path_of(self, call: Call) -> str:
        """What a call is posted to."""
        return self._preset.paths[call.endpoint]

    @property
    def models_path(self) -> str:
        """What lists the models."""
        return self._preset.models_path

    async def prepare(self, call: Call) -> Dispatch:
        """The call as it is, but for what this provider has otherwise or not at all."""
        endpoint = call.endpoint
        rules = self._preset.rules.get(endpoint)
        body, dropped = (call.body, ()) if rules is None else fit(call, rules)
        make_reader = self._chat_reader if endpoint == "chat" else _READERS.get(endpoint, Chunks)
        return Dispatch(
            path=self.path_of(call),
            body=body,
            headers=call.headers,
            reader=make_reader(),
            dropped=dropped,
        )

    async def models(self) -> Sequence[str]:
        """The ids that the provider lists."""
        return tuple(model.name for model in await self.listed())

    async def listed(self) -> Sequence[Listed]:
        """Its models, with what some servers tell of them besides."""
        try:
            said = _models.decode(await self.get(self.models_path))
        except (ValueError, RecursionError):
            raise MalformedAnswer(
                "the provider's list of models is not what it should be"
            ) from None
        models = said if isinstance(said, list) else said.data or said.models or ()
        also = {} if isinstance(said, list) else {m.name: m for m in said.models or ()}
        return tuple(
            _listed(model, also.get(model.id)) for model in models if model.id or model.name
        )


class _Model(msgspec.Struct):
    id: str = ""
    name: str = ""  # Cohere's, and llama-server's in a second list
    created: Any = None
    owned_by: Any = None
    meta: Any = None  # llama-server's
    max_model_len: Any = None  # vLLM's
    capabilities: Any = None  # llama-server's, in its second list


class _ModelList(msgspec.Struct):
    data: list[_Model] | None = None
    models: list[_Model] | None = None


_models = msgspec.json.Decoder(_ModelList | list[_Model])

# What llama-server does with any model, and what it says of those that see.
_LLAMA_SERVER = frozenset({"chat", "tools", "json_schema", "logprobs", "n"})
_SEES = "multimodal"


def _listed(model: _Model, also: _Model | None) -> Listed:
    """What an entry tells, each of it only where it is what it should be.

    Source: llama.cpp, tools/server/README.md; vLLM docs, "OpenAI-Compatible Server".
    """
    meta = model.meta if isinstance(model.meta, dict) else {}
    can = also.capabilities if also is not None else None
    sees = isinstance(can, list) and _SEES in can
    quantisation = meta.get("ftype")
    return Listed(
        name=model.id or model.name,
        capabilities=_LLAMA_SERVER | {"vision"} if sees else None,
        context_length=_count(meta.get("n_ctx"))
        or _count(meta.get("n_ctx_train"))
        or _count(model.max_model_len),
        parameters=_count(meta.get("n_params")),
        quantisation=quantisation if isinstance(quantisation, str) else "",
        size_bytes=_count(meta.get("size")),
        # It serves what it has loaded, and nothing else.
        is_loaded=True if meta else None,
        owner=model.owned_by if isinstance(model.owned_by, str) else "",
        created=type(model.created) is int,
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 53 else None


class Chunks(EventReader):
    """OpenAI's events: the payloads before the end mark, without those that say nothing."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """See `adapters.http.over_http.Reader`."""
        if payloads[-1] == _DONE and type(payloads[-1]) is bytes:
            self.is_done = True
            payloads = payloads[:-1]
        # Nearly all are long and without a name, which is told for all of them at once.
        is_long = min(map(len, payloads), default=0) >= _SHORTEST_CHUNK
        if is_long and NamedPayload not in map(type, payloads):
            return payloads
        return self._read_one_by_one(payloads)

    def _read_one_by_one(self, payloads: list[bytes]) -> list[bytes]:
        ready: list[bytes] = []
        for payload in payloads:
            if isinstance(payload, NamedPayload):
                payload = _unnamed(payload)
            if len(payload) < _SHORTEST_CHUNK:
                payload = payload.strip()
            if payload == _DONE:
                self.is_done = True
                break
            if payload:
                ready.append(payload)
        return ready


class _Thoughts(Chunks):
    """Events and answers that call a thought `reasoning`."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        return [thoughts.renamed(payload) for payload in super().read_payloads(payloads)]

    def read_body(self, body: bytes) -> bytes:
        return thoughts.renamed(body)


class _Parts(Chunks):
    """Events and answers whose content may be a list of parts, thoughts among them."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        return [thoughts.joined(payload) for payload in super().read_payloads(payloads)]

    def read_body(self, body: bytes) -> bytes:
        return thoughts.joined(body)


class _Events(Chunks):
    """Events that have types, of which that of the last one is the end mark, and goes on too."""

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self._last = last

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        ready = super().read_payloads(payloads)
        self.is_done = self.is_done or any(self._is_last(payload) for payload in ready)
        return ready

    def _is_last(self, payload: bytes) -> bool:
        # Where a text merely quotes the type, the quotes around it are escaped.
        return b'"%b"' % self._last in payload


class _Ranking(Chunks):
    """A ranking, in Cohere's dialect or one that is much like it."""

    def read_body(self, body: bytes) -> bytes:
        return cohere_ranking(body)


_CHAT_READERS: Mapping[str, type[Chunks]] = {
    "plain": Chunks,
    "reasoning": _Thoughts,
    "parts": _Parts,
}
# Of the other endpoints, those whose answers have more to them than `Chunks` reads.
# Source: OpenAI's API reference, the streaming events of each.
_READERS: Mapping[Endpoint, Callable[[], EventReader]] = {
    "rerank": _Ranking,
    "responses": ResponseEvents,
    "images": partial(_Events, b"image_generation.completed"),
    "transcriptions": partial(_Events, b"transcript.text.done"),
    "speech": partial(_Events, b"speech.audio.done"),
}


def _unnamed(payload: NamedPayload) -> bytes:
    """The payload of an event with a name: OpenAI's dialect has none, but servers send some."""
    if payload.event == b"ping":
        return b""
    if payload.event != b"error":
        return payload
    said = read_error(payload)
    text = said.message or payload.decode(errors="replace")
    error = {"message": text, "type": said.type, "param": said.param, "code": said.code}
    return msgspec.json.encode({"error": error})
