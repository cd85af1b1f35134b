from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire import tags
from proxy.wire.body import Body


def read(metadata: str) -> tuple[tuple[str, ...], dict[str, bytes | None]]:
    return tags.read(Body.parse(b'{"metadata": %s}' % metadata.encode()))


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ('{"tags": "a"}', ("a",)),
        ('{"tags": " a , b c,,a,", "x": "y"}', ("a", "b c", "a")),
        ('{"tags": ""}', ()),
        ('{"tags": null}', ()),
        ('{"x": "tags"}', ()),
        ('{"x": "\\"tags\\""}', ()),
        ("null", ()),
    ],
)
def test_tags_in_a_string_stay_where_openai_knows_them(
    metadata: str, found: tuple[str, ...]
) -> None:
    assert read(metadata) == (found, {})


@given(
    names=st.lists(st.text()),
    rest=st.dictionaries(st.text().filter(lambda name: name != "tags"), st.text(), max_size=3),
)
def test_a_list_of_tags_is_read_and_stays_here(names: list[str], rest: dict[str, str]) -> None:
    # Escaped, and not: surrogates that stand alone can only be escapes.
    for is_ascii in (True, False):
        found, change = read(json.dumps({**rest, "tags": names}, ensure_ascii=is_ascii))
        assert found == tuple(names)
        sent = change["metadata"]
        assert (None if sent is None else json.loads(sent)) == (rest or None)


@pytest.mark.parametrize(
    ("metadata", "found", "rest"),
    [
        (r'{"tags": ["\ud800"]}', ("\ufffd",), None),
        (r'{"tags": "a,\udfff"}', ("a", "\ufffd"), None),
        (r'{"tags": ["a"], "x": "\ud83d"}', ("a",), {"x": "\ufffd"}),
        (r'{"tags": ["a"], "\ud83d": "x"}', ("a",), {"\ufffd": "x"}),
    ],
)
def test_surrogates_that_stand_alone_are_no_error(
    metadata: str, found: tuple[str, ...], rest: dict[str, str] | None
) -> None:
    named, change = read(metadata)
    assert named == found
    sent = change.get("metadata")
    assert (None if sent is None else json.loads(sent)) == rest


@pytest.mark.parametrize(
    "metadata",
    ['{"tags": 1}', '{"tags": [1]}', '{"tags": {"a": 1}}', '{"tags": [["a"]]}', '["tags"]'],
)
def test_what_cannot_be_tags_is_the_requests_fault(metadata: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(metadata)
    assert refused.value.param == "metadata.tags"
