"""Policy name -> class. A policy of another package registers under `tollway.policies`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from policies.base import Policy
from policies.cheapest import Cheapest
from policies.learned import Learned
from policies.ordered import Ordered

BUILT_IN: Mapping[str, Callable[[], Policy]] = {
    Ordered.name: Ordered,
    Cheapest.name: Cheapest,
    Learned.name: Learned,
}


def names() -> tuple[str, ...]:
    """Every policy that `router.yaml` may name."""
    return (*BUILT_IN, *(point.name for point in entry_points(group="tollway.policies")))


def make(name: str) -> Policy:
    """The policy of that name; raises `KeyError` for an unknown one."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    for point in entry_points(group="tollway.policies"):
        if point.name == name:
            policy: Policy = point.load()()
            return policy
    raise KeyError(name)
