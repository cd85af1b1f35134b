"""Anthropic's requests as clouds take them: the model in the path, the version in the body.

Sources: Anthropic's documentation, "Claude on Amazon Bedrock", "Claude on Vertex AI", "Vision" and
"PDF support".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.base import Call
from adapters.wire import chat_request, loose_json
from adapters.wire.anthropic_request import to_messages
from adapters.wire.losses import Losses, invalid

_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_claude(model: str) -> bool:
    """Whether a cloud's name of a model is that of one of Anthropic's."""
    return "claude" in model or "anthropic." in model


@chat_request.bounded
def members_of(call: Call) -> tuple[dict[str, Any], Sequence[str]]:
    """The members of the Messages request but for `model` and `stream`; and what is left out.

    Raises `Unsupported` and `BadRequest`.
    """
    if call.endpoint == "chat":
        translated = to_messages(
            call.body,
            model=call.model,
            default_max_tokens=call.default_max_tokens,
            drop_params=call.drop_params,
        )
        losses = Losses(drop_params=call.drop_params)
        members = _as_clouds_take(translated.members, losses)
        return members, [*translated.dropped, *losses.dropped]
    members = _read(call.body)
    return {n: value for n, value in members.items() if n not in ("model", "stream")}, ()


def betas_of(call: Call, operators: str) -> list[str]:
    """The betas that the operator has on, and those that the client asks for."""
    given = f"{operators},{call.headers.get('anthropic-beta', '')}"
    return list(dict.fromkeys(beta for beta in map(str.strip, given.split(",")) if beta))


def _as_clouds_take(members: dict[str, Any], losses: Losses) -> dict[str, Any]:
    """Clouds fetch nothing from URLs, and have no tiers to choose from but by their own means."""
    members = {name: value for name, value in members.items() if name != "service_tier"}
    for turn in members["messages"]:
        turn["content"] = _without_urls(turn["content"], losses)
    return members


def _without_urls(blocks: list[Any], losses: Losses) -> list[Any]:
    kept = []
    for block in blocks:
        if isinstance(block.get("content"), list):  # what a tool gave back
            block = {**block, "content": _without_urls(block["content"], losses)}
        if (block.get("source") or {}).get("type") == "url":
            param = "image_url" if block["type"] == "image" else "file"
            losses.refuse(f"messages[].content[].{param}", "this cloud fetches nothing from URLs")
        else:
            kept.append(block)
    return kept


def _read(body: bytes) -> dict[str, Any]:
    try:
        return dict(_shallow.decode(body))
    except (ValueError, RecursionError):
        pass
    try:
        value = loose_json.decode(body)
    except (ValueError, RecursionError):
        raise invalid("body", "it is no JSON") from None
    if not isinstance(value, dict):
        raise invalid("body", "it is no JSON object")
    return value
