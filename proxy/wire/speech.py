"""`POST /v1/audio/speech`: how many characters are to be spoken.

Source: OpenAI's API reference, "Create speech". The answer is sound, relayed as it comes; with
`stream_format: sse`, events with pieces of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from adapters.base import Endpoint
from proxy.pricing import Units, Usage
from proxy.wire import answers
from proxy.wire import usage as wire_usage
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Stream, Whole
from proxy.wire.events import Events
from proxy.wire.relayed import RelayedJson
from proxy.wire.surrogates import without_lone
from proxy.wire.tags import read as read_tags

LAST_EVENT = "speech.audio.done"

# What a character takes in tokens of sound where a provider does not say. OpenAI puts
# gpt-4o-mini-tts at $0.015 a minute, which at its rates is 1,250 tokens; people speak about 900
# characters in that time.
_TOKENS_OF_CHARACTERS = (3, 2)


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: Annotated[str, msgspec.Meta(min_length=1)]
    stream_format: Literal["sse", "audio"] | None = None
    user: str | None = None


_fields = msgspec.json.Decoder(_Fields)
_answer = msgspec.json.Decoder(answers.Answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechRequest(RelayedJson):
    """A request for speech."""

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """What was spoken; the sound itself says nothing, and does not come this way."""
        return Facts(usage=self._taken(None), output_bytes=self._expected_bytes), None

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """Pieces of sound, and then the usage."""
        return Events(
            last=LAST_EVENT,
            read=self._read_last,
            reads_cost=reads_cost,
            output_bytes=self._expected_bytes,
            counts_deltas=False,
        )

    def _read_last(self, payload: bytes) -> Usage:
        answer = answers.read(without_lone(payload), _answer)
        return self._taken(wire_usage.reported_media(answer.usage))

    def _taken(self, usage: Usage | None) -> Usage:
        if usage is None:
            return Usage(input_tokens=0, output_tokens=0, units=self.units)
        return msgspec.structs.replace(
            usage, output_audio_tokens=usage.output_tokens, units=self.units
        )

    @property
    def _expected_bytes(self) -> int:
        tokens, characters = _TOKENS_OF_CHARACTERS
        expected = -(-self.units.characters * tokens // characters)
        return expected * wire_usage.BYTES_PER_TOKEN


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> SpeechRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    named, withheld = read_tags(body)
    return SpeechRequest(
        endpoint="speech",
        capability="speech",
        body=body,
        model=fields.model,
        text_bytes=len(raw),
        stream=fields.stream_format == "sse",
        max_output_tokens=None,
        units=Units(characters=len(fields.input)),
        user=fields.user,
        tags=named,
        withheld=withheld,
    )
