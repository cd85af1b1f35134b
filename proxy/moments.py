"""Points in time as people write them: `2026-11-20`, `2026-11-20T08:00:00Z`, or `7d` ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,5})([dh])")


def parse_moment(text: str | None) -> int | None:
    """Unix seconds; None for no text. Raises `ValueError` with what could be written instead."""
    if not text:
        return None
    if ago := _AGO.fullmatch(text):
        hours = int(ago[1]) * (24 if ago[2] == "d" else 1)
        return int((datetime.now(UTC) - timedelta(hours=hours)).timestamp())
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no time; write 2026-11-20, 2026-11-20T08:00:00Z or 7d"
        ) from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
