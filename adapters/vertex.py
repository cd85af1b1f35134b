"""`vertex`: Google Cloud's Vertex AI, with Google's own models and Anthropic's.

Sources: Google Cloud's documentation, "Generate content with the Gemini API", "Text embeddings
API", "Gemini Embedding 2", "Use Claude models from Anthropic" and "Regional and global endpoints".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from adapters.base import Call, Endpoint, MalformedAnswer, Unsupported, UpstreamError
from adapters.http.over_http import Dispatch, EventReader, HttpAdapter
from adapters.wire import anthropic_failures, chat_request, gemini_answer, loose_json
from adapters.wire.anthropic_answer import ChatReader as ClaudeReader
from adapters.wire.anthropic_answer import MessagesReader
from adapters.wire.anthropic_elsewhere import betas_of, is_claude, members_of
from adapters.wire.gemini_answer import ChatReader
from adapters.wire.gemini_request import to_generate
from adapters.wire.losses import invalid

if TYPE_CHECKING:
    from adapters.http.google_tokens import Tokens

VERSION = "vertex-2023-10-16"

_CLAUDE: Set[Endpoint] = frozenset({"chat", "messages", "count_tokens"})
_GOOGLES: Set[Endpoint] = frozenset({"chat", "embeddings"})
_CARRIED = frozenset({"input", "dimensions", "task_type", "title"})
# Within which the type of an answer stands.
_HEAD_BYTES = 100


def speaks(model: str) -> Set[Endpoint]:
    """The endpoints that a model can be asked at."""
    return _CLAUDE if is_claude(model) else _GOOGLES


def address(region: str) -> str:
    """Where a region is served: the whole world, one of the unions of regions, or one alone."""
    if region == "global":
        return "https://aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com"
    return f"https://{region}-aiplatform.googleapis.com"


class Vertex(HttpAdapter):
    """One project in one region."""

    speaks = _CLAUDE | _GOOGLES

    def __init__(
        self,
        *,
        project: str,
        region: str,
        credentials_file: Path | None = None,
        base_url: str = "",
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http2: bool = False,
        ca_bundle: Path | None = None,
    ) -> None:
        """Raises `ValueError` for what HTTP cannot carry, and for an API key, which is of no use.

        Also `OSError` and `ValueError` for a file without credentials, and `ImportError` where
        google-auth is missing.
        """
        if api_key:
            raise ValueError("'api_key' is for Gemini's own API; use 'credentials_file' or none")
        given = {name.lower(): value for name, value in (headers or {}).items()}
        self._betas = given.pop("anthropic-beta", "")
        self._place = f"/v1/projects/{quote(project, safe=':')}/locations/{quote(region, safe='')}"
        self._tokens = _tokens(credentials_file)
        super().__init__(
            base_url=base_url or address(region),
            headers=given,
            proxy=proxy,
            http2=http2,
            ca_bundle=ca_bundle,
        )

    async def prepare(self, call: Call) -> Dispatch:
        """See `HttpAdapter`; raises `UpstreamAuth` where there is no token."""
        dispatch = self._claude(call) if is_claude(call.model) else self._googles(call)
        headers = {"authorization": f"Bearer {await self._tokens.token()}"}
        self.guard(headers)
        return msgspec.structs.replace(dispatch, headers={**dispatch.headers, **headers})

    def _claude(self, call: Call) -> Dispatch:
        members, dropped = members_of(call)
        members = {"anthropic_version": VERSION, **members}
        model, method = call.model, "rawPredict"
        reader: EventReader = MessagesReader()
        if call.endpoint == "count_tokens":
            members["model"], model = call.model, "count-tokens"
        elif call.stream:
            members["stream"], method = True, "streamRawPredict"
        if call.endpoint == "chat":
            reader = ClaudeReader(call.model)
        betas = betas_of(call, self._betas)
        return Dispatch(
            path=self._path("anthropic", model, method),
            body=loose_json.encode(members),
            reader=reader,
            headers={"anthropic-beta": ",".join(betas)} if betas else {},
            dropped=dropped,
        )

    def _googles(self, call: Call) -> Dispatch:
        if call.endpoint == "embeddings":
            return self._embeddings(call)
        if call.endpoint != "chat":
            raise invalid("model", f"Vertex AI has {call.model!r} for chat and embeddings only")
        translated = to_generate(call, on_vertex=True)
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        return Dispatch(
            path=self._path("google", call.model, method),
            body=translated.body,
            reader=ChatReader(call.model),
            dropped=translated.dropped,
        )

    def _embeddings(self, call: Call) -> Dispatch:
        method = "embedContent" if _embeds_content(call.model) else "predict"
        body, dropped = _to_embed_content(call) if method == "embedContent" else _to_predict(call)
        return Dispatch(
            path=self._path("google", call.model, method),
            body=body,
            reader=_Embeddings(call.model),
            dropped=dropped,
        )

    def _path(self, publisher: str, model: str, method: str) -> str:
        named = quote(model.removeprefix("models/"), safe="@")
        return f"{self._place}/publishers/{publisher}/models/{named}:{method}"

    def error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error in Anthropic's words or in Google's: both may come from either's models."""
        if b'"type":"error"' in body[:_HEAD_BYTES].replace(b" ", b""):
            return anthropic_failures.error_of(status, headers, body)
        return gemini_answer.error_of(status, headers, body)

    async def models(self) -> Sequence[str]:
        """None: a project has no list of what its region's publishers offer it."""
        return ()

    async def aclose(self) -> None:
        """Close idle connections, and let go of a token that is being fetched."""
        await self._tokens.aclose()
        await super().aclose()


