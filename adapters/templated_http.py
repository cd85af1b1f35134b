"""`http`: any other endpoint, asked by a template and read at the places that it names."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Unpack

import msgspec

from adapters.base import Call, Unsupported
from adapters.http.over_http import Account, Dispatch, HttpAdapter
from adapters.wire import chat_request, loose_json
from adapters.wire.chat_request import ChatRequest, Message
from adapters.wire.losses import Losses
from adapters.wire.templated_answers import ChatReader, VectorReader
from adapters.wire.templates import (
    PARAMETERS,
    ChatEndpoint,
    EmbeddingsEndpoint,
    Endpoints,
    fill,
    names_in,
)

Json = dict[str, Any]

_HERE = "this endpoint"


class TemplatedHttp(HttpAdapter):
    """One base URL with the endpoints that the operator described."""

    def __init__(self, *, endpoints: Endpoints | None, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a mistake in a template, and what HTTP cannot carry."""
        endpoints = endpoints or Endpoints()
        for where, problem in endpoints.problems():
            raise ValueError(f"{'.'.join(map(str, ('endpoints', *where)))}: {problem}")
        super().__init__(**account)
        self._chat = endpoints.chat
        self._embeddings = endpoints.embeddings
        self.speaks = endpoints.speaks

    async def prepare(self, call: Call) -> Dispatch:
        """The template with the values of the call."""
        if call.endpoint == "embeddings" and self._embeddings is not None:
            return _ask_vectors(call, self._embeddings)
        assert self._chat is not None, "a call for an endpoint that is not spoken"
        return _ask_chat(call, self._chat)

    async def models(self) -> Sequence[str]:
        """None: nobody knows how such a provider lists them."""
        return ()


def _ask_chat(call: Call, endpoint: ChatEndpoint) -> Dispatch:
    named = names_in(endpoint.request)
    request = chat_request.read(call.body)
    if request.most_tokens is not None and "max_tokens" not in named:
        # Never dropped: budgets hold what it allows.
        raise Unsupported("its template has no place for {{max_tokens}}", param="max_tokens")
    carried = named | {"messages", "max_completion_tokens"}
    losses = chat_request.without_others(call, carried, _HERE)
    members = loose_json.decode_as(_members, call.body)
    streamed = endpoint.stream if call.stream else None
    values = {name: members[name] for name in PARAMETERS if members.get(name) is not None}
    values |= _said(request, named, losses)
    values |= {"model": call.model, "messages": members["messages"], "stream": streamed is not None}
    if request.most_tokens is not None:
        values["max_tokens"] = request.most_tokens
    return Dispatch(
        path=(streamed and streamed.path) or endpoint.path,
        body=loose_json.encode(fill(endpoint.request, values)),
        headers=call.headers,
        reader=ChatReader(call.model, endpoint.response, streamed),
        dropped=losses.dropped,
    )


def _said(request: ChatRequest, named: Set[str], losses: Losses) -> Json:
    """The texts of the messages, by who they are from, where a template asks for texts."""
    if "messages" in named:
        return {}
    texts = [(m.role, _text(m, f"messages[{i}]", losses)) for i, m in enumerate(request.messages)]
    system = [text for role, text in texts if role in ("system", "developer")]
    others = [(role, text) for role, text in texts if role not in ("system", "developer")]
    if system and not named & {"system", "prompt"}:
        losses.refuse("messages", "its template has no place for a system message")
    if len(others) > 1 and "prompt" not in named:
        losses.refuse("messages", "its template has a place for the last message only")
    told = [text for _, text in others] if "system" in named else [text for _, text in texts]
    said = {
        "prompt": "\n\n".join(told),
        "last_user_message": next((text for role, text in reversed(others) if role == "user"), ""),
    }
    return said | ({"system": "\n\n".join(system)} if system else {})


def _text(message: Message, path: str, losses: Losses) -> str:
    if message.calls():
        losses.refuse(f"{path}.tool_calls", "its template has a place for text only")
    parts = message.parts()
    for i, part in enumerate(parts):
        if part.text is None or part.type != "text":
            losses.refuse(f"{path}.content[{i}]", "its template has a place for text only")
    return "".join(part.text or "" for part in parts)


class _VectorRequest(msgspec.Struct):
    input: str | list[str | int | list[int]]


_members = msgspec.json.Decoder(Json)
_vector_request = msgspec.json.Decoder(_VectorRequest)


def _ask_vectors(call: Call, endpoint: EmbeddingsEndpoint) -> Dispatch:
    named = names_in(endpoint.request)
    losses = chat_request.without_others(call, named | {"input"}, _HERE)
    asked = chat_request.decode(_vector_request, call.body).input
    inputs = [asked] if isinstance(asked, str) else asked
    if not all(isinstance(item, str) for item in inputs):
        raise Unsupported(f"{_HERE} takes texts, and no token ids", param="input")
    members = loose_json.decode_as(_members, call.body)
    values = {name: v for name, v in members.items() if v is not None}
    values |= {"model": call.model, "input": asked, "inputs": inputs}
    return Dispatch(
        path=endpoint.path,
        body=loose_json.encode(fill(endpoint.request, values)),
        headers=call.headers,
        reader=VectorReader(call.model, endpoint.response, len(inputs)),
        dropped=losses.dropped,
    )
