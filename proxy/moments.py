"""Points in time as people write them: `2026-11-20`, `2026-11-20T08:00:00Z`, `7d` ago or ahead."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_LENGTH = re.compile(r"([0-9]{1,5})([dhm])")
_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60}


def parse_moment(text: str | None) -> int | None:
    """Unix seconds, `7d` being ago; None for no text.

    Raises `ValueError` with what could be written instead.
    """
    if not text:
        return None
    if _LENGTH.fullmatch(text):
        ago = timedelta(seconds=parse_length_s(text))
        return int((datetime.now(UTC) - ago).timestamp())
    return _parse_date(text, "7d")


def parse_later(text: str, now: int) -> int:
    """Unix seconds, `30d` being from `now` on. Raises `ValueError` as `parse_moment`."""
    if _LENGTH.fullmatch(text):
        return now + parse_length_s(text)
    return _parse_date(text, "30d")


def parse_length_s(text: str) -> int:
    """Seconds of `30d`, `12h` or `90m`. Raises `ValueError` as `parse_moment`."""
    length = _LENGTH.fullmatch(text)
    if length is None:
        raise ValueError(f"{text[:40]!r} is no length of time; write 30d, 12h or 90m")
    return int(length[1]) * _UNIT_S[length[2]]


def _parse_date(text: str, example: str) -> int:
    try:
        when = datetime.fromisoformat(text)
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is no time; write 2026-11-20, 2026-11-20T08:00:00Z or {example}"
        ) from None
