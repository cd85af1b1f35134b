"""The operator's own requests: what a check asks, through the engine like anybody's."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from proxy.auth import Caller
from proxy.engine import Engine
from proxy.errors import ApiError, InvalidRequest
from proxy.http import Exchange, Message
from proxy.pricing import parse_usd
from proxy.swaps.checks import Answered
from proxy.swaps.core import Check, Swap
from proxy.targets import Target
from proxy.wire import chat, embeddings
from proxy.wire.dialect import Request

_COST = b"x-tollway-cost-usd"


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said


class _Chat(msgspec.Struct):
    choices: list[_Choice]


_chat = msgspec.json.Decoder(_Chat)


async def ask(engine: Engine, swap: Swap, check: Check, target: Target) -> Answered:
    """What a target answers to a check: an attempt that is held, billed and tagged with the swap.

    Never raises what is the target's fault, or a budget's: that is the answer's `problem`.
    """
    caller = Caller(key_id="", name="operator", scopes=("global",), tags=(f"swap:{swap.swap_id}",))
    reply = _Reply()
    exchange = Exchange(
        {"type": "http", "method": "POST", "path": "/", "headers": []}, reply.receive, reply.send
    )
    began = time.perf_counter()
    try:
        await engine.serve(exchange, caller, _request(check, target))
        text = _text(bytes(reply.body)) if "chat" in target.capabilities else ""
    except ApiError as error:
        return Answered(problem=error.message)
    finally:
        if exchange.on_end is not None:
            exchange.on_end()
    return Answered(
        text=text,
        latency_ms=round((time.perf_counter() - began) * 1e3),
        cost_nanousd=parse_usd(reply.headers.get(_COST, b"0").decode()),
    )


def _request(check: Check, target: Target) -> Request:
    """The request of a check; raises `InvalidRequest` where a target answers nothing we can ask."""
    if "chat" in target.capabilities:
        messages = [{"role": "user", "content": check.prompt}]
        if check.system:
            messages.insert(0, {"role": "system", "content": check.system})
        body: dict[str, Any] = {"model": target.name, "messages": messages}
        return chat.parse(msgspec.json.encode({**body, target.max_tokens_field: check.max_tokens}))
    if "embeddings" in target.capabilities:
        return embeddings.parse(
            msgspec.json.encode({"model": target.name, "input": check.prompt}), {}
        )
    raise InvalidRequest(f"{target.name!r} answers no prompts, so it cannot be checked")


def _text(body: bytes) -> str:
    try:
        choices = _chat.decode(body).choices
    except msgspec.DecodeError:
        return ""
    return (choices[0].message.content or "") if choices else ""


class _Reply:
    """The client's side of an exchange without a connection."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()

    async def receive(self) -> Message:
        """Nothing is to come, and this client does not leave."""
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def send(self, message: Message) -> None:
        """Keep what is said."""
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
        else:
            self.body += message.get("body", b"")
