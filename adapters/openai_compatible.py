"""`openai_compatible`: OpenAI, and every server that speaks its dialect at some base URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from adapters.base import Call, Endpoint, MalformedAnswer
from adapters.failures import read_error
from adapters.over_http import Dispatch, EventReader, HttpAdapter
from adapters.sse import NamedPayload

_PATHS: Mapping[Endpoint, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
    "moderations": "/moderations",
    "images": "/images/generations",
    "transcriptions": "/audio/transcriptions",
    "speech": "/audio/speech",
}
_DONE = b"[DONE]"
# Below this many bytes a payload may be blank, or the end mark with blanks around it.
_SHORTEST_CHUNK = 32


class OpenAICompatible(HttpAdapter):
    """One base URL with one key."""

    speaks = frozenset(_PATHS)

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http2: bool = False,
        ca_bundle: Path | None = None,
    ) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        constant = {"authorization": f"Bearer {api_key}"} if api_key else {}
        super().__init__(
            base_url=base_url,
            headers={**constant, **{n.lower(): v for n, v in (headers or {}).items()}},
            proxy=proxy,
            http2=http2,
            ca_bundle=ca_bundle,
        )

    async def prepare(self, call: Call) -> Dispatch:
        """The call as it is: it is in this dialect already."""
        return Dispatch(
            path=_PATHS[call.endpoint], body=call.body, headers=call.headers, reader=_Chunks()
        )

    async def models(self) -> Sequence[str]:
        """The ids that `GET /models` lists."""
        try:
            listed = _models.decode(await self.get("/models"))
        except (ValueError, RecursionError):
            raise MalformedAnswer(
                "the provider's list of models is not what it should be"
            ) from None
        models = listed if isinstance(listed, list) else listed.data
        return tuple(model.id for model in models or ())


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model] | None = None


_models = msgspec.json.Decoder(_ModelList | list[_Model])


class _Chunks(EventReader):
    """OpenAI's events: the payloads before the end mark, without those that say nothing."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
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
