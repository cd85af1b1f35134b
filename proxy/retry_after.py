"""How long a server asks to be left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime


def asked_s(headers: Mapping[str, str], now: float) -> float | None:
    """By `retry-after-ms`, as OpenAI's SDKs read it, or `retry-after`; None where neither says.

    Names are in lower case; `now` is the Unix time.
    """
    try:
        asked_ms = float(headers.get("retry-after-ms", ""))
    except ValueError:
        return seconds(headers.get("retry-after", ""), now)
    return max(0.0, asked_ms / 1e3) if math.isfinite(asked_ms) else None


def seconds(retry_after: str, now: float) -> float | None:
    """The header (RFC 9110, section 10.2.3) as seconds; None where it says nothing."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        moment = parsedate_to_datetime(retry_after)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)
