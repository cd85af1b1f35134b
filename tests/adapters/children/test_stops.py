from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.children.stops import Text, overlap

TEXT = st.text(alphabet="abé😀", max_size=12)


@given(text=TEXT, stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=3))
def test_no_way_of_cutting_the_bytes_changes_the_text(text: str, stops: list[str]) -> None:
    data = text.encode()
    whole, single = Text(stops), Text(stops)
    expected = whole.feed(data) + whole.end()
    found = ""
    for byte in data:
        found += single.feed(bytes([byte]))
        assert single.given == len(found)
        if single.is_stopped:
            break
    found += single.end()
    if single.is_stopped:
        # Bytes after the first stop to be complete are never looked at.
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        cut = text[: min(ends)]
        assert found == cut[: min(cut.find(stop) for stop in stops if stop in cut)]
    else:
        assert found == expected == text


@given(text=TEXT, mark=st.text(alphabet="ab", min_size=1, max_size=4))
def test_overlap_is_the_longest_beginning_of_a_mark(text: str, mark: str) -> None:
    lengths = [n for n in range(1, len(mark)) if text.endswith(mark[:n])]
    assert overlap(text, mark) == max(lengths, default=0)
