"""When the latest attempts at a target are not what they should be, or not what they usually are.

Each worker looks at what it measured itself, and says so once an episode: what was too much must be
well below its limit again before it is said a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from proxy.config import Alerts
from proxy.figures import Figures
from proxy.ledger.errors import LedgerError
from proxy.spreads import Recent

LOOK_S = 5.0
"""How often is looked."""
ENDS_BELOW = 0.8
"""An episode is over below this share of its limit."""
LEAST_USUAL = 100
"""Fewer answers do not say what is usual."""

Kind = Literal["errors", "latency"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with a target."""

    kind: Kind
    target: str
    text: str


Raise = Callable[[Problem], Awaitable[object]]
"""Tells the ledger; raises `LedgerError`."""


class Baselines:
    """Compares figures with their limits. One per worker."""

    def __init__(self, limits: Alerts, figures: Figures) -> None:
        self._limits = limits
        self._figures = figures
        self._episodes: set[tuple[str, Kind]] = set()

    def follow(self, limits: Alerts) -> None:
        """Go by other limits."""
        self._limits = limits

    def look(self) -> list[Problem]:
        """What has begun since the last look."""
        begun: list[Problem] = []
        targets = self._figures.measured_targets()
        for target in targets:
            recent = self._figures.recent(target)
            if recent.attempts < self._limits.least_attempts:
                continue
            begun += self._judge(target, "errors", *self._errors(recent))
            begun += self._judge(target, "latency", *self._latency(recent))
        self._episodes &= {(target, kind) for target in targets for kind in _KINDS}
        return begun

    def forget(self, problem: Problem) -> None:
        """It could not be told: say it again at the next look."""
        self._episodes.discard((problem.target, problem.kind))

    async def run(self, tell: Raise) -> NoReturn:
        """Look, and tell the ledger, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for problem in self.look():
                try:
                    await tell(problem)
                except LedgerError:
                    self.forget(problem)

    def _judge(self, target: str, kind: Kind, excess: float, text: str) -> list[Problem]:
        """`excess` is how many times the limit was reached."""
        episode = target, kind
        if excess < ENDS_BELOW:
            self._episodes.discard(episode)
        if excess <= 1 or episode in self._episodes:
            return []
        self._episodes.add(episode)
        return [Problem(kind=kind, target=target, text=f"{target}: {text}")]

    def _errors(self, recent: Recent) -> tuple[float, str]:
        most = self._limits.error_rate
        if most is None:
            return 0.0, ""
        text = (
            f"{recent.failures} of {recent.attempts} attempts of the last five minutes failed, "
            f"more than {most:.3g} of them"
        )
        # Where none may fail, one is too many.
        return recent.error_rate / most if most else recent.failures * 2.0, text

    def _latency(self, recent: Recent) -> tuple[float, str]:
        p95_ms, usual_ms = recent.p95_ms, recent.usual_p95_ms
        if p95_ms is None:
            return 0.0, ""
        most_ms, drift = self._limits.p95_latency_ms, self._limits.latency_drift
        over = 0.0 if most_ms is None else p95_ms / most_ms
        drifted = 0.0
        if drift is not None and usual_ms is not None and recent.usual_attempts >= LEAST_USUAL:
            drifted = p95_ms / (usual_ms * drift)
        text = f"95 % of the answers of the last five minutes began within {p95_ms:.0f} ms, "
        if over >= drifted:
            return over, f"{text}not within {most_ms or 0:g} ms"
        return drifted, f"{text}{p95_ms / (usual_ms or p95_ms):.1f} times what is usual"


_KINDS: tuple[Kind, ...] = ("errors", "latency")
