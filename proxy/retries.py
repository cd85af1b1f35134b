"""How often a provider is asked again, and after how long.

A retry budget is a bucket of tokens: each request to the provider puts a share of one in, each
second some more, each retry takes one out. A provider that answers hardly needs any; one that is
down gets about a tenth more requests than it would get without retries, however many come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

# What the bucket of a server holds at most, in seconds of what flows in by itself.
_BURST_S = 3.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 8.0
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_MOST_DIGITS = 15


class RetryBudget:
    """What is left of the retries of one provider. One per worker.

    Never more than `burst + share * requests + per_s * seconds` retries. Times are monotonic.
    """

    def __init__(self, *, share: float, per_s: float, now: float) -> None:
        self._share = share
        self._per_s = per_s
        self.burst = max(1.0, _BURST_S * per_s) if share or per_s else 0.0
        """What it holds at most, and at first."""
        self._tokens = self.burst
        self._filled_at = now

    def deposit(self) -> None:
        """A request is going to ask the provider."""
        self._tokens = min(self.burst, self._tokens + self._share)

    def is_low(self, now: float) -> bool:
        """Whether more than half of it is gone."""
        self._fill(now)
        return self._tokens < self.burst / 2

    def withdraw(self, now: float) -> bool:
        """Take a retry out, if there is one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._filled_at)
        self._tokens = min(self.burst, self._tokens + passed_s * self._per_s)
        self._filled_at = now


def delay_s(retry: int, asked_s: float | None, draw: float) -> float:
    """How long to wait before a retry, the first of a request being number 1.

    `asked_s` is what the provider asks for, `draw` a random share: from 0 to 1 of a time that
    doubles, so that those who failed together do not come back together.
    """
    jitter = draw * min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** (retry - 1))
    return (asked_s or 0.0) + jitter


def asked_delay_s(headers: Mapping[str, str], now: float) -> float | None:
    """After how many seconds a provider wants to be asked again; None if it does not say.

    `retry-after-ms`, else `Retry-After` in seconds or as a date, else when the limit that is
    reached (`x-ratelimit-remaining-*: 0`) is whole again. `now` is in Unix seconds.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    after = headers.get("retry-after")
    if after is not None:
        seconds = _number(after)
        return _until(after, now) if seconds is None else seconds
    resets = [
        _span_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    return max((each for each in resets if each is not None), default=None)


def _number(text: str) -> float | None:
    text = text.strip()
    if not text.replace(".", "", 1).isdecimal() or not text.isascii() or len(text) > _MOST_DIGITS:
        return None
    return float(text)


def _until(text: str, now: float) -> float | None:
    """The seconds until an HTTP date, none of them if it has passed."""
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _span_s(text: str) -> float | None:
    """A span of time as OpenAI writes it: `120ms`, `59.2s`, `1m1.5s`, `6h0m0s`."""
    found = _SPAN.fullmatch(text.strip()) if 0 < len(text) <= 3 * _MOST_DIGITS else None
    if found is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1e3
