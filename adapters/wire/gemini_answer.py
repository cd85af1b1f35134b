"""Gemini's answers -> OpenAI's: whole ones, streams, embeddings and errors.

Vertex AI answers the same. Source: Google's "Gemini API reference" (GenerateContentResponse,
Candidate, UsageMetadata), `google.rpc.Code` and `google.rpc.RetryInfo`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from adapters.base import (
    BadRequest,
    ContentRefused,
    MalformedAnswer,
    ModelNotFound,
    Overloaded,
    RateLimited,
    UpstreamAuth,
    UpstreamError,
)
from adapters.http.over_http import EventReader
from adapters.wire import loose_json
from adapters.wire.failures import Said, error_family, read_error, upstream_error
from adapters.wire.gemini_request import SIGNATURE_FORMAT

Json = dict[str, Any]

# A reason that is in neither list broke the answer off: it becomes an error.
FINISH_REASONS: Mapping[str, str] = {
    "STOP": "stop",
    "FUNCTION_CALL": "tool_calls",  # not Google's, but others' that speak as it does
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "OTHER": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_OTHER": "content_filter",
}
_NO_REASON = frozenset({None, "", "FINISH_REASON_UNSPECIFIED"})
_NOT_BLOCKED = frozenset({None, "", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"})

# `google.rpc.Code`; BadRequest stands for what the message tells more of.
FAMILIES: Mapping[str, type[UpstreamError]] = {
    "INVALID_ARGUMENT": BadRequest,
    "OUT_OF_RANGE": BadRequest,
    "ALREADY_EXISTS": BadRequest,
    "FAILED_PRECONDITION": UpstreamError,  # no billing, no service in this country
    "UNAUTHENTICATED": UpstreamAuth,
    "PERMISSION_DENIED": UpstreamAuth,
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "ABORTED": Overloaded,
    "CANCELLED": Overloaded,
    "UNKNOWN": Overloaded,
    "INTERNAL": Overloaded,
    "UNAVAILABLE": Overloaded,
    "DATA_LOSS": Overloaded,
    "DEADLINE_EXCEEDED": Overloaded,
    "UNIMPLEMENTED": UpstreamError,
}
_BAD_KEYS = ("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "ACCESS_TOKEN_EXPIRED")
_LONGEST_MESSAGE = 2000
# What OpenAI's reference has for what can hardly be.
_UNLIKELY = -9999.0
# The bytes of a character in UTF-8 but for its first, and how many bytes are counted at once.
_CONTINUED = bytes(range(0x80, 0xC0))
_STRIDE = 1024
_LANGUAGES = {"PYTHON": "python"}


class _Members(msgspec.Struct, rename="camel"):
    """Members in the case of Google's JSON; unknown ones are skipped."""


class _FunctionCall(_Members):
    id: str | None = None
    name: str | None = None
    args: Json | None = None


class _Blob(_Members):
    mime_type: str = ""
    data: str = ""


class _File(_Members):
    file_uri: str = ""


class _Code(_Members):
    code: str = ""
    language: str = ""


class _Ran(_Members):
    output: str = ""


class _Part(_Members):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None
    inline_data: _Blob | None = None
    file_data: _File | None = None
    executable_code: _Code | None = None
    code_execution_result: _Ran | None = None


class _Content(_Members):
    parts: list[_Part] | None = None


class _Web(_Members):
    uri: str | None = None
    title: str | None = None


class _Source(_Members):
    web: _Web | None = None
    retrieved_context: _Web | None = None
    maps: _Web | None = None


class _Segment(_Members):
    start_index: int = 0
    end_index: int = 0


class _Support(_Members):
    segment: _Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class _Grounding(_Members):
    grounding_chunks: list[_Source] | None = None
    grounding_supports: list[_Support] | None = None


class _Citation(_Members):
    start_index: int = 0
    end_index: int = 0
    uri: str | None = None
    title: str | None = None


class _Citations(_Members):
    citation_sources: list[_Citation] | None = None
    citations: list[_Citation] | None = None  # Vertex AI's name


class _Likelihood(_Members):
    token: str = ""
    log_probability: float | str = 0.0  # protobuf writes infinity as text


class _Top(_Members):
    candidates: list[_Likelihood] | None = None


