"""What is read of requests for moderations, images, speech, transcriptions and rankings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AdapterError, MalformedAnswer, Unsupported, UpstreamError
from proxy.errors import InvalidRequest, UpstreamDown
from proxy.pricing import NO_UNITS, Units, Usage
from proxy.wire import images, moderations, rerank, speech, transcriptions
from proxy.wire.dialect import Identity, Request, Stream, Upstream
from proxy.wire.form import Form, Part

IDENTITY = Identity(request_id="r", model="m", created=1)
TARGET = Upstream(
    model="real",
    speaks=frozenset({"moderations", "images", "speech", "transcriptions", "rerank"}),
)


def _json(parse: Callable[[bytes], Request], **members: Any) -> Request:
    return parse(json.dumps({"model": "m", **members}).encode())


def _form(file: bytes = b"ID3" + bytes(997), **texts: str) -> Request:
    part = Part(name="file", filename="a.mp3", content_type="", data=memoryview(file))
    body, content_type = Form([part]).join({"model": "m", **texts})
    return transcriptions.parse(body, {b"content-type": content_type.encode()})


def _read(request: Request, answer: Any) -> tuple[Usage | None, bool]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    facts, whole = request.read_whole(request.endpoint, body, IDENTITY, reads_cost=False)
    return facts.usage, whole is not None


def _units(units: Units) -> Usage:
    return Usage(input_tokens=0, output_tokens=0, units=units)


MODERATION = _json(moderations.parse, input="Hello")
IMAGES = _json(images.parse, prompt="a gate", n=3, size="1024x1024", quality="auto")
SPEECH = _json(speech.parse, input="na\u00efve", voice="alloy")
RANKING = _json(rerank.parse, query="toll", documents=["a", {"text": "b"}])
TRANSCRIPTION = _form()
ALL = (MODERATION, IMAGES, SPEECH, RANKING, TRANSCRIPTION)


@pytest.mark.parametrize("request_", ALL, ids=lambda request: request.endpoint)
def test_a_target_that_does_not_speak_the_endpoint_is_not_asked(request_: Request) -> None:
    with pytest.raises(Unsupported, match=request_.endpoint):
        request_.upstream(Upstream(model="real"))


@pytest.mark.parametrize("request_", ALL, ids=lambda request: request.endpoint)
def test_only_the_model_is_changed(request_: Request) -> None:
    sent = request_.upstream(TARGET)
    assert sent.endpoint == request_.endpoint
    assert b"real" in sent.body and sent.dropped == ()
    if sent.content_type == "application/json":
        assert json.loads(sent.body)["model"] == "real"
    else:
        form = Form.parse(sent.body, sent.content_type.encode())
        assert (form.text("model"), bytes(form.required("file").data[:3])) == ("real", b"ID3")


@pytest.mark.parametrize("request_", ALL, ids=lambda request: request.endpoint)
@given(
    answer=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "results",
                        "data",
                        "text",
                        "usage",
                        "meta",
                        "index",
                        "relevance_score",
                        "duration",
                        "billed_units",
                        "search_units",
                        "input_tokens",
                        "total_tokens",
                        "seconds",
                        "error",
                        "size",
                        "quality",
                        "output_tokens",
                        "type",
                        "tokens",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_any_answer_is_read_or_refused(request_: Request, answer: Any) -> None:
    try:
        usage, _ = _read(request_, answer)
    except AdapterError:
        return
    assert usage is not None
    assert usage.input_tokens >= 0 and usage.units.audio_seconds >= 0


MEMBERS = [
    *("model", "prompt", "n", "size", "quality", "stream", "input", "documents", "query", "text"),
    *("type", "image_url", "image", "voice", "stream_format", "output_format", "metadata", "tags"),
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**64)
    | st.floats()
    | st.sampled_from(["", "m", "sse", "text", "auto", "\ud83d", "\x00", "svg"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=6)
    ),
    max_leaves=15,
)


@pytest.mark.parametrize(
    "parse",
    [moderations.parse, images.parse, speech.parse, rerank.parse],
    ids=["moderations", "images", "speech", "rerank"],
)
@given(
    st.fixed_dictionaries(
        {"model": st.just("m") | anything},
        optional={
            name: st.just("text") | anything
            for name in (
                "input",
                "prompt",
                "query",
                "documents",
                "n",
                "stream",
                "voice",
                "metadata",
            )
        },
    )
    | anything
)
def test_any_body_is_a_request_or_refused(parse: Callable[[bytes], Request], body: Any) -> None:
    try:
        request = parse(json.dumps(body).encode())
    except InvalidRequest:
        return
    sent = json.loads(request.upstream(TARGET).body)
    assert {**sent, "metadata": 0} == {**body, "model": "real", "metadata": 0}
    assert request.input_bound(10) > 0 and request.input_tokens >= 0
    assert request.n >= 1


# --- moderations ---------------------------------------------------------------------------


def test_a_moderation_names_no_model_at_openai() -> None:
    assert moderations.parse(b'{"input": "Hello"}').model == moderations.DEFAULT_MODEL


def test_the_images_of_a_moderation_are_counted() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5000}}
    request = _json(moderations.parse, input=[{"type": "text", "text": "Hi"}, picture])
    assert request.images == 1
    assert request.input_bound(1000) < 2000


@pytest.mark.parametrize("wrong", [5, [], [5], {"type": "text"}, [{"text": "no type"}], None])
def test_what_is_no_input_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _json(moderations.parse, input=wrong)
    assert refused.value.param == "input"


def test_a_moderation_without_results_is_no_answer() -> None:
    assert _read(MODERATION, {"results": []}) == (Usage(input_tokens=0, output_tokens=0), False)


# --- images --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({}, ""),
        ({"size": "auto", "quality": "auto"}, ""),
        ({"size": "1024x1024"}, "1024x1024"),
        ({"quality": "high"}, "/high"),
        ({"size": "1024x1024", "quality": "high"}, "1024x1024/high"),
    ],
)
def test_what_kind_of_image_is_asked_for(members: dict[str, str], kind: str) -> None:
    request = _json(images.parse, prompt="a gate", **members)
    assert request.units == Units(generated_images=1, image_kind=kind)


def test_images_are_counted_in_the_answer_and_of_the_kind_it_tells() -> None:
    answer = {"data": [{"url": "x"}, {"url": "y"}], "quality": "low"}
    expected = _units(Units(generated_images=2, image_kind="1024x1024/low"))
    assert _read(IMAGES, answer) == (expected, True)


@pytest.mark.parametrize(
    ("details", "pictured"), [({}, 700), ({"output_tokens_details": {"image_tokens": 600}}, 600)]
)
def test_tokens_of_images_are_told_apart(details: dict[str, Any], pictured: int) -> None:
    usage = {"input_tokens": 50, "output_tokens": 700, "total_tokens": 750, **details}
    read, _ = _read(IMAGES, {"data": [{}], "usage": usage})
    assert read is not None
    assert (read.input_tokens, read.output_tokens, read.output_image_tokens) == (50, 700, pictured)


def test_an_answer_without_images_is_no_answer() -> None:
    assert _read(IMAGES, {"data": []})[1] is False


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"svg": {"model": "x"}}, "svg"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"image": "data:"}, "image"),
        ({"image": None}, None),
        ({"batch_size": 4}, "batch_size"),
        ({"num_images": 4}, "num_images"),
        ({"output_format": "png"}, None),
    ],
)
def test_images_whose_cost_has_no_bound(members: dict[str, Any], param: str | None) -> None:
    assert _json(images.parse, prompt="a gate", **members).unbounded == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "n"),
        ({"n": 2, "stream": True}, "n"),
        ({"size": 5}, "size"),
        ({"model": ""}, "model"),
    ],
)
def test_a_wrong_request_for_images_is_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _json(images.parse, **{"prompt": "a gate", **members})
    assert refused.value.param == param


# --- speech --------------------------------------------------------------------------------


def test_characters_are_counted_and_not_bytes() -> None:
    assert SPEECH.units == Units(characters=5)
    facts, whole = SPEECH.read_whole("speech", b"", IDENTITY, reads_cost=False)
    assert (facts.usage, whole) == (_units(SPEECH.units), None)


def test_speech_that_comes_in_events_tells_its_usage() -> None:
    request = _json(speech.parse, input="Hi", voice="alloy", stream_format="sse")
    assert request.stream
    stream = request.read_stream("speech", IDENTITY, reads_cost=False)
    usage = {"input_tokens": 4, "output_tokens": 30, "total_tokens": 34}
    _feed(stream, {"type": "speech.audio.delta", "audio": "aGk="})
    assert not stream.is_finished
    _feed(stream, {"type": "speech.audio.done", "usage": usage})
    assert stream.is_finished and stream.usage is not None
    assert (stream.usage.output_audio_tokens, stream.usage.units.characters) == (30, 2)


@pytest.mark.parametrize("members", [{"input": ""}, {"input": 5}, {"stream_format": "wav"}])
def test_a_wrong_request_for_speech_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        _json(speech.parse, **{"input": "Hi", "voice": "alloy", **members})


# --- rankings ------------------------------------------------------------------------------


def test_documents_count_with_the_query() -> None:
    (first, second) = RANKING.units.document_bytes
    assert first == len('"a"') + len('"toll"') + rerank.PAIR_TOKENS
    assert second == len('{"text": "b"}') + len('"toll"') + rerank.PAIR_TOKENS
    assert RANKING.input_bound(0) >= first + second


@pytest.mark.parametrize(
    ("answer", "tokens", "searches"),
    [
        ({}, 0, None),
        ({"usage": {"total_tokens": 30}}, 30, None),
        ({"usage": {"prompt_tokens": 20, "total_tokens": 30}}, 30, None),
        ({"meta": {"billed_units": {"search_units": 2}}}, 0, 2),
        ({"meta": {"billed_units": {"search_units": 1.5}}}, 0, 2),
        ({"meta": {"billed_units": {"search_units": -1}}}, 0, None),
        ({"meta": {"billed_units": {"search_units": "1"}}}, 0, None),
        ({"meta": {"tokens": {"input_tokens": 40}}}, 40, None),
        ({"usage": {"total_tokens": -5}}, 0, None),
    ],
)
def test_what_a_ranking_took(answer: dict[str, Any], tokens: int, searches: int | None) -> None:
    result = {"index": 1, "relevance_score": 0.5}
    usage, is_whole = _read(RANKING, {"results": [result], **answer})
    assert usage is not None and is_whole
    assert (usage.input_tokens, usage.units.searches) == (tokens, searches)


def test_a_ranking_of_documents_that_were_not_sent_is_no_answer() -> None:
    assert _read(RANKING, {"results": [{"index": 2, "relevance_score": 0.5}]})[1] is False


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"query": {"image": "http://x"}}, "query"),
        ({"documents": ["a", {"image": "http://x"}]}, "documents[1]"),
        ({"documents": [{"content": [{"type": "image_url"}]}]}, "documents[0]"),
        ({"documents": [{"text": "a", "title": "b", "year": 1}]}, None),
        ({"query": {"text": "toll"}}, None),
    ],
)
def test_rankings_whose_cost_has_no_bound(members: dict[str, Any], param: str | None) -> None:
    request = _json(rerank.parse, **{"query": "toll", "documents": ["a"], **members})
    assert request.unbounded == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"query": 5}, "query"),
    ],
)
def test_a_wrong_request_for_a_ranking_is_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _json(rerank.parse, **{"query": "toll", "documents": ["a"], **members})
    assert refused.value.param == param


# --- transcriptions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"usage": {"type": "duration", "seconds": 9}}, 9),
        ({"usage": {"type": "duration", "seconds": 8.2}}, 9),
        ({"duration": 8.47}, 9),
        ({"duration": "8.47"}, 9),
        ({"duration": "long"}, None),
        ({"duration": -1}, None),
        ({"duration": True, "usage": {"seconds": None}}, 1),
        ({}, None),
    ],
)
def test_seconds_are_those_that_the_provider_tells(
    answer: dict[str, Any], seconds: int | None
) -> None:
    units = NO_UNITS if seconds is None else Units(audio_seconds=seconds)
    assert _read(TRANSCRIPTION, {"text": "Hi", **answer}) == (_units(units), True)


def test_tokens_of_sound_are_told_apart() -> None:
    usage = {
        "input_tokens": 14,
        "input_token_details": {"audio_tokens": 10},
        "output_tokens": 5,
        "total_tokens": 19,
    }
    read, _ = _read(TRANSCRIPTION, {"text": "Hi", "usage": usage})
    assert read == Usage(input_tokens=14, input_audio_tokens=10, output_tokens=5)


def test_bytes_of_sound_are_no_bytes_of_text() -> None:
    request = _form(bytes(10_000_000), prompt="names: Ada")
    assert request.input_bound(0) < 1000
    assert request.units.audio_seconds == 20_000


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
def test_texts_go_on_as_they_are(kind: str) -> None:
    request = _form(response_format=kind)
    facts, whole = request.read_whole(
        "transcriptions", "Gr\u00fc\u00dfe\n".encode(), IDENTITY, reads_cost=False
    )
    assert whole is not None and whole.content_type.startswith(b"text/plain")
    assert (whole.body.decode(), facts.usage) == ("Gr\u00fc\u00dfe\n", _units(NO_UNITS))
    with pytest.raises(MalformedAnswer):
        request.read_whole("transcriptions", b"\xff", IDENTITY, reads_cost=False)


@pytest.mark.parametrize(
    ("texts", "param"),
    [
        ({"response_format": "xml"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"model": ""}, "model"),
    ],
)
def test_a_wrong_request_for_a_transcription_is_refused(texts: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _form(**texts)
    assert refused.value.param == param


@pytest.mark.parametrize("name", ["url", "file_url", "file_id"])
def test_sound_that_is_somewhere_else_has_no_bound(name: str) -> None:
    assert _form(**{name: "https://example.com/ten-hours.mp3"}).unbounded == name


def test_voices_that_are_sent_along_have_no_bound() -> None:
    assert _form(**{"known_speaker_references[]": "data:"}).unbounded == (
        "known_speaker_references[]"
    )


# --- streams -------------------------------------------------------------------------------


def _feed(stream: Stream, *events: Any) -> bytes:
    payloads = [
        event if isinstance(event, bytes) else json.dumps(event).encode() for event in events
    ]
    written, failure = stream.feed_all(payloads)
    if failure is not None:
        raise failure
    return written


def _stream() -> Stream:
    return _form(stream="true").read_stream("transcriptions", IDENTITY, reads_cost=False)


def test_events_go_on_as_they_came_up_to_the_last() -> None:
    stream = _stream()
    first = b'{"type": "transcript.text.delta", "delta": "Hi \\ud83d", "new": [1.0]}'
    assert _feed(stream, first) == b"data: %b\n\n" % first
    assert stream.has_payload and not stream.is_finished and stream.output_bytes > 0
    last = {
        "type": "transcript.text.done",
        "text": "Hi",
        "usage": {"type": "duration", "seconds": 3},
    }
    written = _feed(stream, last, {"type": "more"})
    assert written.count(b"data: ") == 1
    assert stream.is_finished and stream.end() == b""
    assert stream.usage == _units(Units(audio_seconds=3))


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b"nonsense", MalformedAnswer),
        (b"[]", MalformedAnswer),
        (b"{}", MalformedAnswer),
        (b'{"type": 5}', MalformedAnswer),
        (b'{"type": "transcript.text.delta", "x": "\xff"}', MalformedAnswer),
        ({"error": {"message": "overloaded"}}, UpstreamError),
        ({"type": "error", "error": {"message": "overloaded"}}, UpstreamError),
    ],
)
def test_an_event_that_is_none_breaks_the_stream(event: Any, error: type[AdapterError]) -> None:
    stream = _stream()
    with pytest.raises(error):
        _feed(stream, event)
    assert not stream.is_finished
    failed = json.loads(stream.fail(UpstreamDown("it broke"))[6:])
    assert failed["error"]["message"] == "it broke"
