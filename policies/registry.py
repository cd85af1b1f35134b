"""Policy name -> class. A policy of another package registers under `tollway.policies`.

One of the operator's own is a Python file with a class `Policy`, named by its path.
"""

from __future__ import annotations

import runpy
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from policies.balanced import Balanced
from policies.base import Policy
from policies.cascade import Cascading
from policies.cheapest import Cheapest
from policies.consensus import Agreed
from policies.learned import Learned
from policies.ordered import Ordered
from policies.race import Raced
from policies.weighted import Weighted

BUILT_IN: dict[str, type[Any]] = {
    Ordered.name: Ordered,
    Cheapest.name: Cheapest,
    Weighted.name: Weighted,
    Balanced.name: Balanced,
    Learned.name: Learned,
    Raced.name: Raced,
    Cascading.name: Cascading,
    Agreed.name: Agreed,
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a policy that has none."""


def names() -> tuple[str, ...]:
    """Every policy that `router.yaml` may name."""
    return (*BUILT_IN, *(point.name for point in entry_points(group="tollway.policies")))


def find(name: str) -> type[Any]:
    """The class of that name, or in the Python file of that path; raises `KeyError`.

    A file that cannot be run, or has no class `Policy`, is a `ValueError` that says so.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    for point in entry_points(group="tollway.policies"):
        if point.name == name:
            kind: type[Any] = point.load()
            return kind
    if name.endswith(".py"):
        return _in_file(Path(name))
    raise KeyError(name)


def options_of(kind: type[Any]) -> type[Any]:
    """The type of the options that a policy is made with."""
    found: type[Any] = getattr(kind, "Options", Options)
    return found


def make(name: str, options: Any = None) -> Policy:
    """The policy of that name with its options: a mapping, or a value of their type.

    Raises `KeyError` for an unknown one, `ValueError` for options that it does not have.
    """
    kind = find(name)
    wanted = options_of(kind)
    if not isinstance(options, wanted):
        options = msgspec.convert(options or {}, wanted)
    policy: Policy = kind() if wanted is Options else kind(options)
    return policy


@cache  # once: a server that runs must not meet a file that was changed meanwhile
def _in_file(path: Path) -> type[Any]:
    """The operator's own code, run as the program's own is: whoever writes the file may do so."""
    try:
        found = runpy.run_path(str(path), run_name=path.stem).get("Policy")
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises when it is run
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"{path}: has no class 'Policy'")
    return found
