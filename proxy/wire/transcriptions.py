"""`POST /v1/audio/transcriptions`: how long the sound can be, and how long it was.

Source: OpenAI's API reference, "Create transcription".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Endpoint, MalformedAnswer
from proxy.errors import InvalidRequest
from proxy.pricing import NO_UNITS, Units, Usage
from proxy.wire import answers
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Whole
from proxy.wire.events import Events
from proxy.wire.form import Form
from proxy.wire.relayed import Relayed
from proxy.wire.sound import Length, length_of
from proxy.wire.surrogates import without_lone

LAST_EVENT = "transcript.text.done"

# OpenAI's newer models take about ten tokens for a second; for routing only.
_USUAL_TOKENS_PER_SECOND = 10
# Longer than any sound that fits into a request.
_MOST_SECONDS = 10**8

# Parts that hold other sound, or say where there is some (Groq has `url`, Mistral `file_url` and
# `file_id`).
_OTHER_SOUND = ("known_speaker_references", "url", "file_url", "file_id", "audio_url")

_JSON = frozenset({"json", "verbose_json", "diarized_json"})
_TEXTS = frozenset({"text", "srt", "vtt"})
_YES, _NO = frozenset({"true", "1"}), frozenset({"false", "0", ""})


class _Answer(answers.Answer):
    text: str | None = None
    duration: Any = None


_answer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionsRequest(Relayed):
    """A request to write down what is said."""

    form: Form
    response_format: str
    sound: Length

    @property
    def input_tokens(self) -> int:
        """Routing's estimate of the input, sound included. Never used for money."""
        return self.text_bytes // 4 + self.sound.likely * _USUAL_TOKENS_PER_SECOND

    def sent(self, model: str) -> Sent:
        """The client's parts with `model` changed."""
        body, content_type = self.form.join({"model": model})
        return Sent(endpoint="transcriptions", body=body, content_type=content_type)

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer as it came: JSON, or the text of a transcript or of subtitles."""
        if self.response_format in _TEXTS:
            return self._read_text(body)
        answer = answers.read(body, _answer)
        if answer.text is None:
            raise MalformedAnswer("the provider's answer has no text")
        facts = Facts(
            usage=self._taken(answer),
            output_bytes=len(answer.text.encode()),
            cost=wire_usage.reported_cost(body) if reads_cost else None,
        )
        return facts, Whole(body=body)

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """Pieces of text, and then the whole of it."""
        return Events(last=LAST_EVENT, read=self._read_last, reads_cost=reads_cost)

    def _read_text(self, body: bytes) -> tuple[Facts, Whole]:
        try:
            body.decode()
        except UnicodeDecodeError:
            raise MalformedAnswer("the provider's transcript is not valid UTF-8") from None
        facts = Facts(usage=self._taken(_Answer()), output_bytes=len(body))
        return facts, Whole(body=body, content_type=b"text/plain; charset=utf-8")

    def _read_last(self, payload: bytes) -> Usage:
        return self._taken(answers.read(without_lone(payload), _answer))

    def _taken(self, answer: _Answer) -> Usage:
        """Tokens or seconds, whichever the provider tells; no units where neither does."""
        told = answer.usage if isinstance(answer.usage, dict) else {}
        seconds = _seconds(told.get("seconds")) or _seconds(answer.duration)
        units = self.units if self.sound.is_exact else NO_UNITS
        if seconds is not None:
            units = Units(audio_seconds=seconds)
        usage = wire_usage.reported_media(told)
        if usage is None:
            return Usage(input_tokens=0, output_tokens=0, units=units)
        return msgspec.structs.replace(usage, units=units)


def _seconds(told: object) -> int | None:
    """Seconds as they are billed: begun ones count."""
    if isinstance(told, str):  # as OpenAI's own verbose answers had it
        try:
            told = float(told)
        except ValueError:
            return None
    if not isinstance(told, int | float) or not 0 < told <= _MOST_SECONDS:
        return None
    return -int(-told // 1)


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> TranscriptionsRequest:
    """Read a request body; raises `InvalidRequest`."""
    form = Form.parse(raw, (headers or {}).get(b"content-type", b""))
    file = form.required("file")
    response_format = form.text("response_format") or "json"
    if response_format not in _JSON | _TEXTS:
        known = ", ".join(sorted(_JSON | _TEXTS))
        raise InvalidRequest(
            f"unknown response_format {response_format[:50]!r}; there are {known}",
            param="response_format",
        )
    stream = (form.text("stream") or "").lower()
    if stream not in _YES | _NO:
        raise InvalidRequest("'stream' must be true or false", param="stream")
    length = length_of(file.data)
    return TranscriptionsRequest(
        endpoint="transcriptions",
        capability="transcriptions",
        form=form,
        model=form.required("model").text,
        response_format=response_format,
        sound=length,
        text_bytes=sum(part.data.nbytes for part in form.parts if part is not file),
        stream=stream in _YES,
        max_output_tokens=None,
        units=Units(audio_seconds=length.most),
        unbounded=_unbounded(form),
        user=form.text("user"),
    )


def _unbounded(form: Form) -> str | None:
    """Sound besides the file's, or in its place: here its bytes would count as text."""
    names = (part.name for part in form.parts)
    return next((n for n in names if n.startswith(_OTHER_SOUND)), None)
