"""`POST /v1/embeddings` by a local model.

Source: OpenAI's API reference, "Create embeddings". base64 vectors are little-endian float32.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, Protocol

import msgspec

from adapters.base import ContextExceeded
from adapters.children.serving import Endpoint, Reply
from adapters.children.turns import ModelThread
from adapters.wire import chat_request
from adapters.wire.losses import invalid

MAX_INPUTS = 2048

_TokenId = Annotated[int, msgspec.Meta(ge=0)]
# Members that are read, besides hints.
CARRIED = frozenset({"model", "user", "encoding_format", "input", "dimensions", "truncate"})


class Encoder(Protocol):
    """A model that makes vectors; used in one thread only."""

    @property
    def context(self) -> int:
        """How many tokens a text may have."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""

    def tokens_of(self, text: str) -> list[int]:
        """A text as the model reads it, with the tokens that begin and end it."""

    def framed(self, tokens: list[int]) -> list[int]:
        """A client's own tokens with those that begin and end a text."""

    def shortened(self, tokens: list[int]) -> list[int]:
        """A text of no more tokens than `context`."""

    def encode(self, texts: Sequence[list[int]]) -> Iterator[list[float]]:
        """The vectors of texts, in their order, each of length 1; raises `turns.Abandoned`."""


class Asked(msgspec.Struct):
    """A request; `truncate` is Ollama's: long texts are cut instead of refused."""

    input: str | list[str | _TokenId | list[_TokenId]]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate: bool | None = None


_asked = msgspec.json.Decoder(Asked)


def read(body: bytes) -> Asked:
    """The request in a body; raises `BadRequest` for all that cannot be done."""
    asked = chat_request.decode(_asked, body)
    for name in chat_request.names(body):
        if name not in CARRIED:
            raise invalid(name, "a local model has no such parameter")
    return asked


def endpoint(encoder: Encoder, thread: ModelThread) -> Endpoint:
    """The endpoint of the model that `encoder` runs in `thread`."""

    @asynccontextmanager
    async def answer(body: bytes) -> AsyncIterator[Reply]:
        asked = read(body)
        async with thread.run(lambda: _answer(encoder, asked)) as pieces:
            yield Reply(pieces=pieces)

    return answer


def _answer(encoder: Encoder, asked: Asked) -> Iterator[bytes]:
    if asked.dimensions not in (None, encoder.dimensions):
        raise invalid("dimensions", f"this model has {encoder.dimensions}")
    texts = [_tokens(encoder, item, asked) for item in _items(asked)]
    written = _base64 if asked.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": written(vector)}
        for index, vector in enumerate(encoder.encode(texts))
    ]
    count = sum(map(len, texts))
    usage = {"prompt_tokens": count, "total_tokens": count}
    answer: Mapping[str, Any] = {"object": "list", "data": data, "model": asked.model}
    yield msgspec.json.encode({**answer, "usage": usage})


def _items(asked: Asked) -> list[str | list[int]]:
    """What is to become a vector each: a list of numbers is one text in tokens."""
    given = asked.input
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid("input", "there is no text")
    if any(isinstance(item, int) for item in given):
        return [[_token(item) for item in given]]
    if len(given) > MAX_INPUTS:
        raise invalid("input", f"at most {MAX_INPUTS} texts are taken at once")
    return [item for item in given if not isinstance(item, int)]


def _token(item: object) -> int:
    if not isinstance(item, int):
        raise invalid("input", "texts and tokens cannot be mixed")
    return item


def _tokens(encoder: Encoder, item: str | list[int], asked: Asked) -> list[int]:
    if isinstance(item, str):
        tokens = encoder.tokens_of(item)
    elif any(token >= encoder.vocabulary for token in item):
        raise invalid("input", "this model has no such token")
    else:
        tokens = encoder.framed(item)
    if not item or not tokens:
        raise invalid("input", "there is nothing to make a vector of")
    if len(tokens) <= encoder.context:
        return tokens
    if asked.truncate:
        return encoder.shortened(tokens)
    raise ContextExceeded(
        f"This model's maximum context length is {encoder.context} tokens, however you requested "
        f"{len(tokens)} tokens. Please reduce your prompt, or send 'truncate': true.",
        status=400,
        type="invalid_request_error",
        param="input",
        code="context_length_exceeded",
    )


def _base64(vector: list[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