class _Logprobs(_Members):
    chosen_candidates: list[_Likelihood] | None = None
    top_candidates: list[_Top] | None = None


class _Candidate(_Members):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int = 0
    citation_metadata: _Citations | None = None
    grounding_metadata: _Grounding | None = None
    logprobs_result: _Logprobs | None = None


class _Modality(_Members):
    modality: str = ""
    token_count: int = 0


class _Usage(_Members):
    prompt_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    total_token_count: int = 0
    prompt_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None
    service_tier: str | None = None


class _Feedback(_Members):
    block_reason: str | None = None
    block_reason_message: str | None = None


class _Response(_Members):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Json | None = None


class _Embedding(msgspec.Struct):
    values: list[float]


class _Embedded(_Members):
    embeddings: list[_Embedding]
    usage_metadata: _Usage | None = None


class _Model(msgspec.Struct):
    name: str


class _Models(_Members):
    models: list[_Model] | None = None
    next_page_token: str | None = None


_response = msgspec.json.Decoder(_Response)
_embedded = msgspec.json.Decoder(_Embedded)
_models = msgspec.json.Decoder(_Models)


def _read(decoder: msgspec.json.Decoder[Any], body: bytes, what: str) -> Any:
    try:
        return loose_json.decode_as(decoder, body)
    except (ValueError, RecursionError):
        raise MalformedAnswer(f"the provider's {what} is not the JSON it should be") from None


# --- candidates -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """What was said so far by one candidate.

    Whatever comes in lists is numbered: clients put together by that what comes in pieces.
    """

    index: int
    calls: Iterator[int] = field(default_factory=count)
    signatures: Iterator[int] = field(default_factory=count)
    images: Iterator[int] = field(default_factory=count)
    sources: Iterator[int] = field(default_factory=count)
    has_audio: bool = False
    has_calls: bool = False
    text: list[str] = field(default_factory=list)
    is_finished: bool = False

    def say(self, candidate: _Candidate) -> Json:
        """The delta for what a candidate says now, without its role."""
        delta: Json = {}
        for part in (candidate.content and candidate.content.parts) or ():
            self._say_part(part, delta)
        if sources := list(self._annotations(candidate)):
            delta["annotations"] = [{"index": next(self.sources), **source} for source in sources]
        return delta

    def _say_part(self, part: _Part, delta: Json) -> None:
        if part.function_call is not None:
            if part.function_call.name:
                delta.setdefault("tool_calls", []).append(self._call(part, part.function_call))
            return
        if part.thought_signature:
            delta.setdefault("reasoning_details", []).append(
                {
                    "type": "reasoning.encrypted",
                    "data": part.thought_signature,
                    "format": SIGNATURE_FORMAT,
                    "index": next(self.signatures),
                }
            )
        if part.inline_data is not None:
            self._add_media(part.inline_data, delta)
        elif text := _text_of(part):
            name = "reasoning_content" if part.thought else "content"
            delta[name] = delta.get(name, "") + text
            if not part.thought:
                self.text.append(text)

    def _add_media(self, blob: _Blob, delta: Json) -> None:
        """An image as OpenRouter has it, speech as OpenAI has it: with its id said once."""
        if blob.mime_type.startswith("audio/"):
            if not self.has_audio:
                self.has_audio = True
                delta["audio"] = {"id": f"audio_{uuid4().hex[:24]}"}
            audio = delta.setdefault("audio", {})
            audio["data"] = audio.get("data", "") + blob.data
            return
        url = f"data:{blob.mime_type};base64,{blob.data}"
        image = {"index": next(self.images), "type": "image_url", "image_url": {"url": url}}
        delta.setdefault("images", []).append(image)

    def _call(self, part: _Part, called: _FunctionCall) -> Json:
        self.has_calls = True
        call: Json = {
            "index": next(self.calls),
            "id": called.id or f"call_{uuid4().hex[:24]}",
            "type": "function",
            "function": {
                "name": called.name,
                "arguments": loose_json.encode(called.args or {}).decode(),
            },
        }
        if part.thought_signature:
            call["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
        return call

    def _annotations(self, candidate: _Candidate) -> Iterator[Json]:
        grounding, cited = candidate.grounding_metadata, candidate.citation_metadata
        if grounding is None and cited is None:
            return
        places = _Places("".join(self.text))
        if grounding is not None:
            yield from self._grounds(grounding, places)
        if cited is not None:
            for source in (*(cited.citation_sources or ()), *(cited.citations or ())):
                if source.uri:
                    yield _annotation(source.uri, source.title, places.of(source))

    def _grounds(self, grounding: _Grounding, places: _Places) -> Iterator[Json]:
        pages = [
            source.web or source.retrieved_context or source.maps
            for source in grounding.grounding_chunks or ()
        ]
        for support in grounding.grounding_supports or ():
            place_of_text = places.of(support.segment or _Segment())
            for place in support.grounding_chunk_indices or ():
                page = pages[place] if 0 <= place < len(pages) else None
                if page is not None and page.uri:
                    yield _annotation(page.uri, page.title, place_of_text)
        if not grounding.grounding_supports:
            for page in pages:
                if page is not None and page.uri:
                    yield _annotation(page.uri, page.title, (0, 0))

    def finish(self, candidate: _Candidate) -> str | None:
        """OpenAI's finish reason; raises `UpstreamError` where the answer broke off."""
        reason = candidate.finish_reason
        if reason is None or reason in _NO_REASON:
            return None
        if reason in FINISH_REASONS:
            self.is_finished = True
            is_call = reason == "STOP" and self.has_calls
            return "tool_calls" if is_call else FINISH_REASONS[reason]
        raise UpstreamError(
            _because("the model broke its answer off with", reason, candidate.finish_message),
            status=200,
            type="upstream_error",
            code=_plain(reason),
        )


