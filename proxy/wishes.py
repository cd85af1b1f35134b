"""What a request says of how it wants to be routed, by its headers.

    x-tollway-weights: cost=0.7,latency=0.2,quality=0.1
    x-tollway-max-cost-usd: 0.01
    x-tollway-max-latency-ms: 1500

What cannot be understood is refused: a limit that is silently ignored is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from policies import weights
from policies.constraints import Constraints
from policies.weights import Weights
from proxy.errors import InvalidRequest

WEIGHTS_HEADER = b"x-tollway-weights"
_LIMITS = {
    b"x-tollway-max-cost-usd": "max_cost_per_request",
    b"x-tollway-max-latency-ms": "max_latency_ms",
}
_LONGEST_QUOTE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """Weights in place of the configured ones, and constraints on top of them."""

    weights: Weights | None = None
    constraints: tuple[Constraints, ...] = ()


NO_WISHES = Wishes()


def read(headers: Mapping[bytes, bytes]) -> Wishes:
    """The wishes in the headers of a request; raises `InvalidRequest` that names the header."""
    given = {name: headers[header] for header, name in _LIMITS.items() if header in headers}
    if not given and WEIGHTS_HEADER not in headers:
        return NO_WISHES
    wanted = None
    if WEIGHTS_HEADER in headers:
        try:
            wanted = weights.parse(headers[WEIGHTS_HEADER].decode("latin-1"))
        except ValueError as error:
            raise InvalidRequest(
                f"{WEIGHTS_HEADER.decode()}: {error}", param=WEIGHTS_HEADER.decode()
            ) from None
    limits: dict[str, Any] = {}
    for header, name in _LIMITS.items():
        if header in headers:
            limits[name] = _number(header.decode(), headers[header].decode("latin-1"), name)
    return Wishes(weights=wanted, constraints=(Constraints(**limits),) if limits else ())


def _number(header: str, text: str, field: str) -> float:
    """A number that the constraint of that name may be."""
    try:
        return float(getattr(msgspec.convert({field: float(text)}, Constraints), field))
    except (ValueError, msgspec.ValidationError):
        raise InvalidRequest(
            f"{header}: {text[:_LONGEST_QUOTE]!r} is no number above 0", param=header
        ) from None
