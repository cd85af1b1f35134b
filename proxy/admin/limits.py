"""Rate limits as bodies and answers have them: three fields beside the others."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.shapes import Body, Shown
from proxy.ledger.protocol import Limits

Rate = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class NewLimits(Body, frozen=True, kw_only=True):
    """Limits of something new; null or nothing is no limit."""

    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    concurrent: Rate | None = None

    def limits(self) -> Limits:
        """The limits."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent=self.concurrent,
        )


class ChangedLimits(Body, frozen=True, kw_only=True):
    """Limits to change; null takes one away."""

    requests_per_minute: Rate | UnsetType | None = UNSET
    tokens_per_minute: Rate | UnsetType | None = UNSET
    concurrent: Rate | UnsetType | None = UNSET

    def changes_limits(self) -> bool:
        """Whether any of them is named."""
        return any(getattr(self, name) is not UNSET for name in Limits.__struct_fields__)

    def changed(self, limits: Limits) -> Limits:
        """What becomes of the limits there are."""
        named = {name: getattr(self, name) for name in Limits.__struct_fields__}
        changes = {name: value for name, value in named.items() if value is not UNSET}
        return msgspec.structs.replace(limits, **changes)


class ShownLimits(Shown, frozen=True, kw_only=True):
    """Limits in an answer."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
