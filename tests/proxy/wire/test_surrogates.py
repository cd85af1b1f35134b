"""Lone surrogate escapes are replaced, and nothing else is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.surrogates import without_lone


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDC4B tail"', rb'"\ufffd tail"'),
        (rb'"\ud83d\ud83d\udc4b"', rb'"\ufffd\ud83d\udc4b"'),
        (rb'"\udc4b\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\udc4b"', rb'"\ud83d\udc4b"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),  # a backslash, and the text "ud83d"
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\ud83d\n\udc4b"', rb'"\ufffd\n\ufffd"'),
        (rb'"\u00e9\ue000"', rb'"\u00e9\ue000"'),
    ],
)
def test_lone_surrogates_become_the_replacement_character(text: bytes, expected: bytes) -> None:
    assert without_lone(text) == expected


@given(st.text(st.characters() | st.sampled_from('\ud83d\udc4b\\"u')))
def test_whatever_the_text_it_becomes_encodable_at_the_same_length(text: str) -> None:
    encoded = json.dumps(text).encode()
    cleaned = without_lone(encoded)
    assert len(cleaned) == len(encoded)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert json.loads(cleaned) == expected
