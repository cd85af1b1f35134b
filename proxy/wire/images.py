"""`POST /v1/images/generations`: how many images, of what kind, and how many were made.

Source: OpenAI's API reference, "Create image".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from adapters.base import Endpoint
from proxy.errors import InvalidRequest
from proxy.pricing import Units, Usage
from proxy.wire import answers
from proxy.wire import usage as wire_usage
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Stream, Whole
from proxy.wire.events import Events
from proxy.wire.relayed import RelayedJson, named_in
from proxy.wire.surrogates import without_lone
from proxy.wire.tags import read as read_tags

LAST_EVENT = "image_generation.completed"

# What an image is taken to have had in tokens where a provider does not say: gpt-image-1's square
# one in high quality (OpenAI, "Image generation", cost and latency).
_TOKENS_OF_AN_IMAGE = 4160
# Images that are sent along, whose size nobody knows here, and formats that other models author or
# that have many frames.
_UNBOUNDED = ("image", "images", "image_url", "mask", "svg")
# What other APIs call `n` (SiliconFlow, fal, Replicate): a server that obeys it makes more.
_OTHER_COUNTS = ("batch_size", "num_images", "num_outputs", "num_images_per_prompt", "samples")
_UNBOUNDED_FORMATS = frozenset({"svg", "gif"})


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    prompt: str
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    stream: bool | None = None
    user: str | None = None


class _Answer(answers.Answer):
    data: list[dict[str, msgspec.Raw]] | None = None
    size: Any = None
    quality: Any = None


_fields = msgspec.json.Decoder(_Fields)
_answer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRequest(RelayedJson):
    """A request for images."""

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer as it came; as many images are charged as there are."""
        answer = answers.read(body, _answer)
        made = len(answer.data or ())
        facts = Facts(
            usage=self._taken(answer, made),
            output_bytes=made * _TOKENS_OF_AN_IMAGE * wire_usage.BYTES_PER_TOKEN,
            cost=wire_usage.reported_cost(body) if reads_cost else None,
        )
        return facts, Whole(body=body) if made else None

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """Previews of one image, and then the image."""
        return Events(
            last=LAST_EVENT,
            read=self._read_last,
            reads_cost=reads_cost,
            output_bytes=_TOKENS_OF_AN_IMAGE * wire_usage.BYTES_PER_TOKEN,
        )

    def _read_last(self, payload: bytes) -> Usage:
        return self._taken(answers.read(without_lone(payload), _answer), 1)

    def _taken(self, answer: _Answer, made: int) -> Usage:
        usage = wire_usage.reported_media(answer.usage)
        units = Units(generated_images=made, image_kind=self._kind(answer))
        if usage is None:
            return Usage(input_tokens=0, output_tokens=0, units=units)
        # All of the output is images where it is not told apart.
        pictured = usage.output_image_tokens or usage.output_tokens
        return msgspec.structs.replace(usage, output_image_tokens=pictured, units=units)

    def _kind(self, answer: _Answer) -> str:
        """What was made, else what was asked for."""
        size, _, quality = self.units.image_kind.partition("/")
        return kind_of(answer.size or size, answer.quality or quality)


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> ImagesRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    n = fields.n or 1
    if fields.stream and n > 1:
        raise InvalidRequest("only one image at a time is streamed", param="n")
    unbounded = named_in(body, (*_UNBOUNDED, *_OTHER_COUNTS))
    if fields.output_format in _UNBOUNDED_FORMATS:
        unbounded = "output_format"
    named, withheld = read_tags(body)
    return ImagesRequest(
        endpoint="images",
        capability="images",
        body=body,
        model=fields.model,
        text_bytes=len(raw),
        stream=bool(fields.stream),
        max_output_tokens=None,
        n=n,
        units=Units(generated_images=n, image_kind=kind_of(fields.size, fields.quality)),
        unbounded=unbounded,
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


def kind_of(size: object, quality: object) -> str:
    """Size and quality as prices name them; what is left to the provider is not known."""
    known = (part if isinstance(part, str) and part != "auto" else "" for part in (size, quality))
    return "/".join(known).removesuffix("/")
