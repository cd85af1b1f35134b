"""How LiteLLM's requests are read."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from proxy.admin.shapes import Body, read_json, read_object
from proxy.errors import InvalidRequest


class LiteLlmBody(Body, frozen=True, kw_only=True):
    """A body of LiteLLM's, of which we know the fields that are done here.

    Its clients send many more, empty: null, false, 0, `""`, `[]` and `{}` ask for nothing. Any
    other value does, and is refused.
    """

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The body, checked; raises `InvalidRequest` that names the field."""
        sent = read_json(body, dict[str, Any])
        known = {field.encode_name for field in msgspec.structs.fields(cls)}
        for name, value in sent.items():
            if name not in known and value:
                raise InvalidRequest(
                    f"{name[:100]!r} is not supported here; leave it out", param=name[:100]
                )
        return read_object({name: sent[name] for name in sent if name in known}, cls)
