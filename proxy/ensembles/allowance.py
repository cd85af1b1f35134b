"""How much hedging is allowed: a share of the requests, and of what they cost. Pure.

Two accounts, both filled by requests and emptied by second attempts, so that neither share is ever
exceeded. Money is nano-USD; shares are counted in millionths, which add up exactly.
"""

from __future__ import annotations

MOST_SAVED = 20
"""Second attempts that can be saved up: a provider's bad minute is not all asked twice."""

_PPM = 1_000_000


class Allowance:
    """Of one virtual model in one worker."""

    def __init__(self, share: float) -> None:
        self._share_ppm = int(share * _PPM)
        self._saved_ppm = 0
        self._spent_nanousd = 0
        self._extra_nanousd = 0
        self._at_stake_nanousd = 0

    def came(self) -> None:
        """One more request."""
        self._saved_ppm = min(MOST_SAVED * _PPM, self._saved_ppm + self._share_ppm)

    def begin(self, most_nanousd: int) -> bool:
        """Whether a request may be asked twice, for so much more at most; if so, that is so."""
        extra = self._extra_nanousd + self._at_stake_nanousd + most_nanousd
        if self._saved_ppm < _PPM or extra * _PPM > self._share_ppm * self._spent_nanousd:
            return False
        self._saved_ppm -= _PPM
        self._at_stake_nanousd += most_nanousd
        return True

    def end(self, most_nanousd: int, extra_nanousd: int) -> None:
        """What began with such a `most` is over, and cost so much more than the answer."""
        self._at_stake_nanousd -= most_nanousd
        self._extra_nanousd += extra_nanousd

    def spend(self, cost_nanousd: int) -> None:
        """A request is over, and its answer alone cost so much."""
        self._spent_nanousd += cost_nanousd
