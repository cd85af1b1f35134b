"""`POST /v1/rerank` and `/v2/rerank`: documents to rank, and their order.

Source: Cohere's API reference, "Rerank" (v2), whose shape Jina, LiteLLM and vLLM share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec

from adapters.base import Endpoint, MalformedAnswer
from proxy.pricing import Units, Usage
from proxy.wire import answers
from proxy.wire import body as wire_body
from proxy.wire import usage as wire_usage
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Whole
from proxy.wire.relayed import RelayedJson
from proxy.wire.tags import read as read_tags

# What a model may add to each pair of a query and a document: separators.
PAIR_TOKENS = 16

_MOST_SEARCHES = 10**6


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    query: str | dict[str, msgspec.Raw]
    documents: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]
    user: str | None = None


class _BilledUnits(msgspec.Struct):
    search_units: Any = None


class _Meta(msgspec.Struct):
    billed_units: _BilledUnits | None = None
    tokens: Any = None


class _Result(msgspec.Struct):
    index: Annotated[int, msgspec.Meta(ge=0)]
    relevance_score: float


class _Answer(answers.Answer):
    results: list[_Result] | None = None
    meta: _Meta | None = None


_fields = msgspec.json.Decoder(_Fields)
_document: msgspec.json.Decoder[str | dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    str | dict[str, msgspec.Raw]
)
_answer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankRequest(RelayedJson):
    """A request to rank documents."""

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer as it came."""
        answer = answers.read(body, _answer)
        if answer.results is None:
            raise MalformedAnswer("the provider's answer has no results")
        facts = Facts(
            usage=self._taken(answer),
            output_bytes=0,
            cost=wire_usage.reported_cost(body) if reads_cost else None,
        )
        count = len(self.units.document_bytes)
        is_sane = all(result.index < count for result in answer.results)
        return facts, Whole(body=body) if is_sane else None

    def _taken(self, answer: _Answer) -> Usage:
        meta = answer.meta or _Meta()
        units = self.units
        searches = meta.billed_units.search_units if meta.billed_units else None
        if isinstance(searches, int | float) and 0 < searches <= _MOST_SEARCHES:
            units = replace(units, searches=-int(-searches // 1))
        return Usage(
            input_tokens=_tokens(answer.usage) or _tokens(meta.tokens),
            output_tokens=0,
            units=units,
        )


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> RerankRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    query = len(memoryview(body.members["query"]))
    pairs = tuple(len(memoryview(each)) + query + PAIR_TOKENS for each in fields.documents)
    named, withheld = read_tags(body)
    return RerankRequest(
        endpoint="rerank",
        capability="rerank",
        body=body,
        model=fields.model,
        text_bytes=sum(pairs),
        units=Units(document_bytes=pairs),
        unbounded=_unbounded(fields),
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


def _unbounded(fields: _Fields) -> str | None:
    """Images that are ranked or asked for with: what they take in tokens, nobody knows here."""
    if isinstance(fields.query, dict) and fields.query.keys() - {"text"}:
        return "query"
    for index, raw in enumerate(fields.documents):
        path = f"documents[{index}]"
        try:
            document = _document.decode(raw)
        except msgspec.ValidationError as error:
            raise wire_body.invalid(error, path) from None
        if isinstance(document, dict) and any(map(_is_media, document.items())):
            return path
    return None


def _is_media(member: tuple[str, msgspec.Raw]) -> bool:
    """Whether a member of a document is more than text: vLLM has images in a list of parts."""
    name, value = member
    return name.startswith(("image", "video", "audio", "pdf")) or memoryview(value)[0] in b"[{"


def _tokens(usage: object) -> int:
    """The tokens that were ranked, however they are called; 0 where they are not told."""
    told = usage if isinstance(usage, dict) else {}
    counts = (told.get(name) for name in ("total_tokens", "input_tokens", "prompt_tokens"))
    return next((count for count in counts if type(count) is int and 0 < count < 10**10), 0)
