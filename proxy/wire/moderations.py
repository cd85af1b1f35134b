"""`POST /v1/moderations`: what is to be judged, and that it was.

Source: OpenAI's API reference, "Create moderation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from adapters.base import Endpoint
from proxy.errors import InvalidRequest
from proxy.pricing import Usage
from proxy.wire import answers
from proxy.wire import usage as wire_usage
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Whole
from proxy.wire.relayed import RelayedJson
from proxy.wire.tags import read as read_tags

DEFAULT_MODEL = "omni-moderation-latest"
"""Which model a request means that names none."""


class _Part(msgspec.Struct):
    type: str
    image_url: msgspec.Raw = msgspec.Raw(b"")


class _Fields(msgspec.Struct):
    input: msgspec.Raw
    model: str | None = None
    user: str | None = None


class _Answer(answers.Answer):
    results: list[dict[str, msgspec.Raw]] | None = None


_fields = msgspec.json.Decoder(_Fields)
_input: msgspec.json.Decoder[str | list[str | _Part]] = msgspec.json.Decoder(
    str | list[str | _Part]
)
_answer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModerationsRequest(RelayedJson):
    """A moderations request."""

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer as it came. Few providers count tokens here; OpenAI charges nothing."""
        answer = answers.read(body, _answer)
        facts = Facts(
            usage=wire_usage.reported_media(answer.usage) or Usage(input_tokens=0, output_tokens=0),
            output_bytes=0,
            cost=wire_usage.reported_cost(body) if reads_cost else None,
        )
        return facts, Whole(body=body) if answer.results else None


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> ModerationsRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    images = _images(fields.input)
    named, withheld = read_tags(body)
    return ModerationsRequest(
        endpoint="moderations",
        capability="moderations",
        body=body,
        model=fields.model or DEFAULT_MODEL,
        text_bytes=len(raw) - sum(len(memoryview(image)) for image in images),
        images=len(images),
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


def _images(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """The images among the input."""
    try:
        parts = _input.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        raise InvalidRequest(
            "'input' must be a string, or a list of strings or of parts with a type", param="input"
        ) from None
    if not parts:
        raise InvalidRequest("'input' must not be empty", param="input")
    if isinstance(parts, str):
        return []
    return [part.image_url for part in parts if isinstance(part, _Part) and part.type != "text"]
