"""`metadata.tags`: what budgets and reports know a request by, besides its end user.

LiteLLM's clients send a list; OpenAI's `metadata` holds only strings, so commas separate tags
there, and a list stays here.
"""

from __future__ import annotations

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire.body import Body
from proxy.wire.surrogates import without_lone

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tags = msgspec.json.Decoder(str | list[str] | None)

Change = dict[str, bytes | None]


def read(body: Body) -> tuple[tuple[str, ...], Change]:
    """The tags of a body, and what of it does not go upstream. Raises `InvalidRequest`."""
    metadata = body.members.get("metadata")
    if metadata is None or b'"tags"' not in bytes(metadata):
        return (), {}
    try:
        try:
            members, tags = _decode(metadata)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # a surrogate that stands alone
            members, tags = _decode(without_lone(bytes(metadata)))
    except (msgspec.ValidationError, RecursionError):
        raise InvalidRequest(
            "invalid value for 'metadata.tags': expected a list of strings, or a string with "
            "commas between them",
            param="metadata.tags",
        ) from None
    if tags is None:
        return (), {}
    if isinstance(tags, str):
        return tuple(filter(None, (tag.strip() for tag in tags.split(",")))), {}
    del members["tags"]
    rest = msgspec.json.encode(members) if members else None
    return tuple(tags), {"metadata": rest}


def _decode(metadata: bytes | msgspec.Raw) -> tuple[dict[str, msgspec.Raw], str | list[str] | None]:
    members = _members.decode(metadata)
    return members, _tags.decode(members.get("tags", msgspec.Raw(b"null")))
