"""`tollway prices --refresh`: fetches today's prices into the data folder.

They come in one of two forms: the list of providers that genai-prices publishes, which takes that
package (the extra `prices`) to read, or a snapshot as `python -m proxy.price_snapshot` writes it.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType

import httpx2
import msgspec

from proxy.errors import StartError
from proxy.price_book import PriceBook, Snapshot
from proxy.price_list import REFRESHED, load
from proxy.price_snapshot import render

_TIMEOUT_S = 30.0
# The published list has less than 1 MB.
_MOST_BYTES = 64 << 20
# The package's parser relies on the shape of what it is given, and fails in these ways.
_UNREADABLE = (ValueError, TypeError, LookupError, StopIteration, RecursionError)


def refresh(folder: Path, *, source: str | None, today: date) -> str:
    """Write the snapshot of a file or URL into a data folder, whole or not at all.

    Returns one line on what it is, and whether it is used: only the newest one is.

    None is where genai-prices itself gets its updates. A list bears no date: it is taken to be of
    today, or of the day on which the file was last changed. Blocks on the network for up to half a
    minute. Raises `StartError` for what cannot be fetched, read or written; then all stays as it
    was.
    """
    where = source or _default_url()
    body, as_of = _fetch(where, today)
    snapshot = _read(where, body, as_of)
    try:
        PriceBook(snapshot).check()
    except ValueError as error:
        raise StartError(f"{where}: is no usable price list ({error})") from None
    if not snapshot.priced:
        raise StartError(f"{where}: has no prices")
    _replace(folder / REFRESHED, render(snapshot))
    used, _ = load(folder)
    is_used = (used.source, used.as_of) == (snapshot.source, snapshot.as_of)
    return (
        f"{folder / REFRESHED}: {snapshot.source}, of {snapshot.as_of}, "
        f"with prices for {snapshot.priced} models; "
        + ("servers use it from their next start" if is_used else f"{used.source} is newer")
    )


def _fetch(where: str, today: date) -> tuple[bytes, date]:
    try:
        if not where.startswith(("http://", "https://")):
            changed = datetime.fromtimestamp(Path(where).stat().st_mtime, UTC).date()
            return Path(where).read_bytes(), min(changed, today)
        body = bytearray()
        with httpx2.stream("GET", where, timeout=_TIMEOUT_S, follow_redirects=True) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise StartError(f"{where}: is longer than {_MOST_BYTES >> 20} MB")
        return bytes(body), today
    except OSError as error:
        raise StartError(f"{where}: cannot be read ({error.strerror})") from None
    except httpx2.HTTPStatusError as error:
        raise StartError(f"{where}: answers {error.response.status_code}") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise StartError(f"{where}: cannot be fetched ({error})") from None


def _read(where: str, body: bytes, as_of: date) -> Snapshot:
    try:
        value = msgspec.json.decode(body)
        if isinstance(value, dict):
            return msgspec.convert(value, Snapshot)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StartError(f"{where}: is no price list ({error})") from None
    if not isinstance(value, list):
        raise StartError(f"{where}: is no price list (neither providers nor a snapshot)")
    try:
        snapshot: Snapshot = _price_source().parse(body, as_of=as_of)
    except _UNREADABLE as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StartError(
            f"{where}: is no price list that the installed genai-prices can read ({first})"
        ) from None
    return snapshot


def _default_url() -> str:
    url: str = _price_source().DEFAULT_UPDATE_URL
    return url


def _price_source() -> ModuleType:
    try:
        # Here, not at the top: it needs an extra that a server does without.
        from proxy import price_source
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("genai_prices"):
            raise
        raise StartError(
            "genai-prices is not installed; install tollway[prices], or name a snapshot made by "
            "'python -m proxy.price_snapshot' elsewhere with --from"
        ) from None
    return price_source


def _replace(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old or the new one, whole."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}-", encoding="utf-8", delete=False
        ) as draft:
            try:
                draft.write(text)
                draft.flush()
                os.fsync(draft.fileno())
                os.replace(draft.name, path)
            except BaseException:
                os.unlink(draft.name)
                raise
    except OSError as error:
        raise StartError(f"{path}: cannot be written ({error.strerror})") from None
