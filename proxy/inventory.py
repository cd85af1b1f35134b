"""What was found on this machine: model files, and the models of servers that run here.

Pure values: the model host finds them, workers are told, and nobody changes them.
"""

from __future__ import annotations

import msgspec

from policies.base import Capability

MOST_MODELS = 1_000
"""Of one provider. More are not looked at: whatever answers there is not the operator's word."""


class FoundModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of one provider, and what it says of itself; empty or None is not said."""

    name: str
    """As its provider calls it."""
    capabilities: frozenset[Capability] | None = None
    """None where only its name can tell."""
    tags: frozenset[str] = frozenset()
    context_length: int | None = None
    """The longest that it was made for."""
    architecture: str = ""
    parameters: int | None = None
    quantisation: str = ""
    size_bytes: int | None = None
    changed_at: int | None = None
    """Unix seconds."""
    path: str = ""
    """Of a file or folder of ours."""
    projector: str = ""
    """The file that turns images into what the model reads."""
    backend: str = ""
    """What would run it."""
    problem: str = ""
    """Why it cannot be used."""


class FoundProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A server or a folder with models. `by` says where it was found."""

    name: str
    adapter: str
    by: str
    base_url: str | None = None
    folder: str | None = None
    models: tuple[FoundModel, ...] = ()


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found, in the order in which it is preferred."""

    providers: tuple[FoundProvider, ...] = ()
    loaded: frozenset[str] = frozenset()
    """The models in the memory of servers, as `provider/model`."""
    tells_loading: frozenset[str] = frozenset()
    """The providers that say which of their models those are."""
    silent: frozenset[str] = frozenset()
    """Providers that do not answer just now; of them is told what they said last."""

    def models(self) -> dict[str, FoundModel]:
        """Every model, by `provider/model`."""
        return {
            f"{provider.name}/{model.name}": model
            for provider in self.providers
            for model in provider.models
        }


NOTHING = Inventory()


def readable(text: str, longest: int = 60) -> str:
    """What somebody else wrote, for tables and JSON; nothing where it is no text for people."""
    return text[:longest] if text.isprintable() else ""
