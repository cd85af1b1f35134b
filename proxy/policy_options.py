"""`tier:NAME` in the options of a policy: a policy knows targets, and no tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_TIER = "tier:"


def spelt_out(
    options: Mapping[str, Any], targets_of: Callable[[str], Iterable[str]]
) -> dict[str, Any]:
    """The options with the targets of a tier in its place, in lists and as keys.

    What the options name by itself stays where it is named; a target of two tiers is in the first.
    """
    taken = {name for value in options.values() for name in _names(value)}

    def of(name: Any) -> Iterator[Any]:
        if not is_tier(name):
            yield name
            return
        for target in targets_of(name):
            if target not in taken:
                taken.add(target)
                yield target

    def changed(value: Any) -> Any:
        if not any(map(is_tier, _names(value))):
            return value
        if isinstance(value, dict):
            return {name: said for each, said in value.items() for name in of(each)}
        return [name for each in value for name in of(each)]

    return {key: changed(value) for key, value in options.items()}


def is_tier(name: object) -> bool:
    """Whether it stands for the targets of a tier."""
    return isinstance(name, str) and name.startswith(_TIER)


def _names(value: object) -> Iterator[str]:
    if isinstance(value, list | dict):
        yield from (each for each in value if isinstance(each, str))