class _Places:
    """Places in a text: Google counts bytes, OpenAI characters."""

    def __init__(self, text: str) -> None:
        self._said = text.encode("utf-8", "replace")
        self._before = [0]
        for start in range(0, len(self._said), _STRIDE):
            self._before.append(self._before[-1] + self._characters(start, start + _STRIDE))

    def of(self, cited: _Segment | _Citation) -> tuple[int, int]:
        return self._place(cited.start_index), self._place(cited.end_index)

    def _place(self, place: int) -> int:
        place = min(max(0, place), len(self._said))
        is_within = self._said[place : place + 1] in _CONTINUED and place < len(self._said)
        whole, rest = divmod(place, _STRIDE)
        return self._before[whole] + self._characters(place - rest, place) - is_within

    def _characters(self, start: int, end: int) -> int:
        return len(self._said[start:end].translate(None, _CONTINUED))


def _annotation(url: str, title: str | None, place: tuple[int, int]) -> Json:
    start, end = place
    citation = {"url": url, "title": title or "", "start_index": start, "end_index": end}
    return {"type": "url_citation", "url_citation": citation}


def _text_of(part: _Part) -> str:
    if part.text:
        return part.text
    if part.executable_code is not None:
        code = part.executable_code
        return f"\n```{_LANGUAGES.get(code.language, '')}\n{code.code}\n```\n"
    if part.code_execution_result is not None:
        return f"\n```\n{part.code_execution_result.output}\n```\n"
    return part.file_data.file_uri if part.file_data is not None else ""


def _logprobs(result: _Logprobs) -> Json:
    tops = [top.candidates or [] for top in result.top_candidates or ()]
    entries = []
    for place, chosen in enumerate(result.chosen_candidates or ()):
        entry = _likelihood(chosen)
        entry["top_logprobs"] = [_likelihood(t) for t in (tops[place] if place < len(tops) else ())]
        entries.append(entry)
    return {"content": entries, "refusal": None}


def _likelihood(given: _Likelihood) -> Json:
    spelled = list(given.token.encode("utf-8", "replace"))
    logprob = given.log_probability if isinstance(given.log_probability, float) else _UNLIKELY
    return {"token": given.token, "logprob": logprob, "bytes": spelled}


