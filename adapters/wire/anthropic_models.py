"""What each generation of Claude accepts, told by a model's name.

Sources: Anthropic's documentation, "Thinking", "Effort" and the migration guides from Claude
Opus 4.6 to Opus 5.5, Sonnet 5.5 and Haiku 5.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

EFFORTS = ("low", "medium", "high", "xhigh", "max")

_NEW_NAME = re.compile(r"(opus|sonnet|haiku|fable|mythos)-(\d)(?:[-.](\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(\d)(?:[-.](\d))?-(opus|sonnet|haiku)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What may be said to a model.

    `budgets`: it thinks a given number of tokens. `adapts`: it thinks as far as it finds good, to
    the effort asked for, one of `efforts`. `thinks_unasked`: it thinks where nothing is said.
    `off` is how thinking is turned off, None where it cannot be. `shows_thinking`: its thoughts
    are to be read unless asked otherwise. `samples`: it takes `temperature`, `top_p` and `top_k`,
    with `picks_one` not both of the former. `forces_tools`: a tool may be required.
    `hears_system`: a system message may stand among the others. `prefills`: it continues an
    answer that was begun for it.
    """

    budgets: bool = True
    adapts: bool = True
    efforts: tuple[str, ...] = EFFORTS
    thinks_unasked: bool = False
    off: Literal["disabled", "between_tools"] | None = "disabled"
    shows_thinking: bool = False
    samples: bool = True
    picks_one: bool = False
    forces_tools: bool = True
    hears_system: bool = False
    prefills: bool = True


UNKNOWN = Model()
"""A name that tells nothing: what is asked is passed on, for the provider to judge."""


@lru_cache(maxsize=1024)
def model_of(name: str) -> Model:
    """The model of a name, also as Amazon Bedrock and Google Cloud write it."""
    if found := _NEW_NAME.search(name):
        family, major, minor = found.groups()
    elif found := _OLD_NAME.search(name):
        major, minor, family = found.groups()
    else:
        return UNKNOWN
    return _model(family, (int(major), int(minor or 0)))


def prefills(name: str) -> bool:
    """Whether a name is that of a Claude that continues an answer which was begun for it."""
    model = model_of(name)
    return model is not UNKNOWN and model.prefills


def _model(family: str, version: tuple[int, int]) -> Model:
    always_thinks = family in ("fable", "mythos") or (family == "opus" and version >= (5, 5))
    off: Literal["disabled", "between_tools"] = (
        "between_tools" if family == "sonnet" and version >= (5, 5) else "disabled"
    )
    return Model(
        budgets=(3, 7) <= version <= (4, 6),
        adapts=version >= (4, 6),
        efforts=EFFORTS if version >= (4, 7) else ("low", "medium", "high", "max"),
        thinks_unasked=version >= (5, 0),
        off=None if always_thinks else off,
        shows_thinking=version <= (4, 6),
        samples=version < (4, 7),
        picks_one=version >= (4, 1),
        forces_tools=family == "haiku" or version <= (5, 0),
        hears_system=version >= (4, 8) and (family, version) != ("sonnet", (5, 0)),
        prefills=version < (4, 6),
    )
