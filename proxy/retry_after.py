"""How long a server asks to be left alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_MOST_DIGITS = 15
_MOST_SECONDS_DIGITS = 9


def asked_s(headers: Mapping[str, str], now: float) -> float | None:
    """After how many seconds a provider wants to be asked again; None if it does not say.

    `retry-after-ms`, else `Retry-After` in seconds or as a date, else when the limit that is
    reached (`x-ratelimit-remaining-*: 0`) is whole again. `now` is in Unix seconds;
    the names of headers are in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    after = headers.get("retry-after")
    if after is not None:
        return seconds(after, now)
    resets = [
        _span_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    return max((each for each in resets if each is not None), default=None)


def seconds(retry_after: str, now: float) -> float | None:
    """`Retry-After` (RFC 9110, section 10.2.3) as seconds; None where it says nothing."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:_MOST_SECONDS_DIGITS])
    number = _number(retry_after)
    return _until(retry_after, now) if number is None else number


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