def _tokens(credentials_file: Path | None) -> Tokens:
    try:
        from adapters.http.google_tokens import Tokens  # most installations do without google-auth
    except ImportError as error:
        raise ImportError(f"{error}; install tollway[vertex]") from None
    return Tokens(credentials_file)


# --- embeddings -----------------------------------------------------------------------------------


class _Asked(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: chat_request.Count | None = None
    task_type: str | None = None
    title: str | None = None


_asked = msgspec.json.Decoder(_Asked)


def _embeds_content(model: str) -> bool:
    """Whether a model is asked for one vector at a time, in the newer of the two dialects."""
    return "gemini" in model and model != "gemini-embedding-001"


def _read_embeddings(call: Call, *, most: int | None) -> tuple[_Asked, list[str], list[str]]:
    """What is asked, its texts, and what is left out."""
    losses = chat_request.without_others(call, _CARRIED, "Vertex AI")
    asked = chat_request.decode(_asked, call.body)
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise Unsupported("Vertex AI embeds text, and no token ids ('input')", param="input")
    if most is not None and len(texts) > most:
        # Without its input a request means nothing: `drop_params` cannot help.
        why = f"{call.model!r} takes one text a request ('input')"
        raise Unsupported(why, param="input")
    return asked, texts, losses.dropped


def _to_predict(call: Call) -> tuple[bytes, list[str]]:
    asked, texts, dropped = _read_embeddings(
        call, most=1 if call.model == "gemini-embedding-001" else None
    )
    more = _without_none({"task_type": asked.task_type, "title": asked.title})
    body: dict[str, Any] = {"instances": [{"content": text, **more} for text in texts]}
    if asked.dimensions is not None:
        body["parameters"] = {"outputDimensionality": asked.dimensions}
    return loose_json.encode(body), dropped


def _to_embed_content(call: Call) -> tuple[bytes, list[str]]:
    asked, texts, dropped = _read_embeddings(call, most=1)
    body: dict[str, Any] = {"content": {"parts": [{"text": text} for text in texts]}}
    config = {
        "taskType": asked.task_type,
        "title": asked.title,
        "outputDimensionality": asked.dimensions,
    }
    if config := _without_none(config):
        body["embedContentConfig"] = config
    return loose_json.encode(body), dropped


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


class _Statistics(msgspec.Struct):
    token_count: float = 0


class _Vector(msgspec.Struct):
    values: list[float]
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Vector


class _Used(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0


class _Answered(msgspec.Struct, rename="camel"):
    """The answer of either method."""

    predictions: list[_Prediction] | None = None
    embedding: _Vector | None = None
    usage_metadata: _Used | None = None

    def vectors(self) -> list[_Vector]:
        """The vectors, in the order of the texts."""
        if self.embedding is not None:
            return [self.embedding]
        return [prediction.embeddings for prediction in self.predictions or ()]

    def tokens(self) -> int:
        """How many tokens were read; 0 where that is not told."""
        if self.usage_metadata is not None:
            return self.usage_metadata.prompt_token_count
        counts = (v.statistics.token_count for v in self.vectors() if v.statistics is not None)
        return int(sum(counts))


_answered = msgspec.json.Decoder(_Answered)


class _Embeddings(EventReader):
    """Brings the answer to one request for embeddings into OpenAI's shape."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`."""
        try:
            said = _answered.decode(body)
        except (ValueError, RecursionError):
            raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
        data = [
            {"object": "embedding", "index": index, "embedding": vector.values}
            for index, vector in enumerate(said.vectors())
        ]
        if not data:
            raise MalformedAnswer("the provider's answer has no embeddings")
        answer: dict[str, Any] = {"object": "list", "data": data, "model": self._model}
        if tokens := said.tokens():
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return loose_json.encode(answer)
