"""Rankings of documents, in the dialect of Cohere's second version.

Sources: "Rerank API (v2)" (docs.cohere.com), "Rerankers" (docs.voyageai.com), Jina's reranker API.
"""

from __future__ import annotations

import msgspec


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    usage: _Usage | None = None
    meta: msgspec.Raw | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_answer = msgspec.json.Decoder(_Answer)


def cohere_ranking(answer: bytes) -> bytes:
    """The answer with `results` where it says `data` (Voyage), and `meta.tokens` where `usage`."""
    try:
        read = _answer.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return answer  # whoever reads it next says what is wrong with it
    changed: dict[str, object] = {}
    if read.results is None and read.data is not None:
        changed["results"] = read.data
    if read.meta is None and read.usage is not None:
        changed["meta"] = {"tokens": {"input_tokens": read.usage.total_tokens}}
    if not changed:
        return answer
    members = {n: raw for n, raw in _members.decode(answer).items() if n not in ("data", "object")}
    return msgspec.json.encode({**members, **changed})
