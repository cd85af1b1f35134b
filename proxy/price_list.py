"""The prices in use: of which snapshot, from when and how old."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

import msgspec

from proxy.price_book import PriceBook
from proxy.pricing import Price, format_usd
from proxy.targets import Target

REFRESHED = "prices.json"
"""The snapshot in the data folder that `tollway prices --refresh` writes."""

STALE_DAYS = 90
"""Prices that their source vouched for longer ago than this are said to be stale."""

State = Literal["ok", "free", "stale", "unpriced"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one target charges at the standard service tier, in nano-USD.

    Rates are per million tokens; all are None where no price is known. `as_of` is the day the
    price holds from, `age_days` counts from the day on which its source vouched for it last; the
    prices of `router.yaml` hold until they are changed, and are never stale.
    """

    target: str
    state: State
    input: int | None = None
    cached_input: int | None = None
    output: int | None = None
    per_request: int | None = None
    pieces: tuple[str, ...] = ()
    """What is charged besides tokens and requests, in words."""
    service_tiers: tuple[str, ...] = ()
    source: str = ""
    as_of: date | None = None
    age_days: int | None = None


def load(folder: Path) -> tuple[PriceBook, str]:
    """The newer of the packaged snapshot and the one in a data folder, and a warning, if any.

    A file there that cannot be used is worth the warning and nothing more. Blocks on files for
    milliseconds.
    """
    packaged = PriceBook.load()
    path = folder / REFRESHED
    try:
        refreshed = PriceBook.load(path)
        refreshed.check()
    except FileNotFoundError:
        return packaged, ""
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return packaged, (
            f"{path}: cannot be used ({reason}), the packaged prices of {packaged.as_of} are; "
            "run 'tollway prices --refresh', or delete it"
        )
    return (refreshed, "") if refreshed.as_of >= packaged.as_of else (packaged, "")


def rows(targets: Iterable[Target], today: date) -> list[Row]:
    """A row for each target, in their order."""
    return [_row(target, today) for target in targets]


def staleness(targets: Iterable[Target], today: date) -> str:
    """One line where prices in use are stale; empty where none is."""
    stale = [row for row in rows(targets, today) if row.state == "stale"]
    if not stale:
        return ""
    oldest = max(row.age_days or 0 for row in stale)
    some = f"{len(stale)} targets are" if len(stale) > 1 else f"{stale[0].target} is"
    return (
        f"The prices of {some} {oldest} days old and may have changed; "
        "run 'tollway prices --refresh', or set them in router.yaml."
    )


def _row(target: Target, today: date) -> Row:
    price = target.price
    if price is None:
        return Row(target=target.name, state="unpriced")
    vouched_at = price.known_at or price.as_of
    is_stale = price.known_at is not None and (today - price.known_at).days > STALE_DAYS
    state: State = "stale" if is_stale else "free" if price.is_free else "ok"
    return Row(
        target=target.name,
        state=state,
        input=price.input,
        cached_input=price.input if price.cached_input is None else price.cached_input,
        output=price.output,
        per_request=price.per_request,
        pieces=tuple(_pieces(price)),
        service_tiers=tuple(price.service_tiers),
        source=price.source,
        as_of=price.as_of,
        age_days=None if vouched_at is None else (today - vouched_at).days,
    )


def _pieces(price: Price) -> Iterator[str]:
    images = price.per_generated_image
    by_kind = {"": images} if isinstance(images, int) else images
    for kind, amount in by_kind.items():
        if amount:
            yield f"{format_usd(amount)} an image{' of ' if kind else ''}{kind}"
    if price.per_minute:
        yield f"{format_usd(price.per_minute)} a minute"
    if price.characters:
        yield f"{format_usd(price.characters)} a million characters"
    if price.per_search:
        yield f"{format_usd(price.per_search)} a search"
