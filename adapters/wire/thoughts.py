"""What a model thought, under the name that everybody else gives it: `reasoning_content`."""

from __future__ import annotations

from typing import Any

from adapters.wire import loose_json


def renamed(answer: bytes) -> bytes:
    """An event or answer without `reasoning` in place of `reasoning_content`.

    Text never holds the sign: in JSON, a quote within a text is escaped.
    """
    if b'"reasoning":' in answer and b'"reasoning_content":' not in answer:
        return answer.replace(b'"reasoning":', b'"reasoning_content":')
    return answer


def joined(answer: bytes) -> bytes:
    """An event or answer whose content is text, where it came as a list of parts (Mistral's)."""
    if b'"content":[' not in answer and b'"content": [' not in answer:
        return answer
    try:
        value = loose_json.decode(answer)
    except (ValueError, RecursionError):
        return answer  # whoever reads it next says what is wrong with it
    choices = value.get("choices") if isinstance(value, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for name in ("delta", "message"):
            message = choice.get(name) if isinstance(choice, dict) else None
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                _join(message)
    return loose_json.encode(value)


def _join(message: dict[str, Any]) -> None:
    parts = [part for part in message["content"] if isinstance(part, dict)]
    thought = "".join(_text(part.get("thinking")) for part in parts)
    message["content"] = "".join(_text(part.get("text")) for part in parts)
    if thought:
        message["reasoning_content"] = thought


def _text(value: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""
