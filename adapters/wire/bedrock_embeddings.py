"""OpenAI's embeddings for Amazon Bedrock's models that make them: Amazon's own and Cohere's.

Source: Amazon Bedrock's user guide, "Amazon Titan Text Embeddings" and "Cohere Embed".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.base import Call, MalformedAnswer, Unsupported
from adapters.http.over_http import EventReader
from adapters.wire import chat_request, loose_json

Json = dict[str, Any]

_CARRIED = frozenset({"input", "dimensions"})
_COHERES = _CARRIED | {"input_type", "truncate"}


class _Asked(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: chat_request.Count | None = None
    # Cohere's own; it must know what a vector is for.
    input_type: str = "search_document"
    truncate: str | None = None


_asked = msgspec.json.Decoder(_Asked)


def embeds(model: str) -> bool:
    """Whether a model makes vectors that this module knows how to ask for."""
    return is_cohere(model) or "titan-embed-text" in model


def is_cohere(model: str) -> bool:
    """Whether it is one of Cohere's, which take many texts at once."""
    return "cohere.embed" in model


def to_embed(call: Call) -> tuple[bytes, Sequence[str]]:
    """The body of an invocation, and what it leaves out; raises `Unsupported`, `BadRequest`."""
    carried = _COHERES if is_cohere(call.model) else _CARRIED
    losses = chat_request.without_others(call, carried, call.model)
    asked = chat_request.decode(_asked, call.body)
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = [text for text in given if isinstance(text, str)]
    # Without its input a request means nothing: `drop_params` cannot help.
    if len(texts) < len(given):
        raise Unsupported(f"{call.model!r} takes text, and no token ids", param="input")
    if is_cohere(call.model):
        body: Json = {"texts": texts, "input_type": asked.input_type, "truncate": asked.truncate}
        body["output_dimension"] = asked.dimensions
    elif len(texts) == 1:
        body = {"inputText": texts[0], "dimensions": asked.dimensions}
    else:
        raise Unsupported(f"{call.model!r} takes one text a request", param="input")
    body = {name: value for name, value in body.items() if value is not None}
    return loose_json.encode(body), losses.dropped


class _ByType(msgspec.Struct):
    vectors: list[list[float]] = msgspec.field(name="float")


class _Answered(msgspec.Struct, rename="camel"):
    """Titan's answer (one vector), or Cohere's."""

    embedding: list[float] | None = None
    input_text_token_count: int | None = None
    embeddings: list[list[float]] | _ByType | None = None

    def vectors(self) -> list[list[float]]:
        """The vectors, in the order of the texts."""
        if self.embedding is not None:
            return [self.embedding]
        found = self.embeddings
        return found.vectors if isinstance(found, _ByType) else found or []


_answered = msgspec.json.Decoder(_Answered)


class EmbeddingsReader(EventReader):
    """Brings the answer to one invocation into OpenAI's shape."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`."""
        try:
            said = _answered.decode(body)
        except (ValueError, RecursionError):
            raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
        vectors = said.vectors()
        if not vectors:
            raise MalformedAnswer("the provider's answer has no embeddings")
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        answer: Json = {"object": "list", "data": data, "model": self._model}
        if (tokens := said.input_text_token_count) is not None:
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return loose_json.encode(answer)
