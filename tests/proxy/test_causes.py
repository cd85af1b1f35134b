"""Every error of the contract has a cause, or none for a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adapters import base
from adapters.base import AdapterError, UpstreamError, UpstreamTimeout
from proxy.causes import CAUSES, cause_of, is_transient

# Nothing was sent, and another target of the route is next by itself.
WITHOUT = (base.Unsupported, base.NotLoaded)


def _kinds(kind: type[AdapterError]) -> Iterator[type[AdapterError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _made(kind: type[AdapterError], **more: object) -> AdapterError:
    if issubclass(kind, UpstreamError):
        return kind("no", **{"status": 400, **more})  # type: ignore[arg-type]
    if issubclass(kind, base.UpstreamTimeout):
        return kind("no", **{"phase": "idle", **more})  # type: ignore[arg-type]
    return kind("no", param="x") if issubclass(kind, base.Unsupported) else kind("no")


@pytest.mark.parametrize("kind", sorted(set(_kinds(AdapterError)), key=lambda kind: kind.__name__))
def test_every_error_has_a_cause(kind: type[AdapterError]) -> None:
    cause = cause_of(_made(kind))
    assert (cause is None) == (kind in WITHOUT or kind is UpstreamError)
    assert cause is None or cause in CAUSES


def test_the_deadline_of_the_request_has_none() -> None:
    assert cause_of(UpstreamTimeout("late", phase="request")) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_made(base.Overloaded, status=503), True),
        (_made(base.Overloaded, status=501), False),
        (_made(base.Overloaded, status=503, headers={"x-should-retry": "false"}), False),
        (_made(base.RateLimited, status=429), True),
        (_made(base.RateLimited, status=402), False),
        (_made(base.RateLimited, status=429, code="insufficient_quota"), False),
        (_made(base.ConnectFailed), True),
        (_made(base.ConnectionLost), True),
        (_made(UpstreamTimeout, phase="connect"), True),
        (_made(UpstreamTimeout, phase="first_byte"), False),
        (_made(UpstreamTimeout, phase="whole"), False),
        (_made(base.BadRequest), False),
        (_made(base.UpstreamAuth, status=401), False),
        (_made(base.MalformedAnswer), False),
        (_made(base.Unavailable), False),
    ],
)
def test_what_may_work_in_a_moment(error: AdapterError, expected: bool) -> None:
    assert is_transient(error) is expected
