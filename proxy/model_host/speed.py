"""How fast a model has spoken lately."""

from __future__ import annotations

# Of so many tokens or more, the older half counts half.
_REMEMBERED_TOKENS = 20_000


class Speed:
    """The output tokens of answers, by the seconds that their callers waited for them."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Some more answers."""
        if tokens <= 0 or seconds <= 0:
            return
        self._tokens += tokens
        self._seconds += seconds
        if self._tokens > _REMEMBERED_TOKENS:
            self._tokens /= 2
            self._seconds /= 2

    @property
    def tokens_per_s(self) -> float:
        """0 before the first answer."""
        return self._tokens / self._seconds if self._seconds else 0.0