def _usage(given: _Usage) -> Json:
    prompt = given.prompt_token_count + given.tool_use_prompt_token_count
    completion = given.candidates_token_count + given.thoughts_token_count
    usage: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": max(given.total_token_count, prompt + completion),
        "prompt_tokens_details": {"cached_tokens": given.cached_content_token_count},
        "completion_tokens_details": {"reasoning_tokens": given.thoughts_token_count},
    }
    for details, name in (
        (given.prompt_tokens_details, "prompt_tokens_details"),
        (given.candidates_tokens_details, "completion_tokens_details"),
    ):
        for detail in details or ():
            if detail.modality in ("AUDIO", "IMAGE"):
                usage[name][f"{detail.modality.lower()}_tokens"] = detail.token_count
    return usage


def _tier(given: _Usage | None) -> Json:
    tier = given.service_tier if given else None
    return {"service_tier": "default" if tier == "standard" else tier} if tier else {}


def _blocked(feedback: _Feedback | None) -> ContentRefused | None:
    """The error for a prompt that was blocked."""
    if feedback is None or feedback.block_reason in _NOT_BLOCKED:
        return None
    reason = feedback.block_reason or ""
    return ContentRefused(
        _because("the provider blocked the prompt with", reason, feedback.block_reason_message),
        status=400,
        type="invalid_request_error",
        code="content_filter",
    )


def _because(what: str, reason: str, message: str | None) -> str:
    return _plain(f"{what} {reason}: {message}" if message else f"{what} {reason}")


def _plain(text: str) -> str:
    """Words of bounded length, without what cannot be encoded."""
    return text[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()


# --- readers --------------------------------------------------------------------------------------


class ChatReader(EventReader):
    """Brings the answer to one `generateContent` or `streamGenerateContent` into OpenAI's shape.

    A stream has no end mark: it is whole when each candidate that began has its finish reason.
    """

    def __init__(self, model: str = "") -> None:
        """`model` is its name where the answer does not tell it."""
        super().__init__()
        self._model = model
        self._choices: dict[int, _Choice] = {}
        self._created = int(time.time())
        self._head: Json = {}
        self._text_head = b""
        self._has_said = False

    @property
    def is_whole(self) -> bool:
        """Whether a body that ends here is a whole answer."""
        return bool(self._choices) and all(c.is_finished for c in self._choices.values())

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """Raises an error that comes before everything else; a later one is a payload."""
        ready: list[bytes] = []
        for payload in payloads:
            if not payload:
                continue
            try:
                self._read_event(_read(_response, payload, "event"), ready)
            except UpstreamError as error:
                if not (self._has_said or ready):
                    raise
                ready.append(_error_payload(error))
                break
        self._has_said = self._has_said or bool(ready)
        return ready

    def _read_event(self, said: _Response, ready: list[bytes]) -> None:
        if said.error is not None:
            raise error_in(said.error)
        if (blocked := _blocked(said.prompt_feedback)) is not None:
            raise blocked
        if not self._head:
            self._begin(said)
        for candidate in said.candidates or ():
            ready.append(self._chunk(candidate))
        if said.usage_metadata is not None and self.is_whole:
            usage = {"choices": [], "usage": _usage(said.usage_metadata)}
            ready.append(loose_json.encode({**self._head, **_tier(said.usage_metadata), **usage}))

    def _begin(self, said: _Response) -> None:
        self._head = {
            "id": f"chatcmpl-{said.response_id or uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": said.model_version or self._model,
        }
        self._text_head = loose_json.encode(self._head)[:-1]

    def _chunk(self, candidate: _Candidate) -> bytes:
        choice = self._choices.get(candidate.index)
        if choice is None:
            choice = self._choices[candidate.index] = _Choice(candidate.index)
            delta = {"role": "assistant", **choice.say(candidate)}
        elif (text := _only_text(candidate)) is not None:
            choice.text.append(text)
            return b'%b,"choices":[{"index":%d,"delta":{"content":%b},"finish_reason":null}]}' % (
                self._text_head,
                candidate.index,
                loose_json.encode(text),
            )
        else:
            delta = choice.say(candidate)
        made: Json = {"index": choice.index, "delta": delta}
        if candidate.logprobs_result is not None:
            made["logprobs"] = _logprobs(candidate.logprobs_result)
        made["finish_reason"] = choice.finish(candidate)
        if choice.is_finished:
            made["native_finish_reason"] = candidate.finish_reason
        return loose_json.encode({**self._head, "choices": [made]})

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`, `ContentRefused` and `UpstreamError`."""
        said = _read(_response, body, "answer")
        if said.error is not None:
            raise error_in(said.error)
        if (blocked := _blocked(said.prompt_feedback)) is not None:
            raise blocked
        if not said.candidates:
            raise MalformedAnswer("the provider's answer has no candidates")
        self._begin(said)
        answer: Json = {**self._head, "object": "chat.completion"}
        answer["choices"] = [_whole(candidate) for candidate in said.candidates]
        if said.usage_metadata is not None:
            answer["usage"] = _usage(said.usage_metadata)
        return loose_json.encode({**answer, **_tier(said.usage_metadata)})


def _only_text(candidate: _Candidate) -> str | None:
    """The text of an event that has nothing else, as most of a stream do."""
    content = candidate.content
    if content is None or content.parts is None or len(content.parts) != 1:
        return None
    part = content.parts[0]
    if (
        candidate.finish_reason is not None
        or candidate.logprobs_result is not None
        or candidate.grounding_metadata is not None
        or candidate.citation_metadata is not None
        or part.thought
        or part.thought_signature
    ):
        return None
    return part.text or None


def _whole(candidate: _Candidate) -> Json:
    choice = _Choice(candidate.index)
    message = {"role": "assistant", "content": None, **choice.say(candidate)}
    for entry in (*message.get("tool_calls", ()), *message.get("annotations", ())):
        del entry["index"]
    if "audio" in message:
        message["audio"] |= {"transcript": "", "expires_at": 0}
    made: Json = {"index": choice.index, "message": message}
    made["logprobs"] = _logprobs(candidate.logprobs_result) if candidate.logprobs_result else None
    made["finish_reason"] = choice.finish(candidate) or "stop"
    made["native_finish_reason"] = candidate.finish_reason
    return made


class EmbeddingsReader(EventReader):
    """Brings the answer to one `batchEmbedContents` into OpenAI's shape."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer`."""
        said: _Embedded = _read(_embedded, body, "answer")
        data = [
            {"object": "embedding", "index": index, "embedding": embedding.values}
            for index, embedding in enumerate(said.embeddings)
        ]
        answer: Json = {"object": "list", "data": data, "model": self._model}
        if said.usage_metadata is not None and said.usage_metadata.prompt_token_count:
            tokens = said.usage_metadata.prompt_token_count
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return loose_json.encode(answer)


def read_models(body: bytes) -> tuple[list[str], str | None]:
    """The names on one page of the list of models, and the token of the next page."""
    said: _Models = _read(_models, body, "list of models")
    names = [model.name.removeprefix("models/") for model in said.models or ()]
    return names, said.next_page_token or None


# --- errors ---------------------------------------------------------------------------------------


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The error that an answer with an error status stands for."""
    try:
        value: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list) and value:
        value = value[0]
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        said = read_error(body)
        return upstream_error(error_family(status, said.message, None), status, said, headers)
    return _error(status, headers, error)


