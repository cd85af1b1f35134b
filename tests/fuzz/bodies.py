"""Bodies that are nearly right: those of every endpoint, with faults in their bytes or values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "auto", "messages": _TURNS, "max_tokens": 9, "user": "a", "stream": True},
        {"model": "auto", "messages": [{"role": "user", "content": [_IMAGE]}], "n": 2},
        {"model": "auto", "messages": _TURNS, "tools": [_TOOL], "metadata": {"tags": ["a"]}},
    ],
    "/v1/messages": [
        {"model": "auto", "messages": _TURNS[1:], "max_tokens": 9, "system": "Be brief."},
        {"model": "auto", "messages": _TURNS[1:], "max_tokens": 9, "stream": True},
    ],
    "/v1/responses": [
        {"model": "auto", "input": "Hello", "max_output_tokens": 16, "store": False},
        {"model": "auto", "input": _TURNS[1:], "stream": True, "previous_response_id": None},
    ],
    "/v1/completions": [{"model": "auto", "prompt": ["Hello", "there"], "max_tokens": 9}],
    "/v1/embeddings": [{"model": "vectors", "input": ["Hello", "there"], "dimensions": 8}],
    "/v1/moderations": [{"model": "auto", "input": "Hello"}],
    "/v1/images/generations": [{"model": "auto", "prompt": "a gate", "size": "1024x1024"}],
    "/v1/audio/speech": [{"model": "auto", "input": "Hello", "voice": "alloy"}],
    "/v1/rerank": [{"model": "auto", "query": "toll", "documents": ["a", {"text": "b"}]}],
    "/v1/messages/count_tokens": [{"model": "auto", "messages": _TURNS[1:]}],
    "/v1/route": [{"model": "auto", "messages": _TURNS}],
}
_MEMBERS = ("stream", "max_tokens", "n", "user", "tools", "models", "x")
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 2**31, 2**63, 10**30, 1e308, "", "a", "10"),
    *(
        "\0",
        "\ud83d",
        "\u202e",
        "x" * 300,
        "up/m1",
        "../x",
        "{{7*7}}",
        [],
        {},
        [[]],
        [None],
        {"a": 1},
    ),
    *({"type": "text", "text": "a"}, {"role": "user", "content": "a"}, ["auto", "vectors"]),
)
_VALUES = tuple(map(json.dumps, _ODD))
_BYTES = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800"),
    *(b"1e999", b"NaN", b"-", b"0" * 400, b"[" * 200, b" " * 100, b"/*", b"\xef\xbb\xbf", b"null"),
)


def bodies(seed: int) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies without end; the same for the same seed."""
    chance = Random(seed)
    texts = {path: [json.dumps(each) for each in some] for path, some in BODIES.items()}
    paths = list(BODIES)
    while True:
        path = chance.choice(paths)
        body = json.loads(chance.choice(texts[path]))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            _change(body, chance)
        data = json.dumps(body).encode()
        if chance.random() < 0.3:
            data = _damaged(data, chance)
        yield path, data


def _change(value: Any, chance: Random) -> None:
    """Put something else in a place of an object or a list, or in one of what is within."""
    while True:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places or chance.random() < 0.1:
            break
        place = chance.choice(places)
        if not isinstance(value[place], dict | list) or chance.random() < 0.4:
            value[place] = _value(chance)
            return
        value = value[place]
    if isinstance(value, dict):
        value[chance.choice(_MEMBERS)] = _value(chance)
    else:
        value.append(_value(chance))


def _value(chance: Random) -> Any:
    return json.loads(chance.choice(_VALUES))


def _damaged(data: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((0, 0, 1, 5, len(data))))
    return data[:at] + chance.choice(_BYTES) + data[end:]
