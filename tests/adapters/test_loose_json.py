from __future__ import annotations

import json

import msgspec
import pytest

from adapters.wire import loose_json


class Said(msgspec.Struct):
    text: str
    number: float = 0.0


DECODER = msgspec.json.Decoder(Said)


def test_a_surrogate_that_stands_alone_is_kept() -> None:
    said = loose_json.decode_as(DECODER, b'{"text":"a\\ud83d","number":1.5}')
    assert said == Said("a\ud83d", 1.5)
    assert json.loads(loose_json.encode({"a": [said.text]})) == {"a": ["a\ud83d"]}


@pytest.mark.parametrize("text", [b'{"text":5}', b'{"text":5,"x":"\\ud83d"}'])
def test_another_type_is_told_apart_from_what_is_no_json(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        loose_json.decode_as(DECODER, text)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"text":"\xff"}',
        b'{"text":"\\ud83d","number":NaN}',
        b'{"text":"\\ud83d","number":1e999}',
    ],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # of any kind but one
        loose_json.decode_as(DECODER, text)
    assert not isinstance(caught.value, msgspec.ValidationError)
