from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.children.schemas import _spelt_out, bounded

NAMES = st.sampled_from(
    ["type", "properties", "maxLength", "minItems", "pattern", "enum", "const", "items", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab{}1,", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(schema=st.dictionaries(NAMES, VALUES))
def test_a_modest_schema_stays_as_it_is(schema: dict[str, Any]) -> None:
    before = json.dumps(schema)
    assert json.dumps(bounded(schema)) == before


def test_what_allows_too_much_allows_all() -> None:
    inner = {"type": "string", "maxLength": 10**9, "minLength": 3}
    schema = {"properties": {"maxLength": inner}, "maxItems": 5e9, "const": {"maxLength": 10**9}}
    assert bounded(schema) == {
        "properties": {"maxLength": {"type": "string", "minLength": 3}},
        "const": {"maxLength": 10**9},
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"minLength": 1001},
        {"items": [{"minItems": 10**9}]},
        {"pattern": "a{1001}"},
        {"pattern": "a{0,99999999999999999999}"},
        {"pattern": "((a{40}){40}){40}"},
        {"pattern": "a" * 1001},
        {"properties": {str(number): {} for number in range(5001)}},
    ],
)
def test_what_asks_for_too_much_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at most"):
        bounded({"anyOf": [schema]})


@given(text=st.text(r"7a_- b]", max_size=6))
@pytest.mark.parametrize("pattern", [r"\d+", r"[\d-]+", r"\w\s", r"[a\s]+", r"\\d", r"\[\d\]", "-"])
def test_kinds_of_characters_spelt_out_match_the_same(pattern: str, text: str) -> None:
    spelt = re.compile(_spelt_out(pattern), re.ASCII)
    assert bool(spelt.fullmatch(text)) == bool(re.compile(pattern, re.ASCII).fullmatch(text))
    assert not re.search(r"(?<!\\)\\[dws]", spelt.pattern)
