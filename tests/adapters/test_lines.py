from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import MalformedAnswer
from adapters.wire.lines import LineDecoder

BODY = '{"a":"ä"}\r\n\n  \n{"b":"\u2028"}\n{"c":1}'.encode()


def lines_of(*chunks: bytes, limit: int = 1000) -> list[bytes]:
    decoder = LineDecoder(limit=limit)
    lines = [line.strip() for chunk in chunks for line in decoder.feed(chunk)]
    rest = decoder.finish()
    return lines if rest is None else [*lines, rest]


@given(st.lists(st.integers(min_value=0, max_value=len(BODY)), max_size=10))
def test_however_the_bytes_are_cut_the_same_lines_come_out(places: list[int]) -> None:
    cuts = sorted(places)
    chunks = [BODY[a:b] for a, b in zip([0, *cuts], [*cuts, len(BODY)], strict=True)]
    expected = ['{"a":"ä"}', '{"b":"\u2028"}', '{"c":1}']
    assert lines_of(*chunks) == [line.encode() for line in expected]


def test_a_body_that_ends_with_its_last_line_has_no_rest() -> None:
    assert lines_of(b"{}\n \n") == [b"{}"]


@pytest.mark.parametrize("chunks", [[b"12345"], [b"123", b"45"], [b"123", b"45\n"], [b"12345\n1"]])
def test_a_line_without_bound_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(MalformedAnswer, match="4 bytes"):
        lines_of(*chunks, limit=4)


def test_a_line_of_just_the_limit_is_taken() -> None:
    decoder = LineDecoder(limit=4)
    assert decoder.feed(b"1234\n12") + decoder.feed(b"34\n") == [b"1234", b"1234"]
