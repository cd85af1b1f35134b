"""A verdict: what was promised, what was measured, and whether the one is within the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One line of the table of promises, as it is shown.

    `is_met` is None where the run did not measure it; `beside` says what to compare it with.
    """

    name: str
    target: str
    measured: str = ""
    is_met: bool | None = None
    beside: str = ""

    @property
    def word(self) -> str:
        """Met, missed, or not measured."""
        if self.is_met is None:
            return NOT_MEASURED
        return "met" if self.is_met else "missed"


def at_most(
    name: str,
    limit: float,
    unit: str,
    values: Mapping[str, float],
    *,
    digits: int,
    beside: str = "",
) -> Verdict:
    """Whether every value is at most `limit`; without any value it was not measured.

    Values are shown with `digits` decimal places, each by its name; a single one may have none
    (`""`).
    """
    shown = (f"{key} {value:.{digits}f} {unit}".lstrip() for key, value in values.items())
    return Verdict(
        name=name,
        target=f"at most {limit:g} {unit}",
        measured=", ".join(shown),
        is_met=all(value <= limit for value in values.values()) if values else None,
        beside=beside if values else "",
    )