def error_in(error: Json) -> UpstreamError:
    """The error that an answer of status 200 holds."""
    status = error.get("code")
    return _error(status if type(status) is int and 400 <= status < 600 else 500, {}, error)


def _error(status: int, headers: Mapping[str, str], error: Json) -> UpstreamError:
    name, details = error.get("status"), error.get("details")
    found = [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    said = Said(
        message=read_error(loose_json.encode({"error": error})).message,
        code=_plain(name) if isinstance(name, str) else None,
    )
    family = FAMILIES.get(said.code or "", BadRequest)
    if family is BadRequest:
        family = error_family(status, said.message, None)
    if any(detail.get("reason") in _BAD_KEYS for detail in found):
        family = UpstreamAuth
    if (delay := _retry_delay(found)) is not None:
        headers = {"retry-after": str(delay), **headers}
    return upstream_error(family, status, said, headers)


def _retry_delay(details: Sequence[Json]) -> int | None:
    """The seconds that a `RetryInfo` asks to wait, such as `"34.4s"`."""
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                seconds = float(delay[:-1])
            except ValueError:
                continue
            if 0 <= seconds < 10**6:
                return math.ceil(seconds)
    return None


def _error_payload(error: UpstreamError) -> bytes:
    said = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return loose_json.encode({"error": said})
