"""What the fleet is assumed to be: models, how fast and how good they are, and who fails how often.

Names and prices are the catalogue's. Speeds, and what answers are worth, are of the size that such
models have; nobody measured them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AVAILABILITY = 0.95
"""Of each provider; half of what is missing are outages, half single failures."""

OUTAGE_S = 180.0
"""How long an outage takes on average."""

ERROR_S = 0.3
"""After so long a provider that fails says so."""

SILENT_SHARE = 0.1
"""Of the failures those that say nothing, until the time that a connection may take is over."""

SILENCE_S = 10.0

SCATTER = 0.4
"""The sigma of the logarithm of the time to the first token."""

REQUESTS_PER_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """How a model performs; `worth` is that of its answers by how hard the request is, 0 to 3."""

    first_token_ms: float
    tokens_per_second: float
    worth: tuple[float, float, float, float]


_STRONG = (0.97, 0.95, 0.91, 0.85)
_MIDDLE = (0.97, 0.93, 0.84, 0.70)
_SMALL = (0.96, 0.88, 0.70, 0.48)

MODELS: Mapping[str, Model] = {
    "anthropic/claude-opus-5-5": Model(first_token_ms=1300, tokens_per_second=65, worth=_STRONG),
    "openai/gpt-6-astra": Model(first_token_ms=1400, tokens_per_second=60, worth=_STRONG),
    "openai/gpt-6.1-terra": Model(first_token_ms=700, tokens_per_second=110, worth=_MIDDLE),
    "anthropic/claude-sonnet-5-5": Model(first_token_ms=800, tokens_per_second=85, worth=_MIDDLE),
    "mistral/mistral-large-4": Model(first_token_ms=600, tokens_per_second=90, worth=_MIDDLE),
    "openai/gpt-6-luna": Model(first_token_ms=450, tokens_per_second=170, worth=_SMALL),
    "anthropic/claude-haiku-5-5": Model(first_token_ms=450, tokens_per_second=160, worth=_SMALL),
    "mistral/mistral-small-2603": Model(first_token_ms=350, tokens_per_second=150, worth=_SMALL),
    "groq/openai/gpt-oss-120b": Model(first_token_ms=250, tokens_per_second=450, worth=_SMALL),
}


def _of(worth: tuple[float, ...]) -> list[str]:
    return [name for name, model in MODELS.items() if model.worth is worth]


STRONG, MIDDLE, SMALL = _of(_STRONG), _of(_MIDDLE), _of(_SMALL)

BASELINE = "always strong"
"""What the others are held against: the cheaper of the two strong models, and nothing else."""

VIRTUAL_MODELS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {"targets": STRONG[:1]},
    "ordered, strong first": {"targets": [*STRONG, *MIDDLE]},
    "ordered, middle first": {"targets": [*MIDDLE, *STRONG, *SMALL]},
    "cheapest": {"targets": [*MODELS], "policy": "cheapest"},
    "balanced, the strong": {"targets": STRONG, "policy": "balanced"},
    "balanced, the middle": {"targets": MIDDLE, "policy": "balanced"},
    "weighted": {"targets": [*MODELS], "policy": "weighted"},
    "weighted, for quality": {
        "targets": [*MODELS],
        "policy": {
            "name": "weighted",
            "weights": {"quality": 0.7, "cost": 0.1, "latency": 0.1, "reliability": 0.1},
        },
    },
    "learned, share 0.3": {
        "targets": [*MODELS],
        "policy": {"name": "learned", "share": 0.3, "strong": STRONG, "weak": MIDDLE},
    },
    "learned, small below": {
        "targets": [*MODELS],
        "policy": {"name": "learned", "share": 0.5, "strong": MIDDLE, "weak": SMALL},
    },
}


def configuration() -> dict[str, Any]:
    """The fleet as `router.yaml` has it; what is declared of a model is what holds of it."""
    providers = dict.fromkeys(name.partition("/")[0] for name in MODELS)
    return {
        "providers": {
            name: {"base_url": "http://127.0.0.1:9/v1", "prices": name} for name in providers
        },
        "targets": [
            {
                "target": name,
                "latency_ms": model.first_token_ms,
                "quality": {"general": round(sum(model.worth) / len(model.worth), 2)},
            }
            for name, model in MODELS.items()
        ],
        "models": VIRTUAL_MODELS,
    }
