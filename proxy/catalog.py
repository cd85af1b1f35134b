"""The providers and models that are known without configuration (`catalog.yaml`), with a date."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from adapters import registry as adapter_registry
from policies.base import Capability

CATALOG = Path(__file__).with_name("catalog.yaml")
"""The packaged table."""

TierName = Literal["auto", "best", "cheap", "fast", "embed"]
"""The virtual models that a known model can serve."""

_KINDS: frozenset[Capability] = frozenset(
    {"chat", "embeddings", "rerank", "moderations", "images", "transcriptions", "speech"}
)

Tokens = Annotated[int, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model by the provider's own name for it.

    `tiers` are the virtual models it serves. Chat models have a `context_length` and
    `max_output_tokens`, embedding models a `vector_space` and `dimensions`: vectors of different
    spaces must never be mixed. `free`: the provider says that it charges nothing.
    """

    name: Text
    tiers: frozenset[TierName]
    capabilities: Annotated[frozenset[Capability], msgspec.Meta(min_length=1)]
    context_length: Tokens | None = None
    max_output_tokens: Tokens | None = None
    vector_space: Text | None = None
    dimensions: Tokens | None = None
    free: bool = False

    def __post_init__(self) -> None:
        kinds = self.capabilities & _KINDS
        if len(kinds) != 1:
            raise ValueError(
                f"model {self.name!r} must have one of chat and embeddings, or another"
            )
        embeds, chats = "embeddings" in kinds, "chat" in kinds
        if (chats and self.max_output_tokens is None) or (embeds and self.max_output_tokens):
            raise ValueError(f"model {self.name!r}: chat models have max_output_tokens")
        if (chats or embeds) and self.context_length is None:
            raise ValueError(f"model {self.name!r}: a context_length is missing")
        if embeds != (self.vector_space is not None) or embeds != (self.dimensions is not None):
            raise ValueError(
                f"model {self.name!r}: a vector_space and dimensions go with embeddings"
            )


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider, asked by an `adapter`.

    `base_url` is where it is if its adapter does not know. The first of the `api_key_env` variables
    that is set holds the key; `base_url_env` names one that overrides the address. `price_provider`
    is its id in the price snapshot. `reports_cost`: its usage objects hold what it charges, as
    `cost` in USD. `meterable`: it is documented to stop generating and billing when a streaming
    client disconnects.
    """

    id: Text
    adapter: Text = "openai_compatible"
    api_key_env: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    base_url: Annotated[str, msgspec.Meta(pattern=r"^https://[^/?#]+(/[^?#]+)?$")] | None = None
    base_url_env: Text | None = None
    price_provider: Text
    reports_cost: bool = False
    meterable: bool = False
    models: Annotated[tuple[Model, ...], msgspec.Meta(min_length=1)]

    @property
    def address(self) -> str:
        """Where it is, unless the environment says otherwise."""
        return self.base_url or adapter_registry.base_url(self.adapter) or ""


class Catalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table as of a date, providers and models in the order of preference."""

    as_of: date
    providers: tuple[Provider, ...]


def load(path: Path = CATALOG) -> Catalog:
    """Read a table, by default the packaged one. Blocks on the file for milliseconds.

    Raises OSError, or msgspec.DecodeError naming the place in a file that is no such table.
    """
    return msgspec.yaml.decode(path.read_bytes(), type=Catalog)
