"""Errors that a provider reports inside an answer of status 200, streamed or whole."""

from __future__ import annotations

from adapters.base import UpstreamError

_LONGEST_MESSAGE = 2000


def reported(error: object) -> UpstreamError:
    """What an `error` member stands for: OpenAI's object, or a bare text in its place."""
    said = error if isinstance(error, dict) else {"message": error}
    return UpstreamError(
        _text(said.get("message")) or "the provider reported an error in its answer",
        status=200,
        type=_text(said.get("type")),
        code=_text(said.get("code")),
        param=_text(said.get("param")),
    )


def _text(value: object) -> str | None:
    """A value as text that can be encoded, whatever lone surrogates it had."""
    if value is None:
        return None
    return str(value)[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
