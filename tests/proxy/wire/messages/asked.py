"""Messages requests for tests."""

from __future__ import annotations

import json
from typing import Any

from adapters.base import Endpoint
from proxy.wire.dialect import Identity, Sent, Upstream
from proxy.wire.messages.request import MessagesRequest, parse

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
IDENTITY = Identity(request_id="req_0123456789abcdef", model="fallback", created=1234567890)
NATIVE: frozenset[Endpoint] = frozenset({"chat", "messages"})


def body(**fields: Any) -> bytes:
    asked = {"model": "m", "max_tokens": 100, "messages": HELLO, **fields}
    return json.dumps({name: value for name, value in asked.items() if value != ...}).encode()


def request(**fields: Any) -> MessagesRequest:
    return parse(body(**fields))


def saying(*blocks: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def sent(asked: MessagesRequest, **how: Any) -> Sent:
    return asked.upstream(Upstream(model="real", **how))


def chat(asked: MessagesRequest, **how: Any) -> dict[str, Any]:
    """The chat that a request becomes."""
    value: dict[str, Any] = json.loads(sent(asked, **how).body)
    return value


def messages(*said: Any, **how: Any) -> list[dict[str, Any]]:
    """The messages of the chat that messages become."""
    found: list[dict[str, Any]] = chat(request(messages=list(said)), **how)["messages"]
    return found


def native(asked: MessagesRequest, **how: Any) -> dict[str, Any]:
    """The body as it goes to Anthropic."""
    value: dict[str, Any] = json.loads(sent(asked, speaks=NATIVE, **how).body)
    return value
