"""JSON as it should not be: good values with one or two of their parts replaced or gone."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_JUNK: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**30, "", "a", "\ud83d"),
    *([], {}, [[]], [None], [1], {"a": None}, {"type": "x"}),
]
_GONE = object()


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> Any:
    """The value with parts of it replaced by something else, or left out."""
    value = good
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        places = list(_places(value))
        place = draw(st.sampled_from(places))
        value = _replaced(value, place, draw(st.sampled_from([*_JUNK, _GONE])))
    return value


def _places(value: Any, before: tuple[Any, ...] = ()) -> Any:
    yield before
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*before, key))


def _replaced(value: Any, place: tuple[Any, ...], junk: Any) -> Any:
    if not place:
        return None if junk is _GONE else junk
    key, *rest = place
    if not rest and junk is _GONE:
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if k != key}
        return [v for k, v in enumerate(value) if k != key]
    copied = value.copy()
    copied[key] = _replaced(value[key], tuple(rest), junk)
    return copied
