"""Which targets a virtual model has left at this share of a spent budget.

The share is asked of the ledger, so that it is the same on every worker. It only counts what is
spent: within a calendar window that never becomes less, and a tier that was reached stays. Where
it does become less (a rolling window, a raised limit) a tier is left only well below its edge.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import Ask, Standing
from proxy.refusals import ledger_down
from proxy.targets import Downgrade, VirtualModel

PPM_PER_PERCENT = 10_000

LEAVE_PERCENT = 5
"""A tier is left when this much less is spent than what reached it."""

# Callers and models whose tier is remembered.
_MOST_REMEMBERED = 10_000


class Downgrades:
    """Chooses among a virtual model and its cheaper selves. One per worker."""

    def __init__(self, ledger: LedgerClient) -> None:
        self._ledger = ledger
        # The tier that was reached, while there is one, by model and scopes.
        self._reached: OrderedDict[tuple[str, tuple[str, ...]], int] = OrderedDict()

    async def spent_ppm(self, model: str, scopes: tuple[str, ...]) -> int:
        """The largest share spent of any hard budget of the scopes and the virtual model.

        Raises `LedgerDown`.
        """
        try:
            standing = await self._ledger.call(Ask(0, (*scopes, f"model:{model}")))
        except LedgerUnavailable as error:
            raise ledger_down(error) from None
        assert isinstance(standing, Standing)
        return standing.spent_ppm

    async def choose(
        self, model: VirtualModel, scopes: tuple[str, ...]
    ) -> tuple[VirtualModel, str]:
        """The model as it is now, and the name of its tier; "" for its full self.

        Raises `LedgerDown`.
        """
        spent_ppm = await self.spent_ppm(model.name, scopes)
        key = (model.name, scopes)
        tier = tier_at(model.downgrades, spent_ppm, self._reached.get(key, 0))
        if tier is None:
            self._reached.pop(key, None)
            return model, ""
        self._reached[key] = tier.at_percent
        self._reached.move_to_end(key)
        if len(self._reached) > _MOST_REMEMBERED:
            self._reached.popitem(last=False)
        return tier.model, f"{tier.at_percent}%"


def tier_at(tiers: tuple[Downgrade, ...], spent_ppm: int, reached: int) -> Downgrade | None:
    """The last tier whose share is spent. One up to `reached` percent stays a little longer."""

    def is_on(tier: Downgrade) -> bool:
        percent = tier.at_percent - (LEAVE_PERCENT if tier.at_percent <= reached else 0)
        return spent_ppm >= percent * PPM_PER_PERCENT

    return max(filter(is_on, tiers), key=lambda tier: tier.at_percent, default=None)
