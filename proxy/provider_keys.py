"""The API keys of one provider, of which requests take turns.

A key that the provider limits rests for as long as it says, one that it refuses is left out until
the provider is configured anew, or the server starts again. Where none is left the one that is
nearest to use is used all the same: the provider's own words are better than ours. Which key it is
is known by its number, never by more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from adapters.base import Adapter, AdapterError, RateLimited, UpstreamAuth
from proxy.clock import Clock
from proxy.retry_after import asked_s

# How long a key rests that is limited, where the provider does not say; and at most.
REST_S = 10.0
LONGEST_REST_S = 3600.0

_logger = logging.getLogger("tollway")


@dataclass(slots=True, eq=False)
class Key:
    """One key, by the adapter that sends it."""

    number: int
    """Its place in `api_keys`, from 1 on; 0 where there is one key, or none."""
    adapter: Adapter
    rests_until: float = 0.0
    """In monotonic seconds."""
    is_refused: bool = False

    def is_usable(self, now: float) -> bool:
        """Whether the provider is likely to take it."""
        return not self.is_refused and self.rests_until <= now


class ProviderKeys:
    """The keys of one provider. Each worker has its own, and notices for itself."""

    def __init__(self, provider: str, adapters: Sequence[Adapter], clock: Clock) -> None:
        several = len(adapters) > 1
        self._provider = provider
        self._keys = [Key(n if several else 0, adapter) for n, adapter in enumerate(adapters, 1)]
        self._several = several
        self.only = None if several else self._keys[0]
        """The one key; None where there are several."""
        self._clock = clock
        self._turn = 0

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    @property
    def are_all_resting(self) -> bool:
        """Whether none of several keys is of use now. One key alone always is."""
        if not self._several:
            return False
        now = self._clock.monotonic()
        return not any(key.is_usable(now) for key in self._keys)

    def take(self, is_out: Callable[[int], bool] = lambda number: False) -> Key:
        """The key whose turn it is, but for those that are out while there is another."""
        if not self._several:
            return self._keys[0]
        now = self._clock.monotonic()
        in_turn = self._from(self._turn)
        self._turn = (self._turn + 1) % len(self._keys)
        usable = [key for key in in_turn if key.is_usable(now)]
        for key in usable:
            if not is_out(key.number):
                return key
        if usable:
            return usable[0]
        return min(in_turn, key=lambda key: (key.is_refused, key.rests_until))

    def after(self, key: Key, is_out: Callable[[int], bool] = lambda number: False) -> Key | None:
        """Another key for a request whose first was not taken, if one is of use.

        One that is out comes last.
        """
        now = self._clock.monotonic()
        others = (each for each in self._from(key.number) if each is not key)
        usable = [each for each in others if each.is_usable(now)]
        return min(usable, key=lambda each: is_out(each.number), default=None)

    def failed(self, key: Key, error: AdapterError) -> bool:
        """Heed what the provider said of a key; whether it was of the key at all."""
        if not self._several:
            return False
        if isinstance(error, RateLimited):
            wanted_s = asked_s(error.headers, self._clock.time())
            rest_s = min(LONGEST_REST_S, REST_S if wanted_s is None else wanted_s)
            key.rests_until = max(key.rests_until, self._clock.monotonic() + rest_s)
            return True
        if isinstance(error, UpstreamAuth):
            if not key.is_refused:
                key.is_refused = True
                _logger.warning(
                    "providers.%s.api_keys[%d]: the provider refuses this key (%d); it is left out "
                    "until it is replaced, or the server starts again",
                    self._provider,
                    key.number - 1,
                    error.status,
                )
            return True
        return False

    def _from(self, place: int) -> list[Key]:
        place %= len(self._keys)
        return [*self._keys[place:], *self._keys[:place]]
