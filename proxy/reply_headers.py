"""The headers of replies: what became of a request, and what its provider says besides."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from adapters.base import MalformedAnswer
from proxy.attempts import Job, Tried
from proxy.http import HeaderList
from proxy.rate_headers import rate_headers

DECISION_HEADER = b"x-tollway-decision"

_PASSED_ON = ("x-ratelimit-", "anthropic-ratelimit-", "openai-", "retry-after")
# The content types that servers send sound with.
_SOUND = ("audio/", "video/", "application/octet-stream", "binary/octet-stream", "application/ogg")
# Lists are cut here: a request may have thousands of parts.
_LONGEST_LIST = 2000


def reply_headers(job: Job, *, chosen: bool) -> HeaderList:
    """What a client is told of its request, and of its target once that is `chosen`."""
    headers = [
        (b"x-tollway-request-id", job.request_id.encode()),
        (b"x-tollway-attempts", b"%d" % job.shared.attempts),
    ]
    if job.route.policy:
        headers.append((b"x-tollway-policy", job.route.policy.encode()))
    if job.virtual_model:
        headers.append((DECISION_HEADER, job.decision.id.encode()))
    left_nanousd = job.left_nanousd
    if left_nanousd is not None:
        headers.append((b"x-tollway-budget-remaining-usd", b"%.6f" % (left_nanousd / 1e9)))
    if job.swap is not None:
        headers.append((b"x-tollway-swap", b"%d" % job.swap.swap_id))
    if job.downgrade:
        headers.append((b"x-tollway-downgrade", job.downgrade.encode()))
    if job.trimmed:
        headers.append((b"x-tollway-trimmed-messages", b"%d" % job.trimmed))
    if job.cold:
        cold = ", ".join(job.cold)[:_LONGEST_LIST]
        headers.append((b"x-tollway-not-loaded", cold.encode("ascii", "backslashreplace")))
    has_limits = job.requests is not None or job.tokens is not None
    if has_limits:
        headers += rate_headers(job.requests, job.tokens)
    if job.last is not None and chosen:
        headers += _of_target(job, job.last, has_limits=has_limits)
    return headers


def _of_target(job: Job, tried: Tried, *, has_limits: bool) -> HeaderList:
    headers = [*tried.target.reply_headers]
    if tried.dropped:
        told = ", ".join(dict.fromkeys(tried.dropped))[:_LONGEST_LIST]
        # A client's own names may have anything in them, line ends too.
        listed = told.encode("unicode_escape")[:_LONGEST_LIST]
        headers.append((b"x-tollway-dropped-params", listed))
    if job.clamp is not None:
        headers.append((b"x-tollway-clamped-max-tokens", b"%d" % job.clamp))
    if tried.settlement is not None:
        cost = job.shared.cost_nanousd
        headers.append((b"x-tollway-cost-usd", b"%d.%09d" % divmod(cost, 10**9)))
    said = tried.answer_headers
    headers += [
        (told_as, said[name].encode("latin-1", "replace"))
        for name, told_as in _passed_on(tuple(said), has_limits=has_limits)
    ]
    return headers


@lru_cache(maxsize=256)  # a provider's answers nearly all have the same ones
def _passed_on(names: tuple[str, ...], *, has_limits: bool) -> tuple[tuple[str, bytes], ...]:
    """Which of a provider's headers a client is told, and by which names."""
    told = []
    for name in names:
        if has_limits and name.startswith("x-ratelimit-"):
            told.append((name, f"x-tollway-upstream-{name.removeprefix('x-')}".encode()))
        elif name.startswith(_PASSED_ON):
            told.append((name, name.encode()))
        elif name == "x-request-id":
            told.append((name, b"x-tollway-upstream-request-id"))
    return tuple(told)


def media_headers(headers: Mapping[str, str]) -> tuple[bytes, HeaderList]:
    """The content type of sound, and its length if that is told.

    Raises `MalformedAnswer` for anything else: an error page, most likely.
    """
    kind = headers.get("content-type", "application/octet-stream").lower()
    if not kind.startswith(_SOUND) or not kind.isascii():
        raise MalformedAnswer(
            f"the provider answered with {kind[:100]!r} where sound was asked for"
        )
    length = headers.get("content-length", "")
    is_told = length.isdecimal() and "content-encoding" not in headers
    return kind.encode(), [(b"content-length", length.encode())] if is_told else []
