"""`gemini`: Google's Gemini API with an API key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from adapters.base import Call, UpstreamError
from adapters.http.over_http import Dispatch, HttpAdapter
from adapters.wire import gemini_answer
from adapters.wire.gemini_answer import ChatReader, EmbeddingsReader
from adapters.wire.gemini_request import to_batch_embed, to_generate

_MOST_PAGES = 20


class Gemini(HttpAdapter):
    """One base URL with one key."""

    speaks = frozenset({"chat", "embeddings"})

    def credentials(self, api_key: str) -> Mapping[str, str]:
        """Google's own header."""
        return {"x-goog-api-key": api_key}

    async def prepare(self, call: Call) -> Dispatch:
        """See `HttpAdapter`."""
        model = _resource(call.model)
        if call.endpoint == "embeddings":
            translated = to_batch_embed(call, model)
            return Dispatch(
                path=f"/{quote(model)}:batchEmbedContents",
                body=translated.body,
                reader=EmbeddingsReader(call.model),
                dropped=translated.dropped,
            )
        translated = to_generate(call)
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        return Dispatch(
            path=f"/{quote(model)}:{method}",
            body=translated.body,
            reader=ChatReader(call.model),
            dropped=translated.dropped,
        )

    def error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error that an answer with an error status stands for."""
        return gemini_answer.error_of(status, headers, body)

    async def models(self) -> Sequence[str]:
        """The names that `GET /models` lists, without `models/`."""
        names: list[str] = []
        page = ""
        for _ in range(_MOST_PAGES):
            more, token = gemini_answer.read_models(await self.get(f"/models?pageSize=1000{page}"))
            names += more
            if token is None:
                break
            page = f"&pageToken={quote(token, safe='')}"
        return tuple(names)


def _resource(model: str) -> str:
    """The name as Google has it: tuned models have a collection of their own."""
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
