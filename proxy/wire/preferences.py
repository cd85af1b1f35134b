"""OpenRouter's `provider` and `models`: how a chat wants to be routed, in its body.

Source: OpenRouter's documentation, "Provider Routing" and "Model Routing". What of them has no
meaning here is refused by name; nothing is ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.body import Body

MEMBERS = ("provider", "models")
Sort = Literal["price", "throughput", "latency"]

_Price = Annotated[float, msgspec.Meta(ge=0)]
_MOST_MODELS = 20
# Each is compared with each target, before anything else of a request is done.
_MOST_NAMES = 100
_Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_NAMES)]


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    prompt: _Price | None = None
    completion: _Price | None = None


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names are those of providers, or of targets."""

    order: _Names = ()
    only: _Names | None = None
    ignore: _Names = ()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    data_collection: Literal["allow", "deny"] = "allow"
    zdr: bool = False
    sort: Sort | None = None
    max_price: MaxPrice = MaxPrice()


class Preferences(msgspec.Struct, frozen=True):
    """Both of them; `models` are tried where none of the model's own targets answers."""

    provider: Provider = Provider()
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_MODELS)] = ()


class _Members(msgspec.Struct):
    provider: Provider | None = None
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_MODELS)] | None = None


_members = msgspec.json.Decoder(_Members)


def are_in(body: Body) -> bool:
    """Whether a body has any of them."""
    return "provider" in body.members or "models" in body.members


def read(body: Body) -> Preferences:
    """The preferences in a body; raises `InvalidRequest` that names what is wrong."""
    try:
        found = _members.decode(body.text)
    except msgspec.ValidationError as error:
        raise _problem(error) from None
    return Preferences(provider=found.provider or Provider(), models=found.models or ())


def _problem(error: msgspec.ValidationError) -> InvalidRequest:
    if "unknown field" not in str(error):
        return wire_body.invalid(error)
    name, _, place = (
        str(error).removeprefix("Object contains unknown field `").rpartition("` - at `$.")
    )
    path = f"{place.removesuffix('`')}.{name}"
    return InvalidRequest(
        f"{path!r} has no meaning here; leave it out, or name a target of the provider "
        "that understands it",
        param=path,
    )
