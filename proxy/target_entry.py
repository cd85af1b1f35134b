"""The catalogue entry of a target: all that is known of it now, as one frozen value.

Pure: whoever makes one hands in what was declared, found, measured and seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from policies.base import Capability
from proxy.inventory import FoundModel
from proxy.measured import Measured
from proxy.model_host.core import Phase
from proxy.model_host.protocol import ModelState
from proxy.pricing import Price
from proxy.targets import Target

Modality = Literal["text", "image", "audio", "file", "embeddings", "scores"]
HealthState = Literal["unknown", "up", "failing"]

# What goes in and comes out, by what a target does.
_MODALITIES: Mapping[Capability, tuple[tuple[Modality, ...], tuple[Modality, ...]]] = {
    "chat": (("text",), ("text",)),
    "vision": (("image",), ()),
    "audio": (("audio",), ()),
    "files": (("file",), ()),
    "embeddings": (("text",), ("embeddings",)),
    "rerank": (("text",), ("scores",)),
    "moderations": (("text",), ("scores",)),
    "images": (("text",), ("image",)),
    "transcriptions": (("audio",), ("text",)),
    "speech": (("text",), ("audio",)),
}


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Performance(_Part, frozen=True):
    """How fast a target is, and what it takes to be so; None is not known."""

    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    memory_mb: int | None = None
    cold_start_s: float | None = None


class Cost(_Part, frozen=True):
    """Nano-USD per million tokens, and per request; `source` is by whose word."""

    input_nanousd: int
    output_nanousd: int
    per_request_nanousd: int
    source: str


class Health(_Part, frozen=True):
    """Whether it answers. Times are Unix seconds."""

    state: HealthState
    failures: int = 0
    """In a row."""
    answered_at: float | None = None
    failed_at: float | None = None
    problem: str = ""


class Weights(_Part, frozen=True):
    """What the model is made of, by its own word; empty or None is not told."""

    architecture: str = ""
    parameters: int | None = None
    quantisation: str = ""
    size_bytes: int | None = None
    context_length: int | None = None
    """The longest that it was made for."""


class TargetEntry(_Part, frozen=True):
    """Everything about one target."""

    name: str
    provider: str
    capabilities: frozenset[Capability]
    tags: frozenset[str]
    input_modalities: tuple[Modality, ...]
    output_modalities: tuple[Modality, ...]
    context_length: int | None
    max_output_tokens: int | None
    declared: Performance
    """By the operator's word."""
    measured: Performance
    needs_mb: int | None
    """The memory that it is reckoned to take, of a local model."""
    needs_gpu_mb: int | None
    """The same, of a GPU's own."""
    concurrency: int | None
    """How many requests it answers at the same time, of a local model."""
    backend: str | None
    cost: Cost | None
    """None where no price is known."""
    health: Health
    state: Phase | None
    """Whether it is loaded; None where nobody says."""
    weights: Weights | None
    found_by: str
    """`router.yaml`, a variable, an address, or a folder."""
    changed_at: float
    """Unix seconds: of the file, of the model at its server, else of the configuration."""


def entry_of(
    target: Target,
    *,
    measured: Measured,
    found_by: str,
    configured_at: float,
    found: FoundModel | None = None,
    local: ModelState | None = None,
    is_loaded: bool | None = None,
    is_silent: bool = False,
) -> TargetEntry:
    """The entry of a target.

    `local` is how a model of ours stands; `is_loaded` what its server says; a server that is
    silent has not answered when it was asked last.
    """
    state: Phase | None = None
    if local is not None:
        state = local.state
    elif is_loaded is not None:
        state = "loaded" if is_loaded else "absent"
    return TargetEntry(
        name=target.name,
        provider=target.provider,
        capabilities=target.capabilities,
        tags=target.tags,
        input_modalities=modalities(target.capabilities, 0),
        output_modalities=modalities(target.capabilities, 1),
        context_length=target.context_length,
        max_output_tokens=target.max_output_tokens,
        declared=Performance(**msgspec.structs.asdict(target.profile)),
        measured=_performance(measured, local),
        needs_mb=None if local is None else _mb(local.bytes),
        needs_gpu_mb=None if local is None else _mb(local.gpu_bytes),
        concurrency=None if local is None else local.concurrency,
        backend=None if local is None else local.backend,
        cost=_cost(target.price),
        health=_health(measured, local, is_silent=is_silent),
        state=state,
        weights=None if found is None else _weights(found),
        found_by=found_by,
        changed_at=configured_at if found is None else found.changed_at or configured_at,
    )


def modalities(capabilities: frozenset[Capability], side: Literal[0, 1]) -> tuple[Modality, ...]:
    """What goes in (0) or comes out (1), each once."""
    found = {
        each: None for can in _MODALITIES if can in capabilities for each in _MODALITIES[can][side]
    }
    return tuple(found)


def _performance(measured: Measured, local: ModelState | None) -> Performance:
    first_s = measured.first_token_s
    is_there = local is not None and local.pid != 0
    speed = measured.tokens_per_second
    if speed is None and local is not None:
        speed = local.tokens_per_s or None
    return Performance(
        tokens_per_second=speed,
        first_token_ms=None if first_s is None else first_s * 1e3,
        memory_mb=_mb(local.bytes) if local is not None and is_there else None,
        cold_start_s=(local.load_s or None) if local is not None else None,
    )


def _mb(size_bytes: int) -> int:
    return -(-size_bytes // 2**20)


def _cost(price: Price | None) -> Cost | None:
    if price is None:
        return None
    return Cost(
        input_nanousd=price.input,
        output_nanousd=price.output,
        per_request_nanousd=price.per_request,
        source=price.source,
    )


def _health(measured: Measured, local: ModelState | None, *, is_silent: bool) -> Health:
    problem = measured.problem or (local.problem if local is not None else "")
    if is_silent:
        problem = problem or "its server did not answer when it was asked for its models"
    state: HealthState = "up" if measured.answered_at is not None else "unknown"
    return Health(
        state="failing" if problem else state,
        failures=measured.failures,
        answered_at=measured.answered_at,
        failed_at=measured.failed_at,
        problem=problem,
    )


def _weights(found: FoundModel) -> Weights:
    return Weights(
        architecture=found.architecture,
        parameters=found.parameters,
        quantisation=found.quantisation,
        size_bytes=found.size_bytes,
        context_length=found.context_length,
    )
