"""Moderations, images, transcriptions, speech and reranking: relayed, paid for, and refused."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.e2e.tollway import Tollway, serving
from tests.e2e.upstream import Call, Line, Script, Upstream

SOUND = b"\xff\xf3" + bytes(range(256)) * 40
PICTURES = {
    "created": 1,
    "size": "1024x1024",
    "quality": "low",
    "data": [{"b64_json": "aGk="}, {"b64_json": "aG8="}],
}
TRANSCRIPT = {"text": "Good morning", "usage": {"type": "duration", "seconds": 90}}
RANKING = {
    "id": "r1",
    "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
    "meta": {"billed_units": {"search_units": 1}},
}
JUDGED = {
    "id": "modr-1",
    "model": "omni",
    "results": [{"flagged": False, "categories": {}, "category_scores": {}}],
}


def answering(value: object) -> Script:
    async def script(call: Call, line: Line) -> None:
        await line.json(value)

    return script


async def speaking(call: Call, line: Line) -> None:
    await line.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for start in range(0, len(SOUND), 1000):
        await line.chunk(SOUND[start : start + 1000])
    await line.send(b"0\r\n\r\n")


def _config(upstream: Upstream) -> dict[str, Any]:
    prices: dict[str, Any] = {
        "omni-moderation-latest": "free",
        "gpt-image": {"per_generated_image": {"low": 0.01, "1024x1024/high": 0.17}},
        "gpt-image-tokens": {"input": 5, "output": 40},
        "whisper-1": {"per_minute": 0.006},
        "transcribe-tokens": {"input": 2.5, "input_audio": 6, "output": 10},
        "tts-1": {"characters": 15},
        "tts-tokens": {"input": 0.6, "output": 12},
        "rerank-1": {"per_search": 0.002},
    }
    outputs = {"gpt-image-tokens": 5000, "transcribe-tokens": 2000, "tts-tokens": 10_000}
    return {
        "providers": {"up": {"base_url": upstream.base_url, "api_key": "sk-upstream"}},
        "targets": [
            {
                "target": f"up/{model}",
                "price": price,
                **({"max_output_tokens": outputs[model]} if model in outputs else {}),
            }
            for model, price in prices.items()
        ],
        "models": {
            "everything": {"targets": [f"up/{model}" for model in prices]},
        },
    }


@pytest.fixture(scope="module")
def media(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    with serving(tmp_path_factory.mktemp("media"), _config(upstream)) as running:
        yield running


@pytest.fixture
def client(media: Tollway) -> Iterator[OpenAI]:
    key = media.admin("POST", "/keys", {"name": "media"})
    budget = {"scope": f"key:{key['id']}", "window": "lifetime", "limit_usd": 50}
    media.admin("POST", "/budgets", budget)
    with OpenAI(base_url=f"{media.url}/v1", api_key=key["key"], max_retries=0) as client:
        yield client


def test_a_moderation_is_free_and_recorded(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    upstream.scripts["omni-moderation-latest"] = answering(JUDGED)
    answer = client.moderations.create(input="be kind")
    assert answer.results[0].flagged is False
    (call,) = upstream.calls
    assert call.path == "/v1/moderations"
    assert call.body == {"input": "be kind", "model": "omni-moderation-latest"}
    row = media.rows()[-1]
    assert (row["endpoint"], row["outcome"], row["cost_nanousd"]) == ("moderations", "ok", 0)
    assert row["priced"] and not row["estimated"]


def test_images_cost_what_was_made(upstream: Upstream, media: Tollway, client: OpenAI) -> None:
    upstream.scripts["gpt-image"] = answering(PICTURES)
    answer = client.images.generate(model="gpt-image", prompt="a toll gate", n=3, quality="high")
    assert answer.data is not None
    assert [image.b64_json for image in answer.data] == ["aGk=", "aG8="]
    row = media.rows()[-1]
    # Held: three of the dearest kind. Made: two, in low quality.
    assert (row["hold_nanousd"], row["cost_nanousd"]) == (510_000_000, 20_000_000)
    assert not row["estimated"]


def test_images_that_are_billed_in_tokens(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 50},
        "output_tokens": 2000,
        "total_tokens": 2050,
    }
    upstream.scripts["gpt-image-tokens"] = answering({**PICTURES, "usage": usage})
    client.images.generate(model="gpt-image-tokens", prompt="a toll gate", n=2)
    row = media.rows()[-1]
    assert row["cost_nanousd"] == 50 * 5_000 + 2000 * 40_000
    assert row["hold_nanousd"] > 2 * 5000 * 40_000
    assert (row["output_tokens"], row["estimated"]) == (2000, 0)


def test_images_are_streamed(upstream: Upstream, media: Tollway, client: OpenAI) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        for kind, extra in (
            ("image_generation.partial_image", {"partial_image_index": 0}),
            ("image_generation.completed", {"usage": {"input_tokens": 9, "output_tokens": 700}}),
        ):
            event = {"type": kind, "b64_json": "aGk=", "size": "1024x1024", **extra}
            await line.chunk(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
        await line.until_closed()

    upstream.scripts["gpt-image-tokens"] = script
    stream = client.images.generate(
        model="gpt-image-tokens", prompt="a gate", stream=True, partial_images=1
    )
    assert [event.type for event in stream] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    row = media.rows()[-1]
    assert (row["cost_nanousd"], row["estimated"]) == (9 * 5_000 + 700 * 40_000, 0)


def _wav(seconds: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(8000)
        wav.writeframes(bytes(16_000 * seconds))
    return file.getvalue()


def test_a_transcription_costs_what_the_provider_says_it_heard(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    upstream.scripts["whisper-1"] = answering(TRANSCRIPT)
    sound = _wav(100)
    answer = client.audio.transcriptions.create(
        model="up/whisper-1", file=("talk.wav", sound), language="en"
    )
    assert answer.text == "Good morning"
    (call,) = upstream.calls
    assert call.path == "/v1/audio/transcriptions"
    assert sound in call.raw and b'filename="talk.wav"' in call.raw and b'"language"' in call.raw
    row = media.rows()[-1]
    assert (row["hold_nanousd"], row["cost_nanousd"]) == (10_000_000, 9_000_000)
    assert not row["estimated"]


@pytest.mark.parametrize(
    ("response_format", "file", "cost", "estimated"),
    [
        ("text", _wav(30), 3_000_000, 0),  # exact: 30 seconds of plain WAV
        ("srt", b"ID3" + bytes(9_997), 2_000_000, 1),  # at most 20 seconds in ten kilobytes
    ],
)
def test_a_transcript_that_tells_no_length_costs_what_its_file_can_hold(
    upstream: Upstream,
    media: Tollway,
    client: OpenAI,
    response_format: Any,
    file: bytes,
    cost: int,
    estimated: int,
) -> None:
    async def script(call: Call, line: Line) -> None:
        text = "Good morning\n"
        await line.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\n"
            + text.encode()
        )

    upstream.scripts["whisper-1"] = script
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=("talk", file), response_format=response_format
    )
    assert answer == "Good morning\n"
    row = media.rows()[-1]
    assert (row["cost_nanousd"], row["estimated"]) == (cost, estimated)


def test_a_transcription_is_streamed(upstream: Upstream, media: Tollway, client: OpenAI) -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 100,
        "input_token_details": {"audio_tokens": 90, "text_tokens": 10},
        "output_tokens": 5,
        "total_tokens": 105,
    }

    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        for word in ("Good", " morning"):
            await line.event({"type": "transcript.text.delta", "delta": word})
        await line.event({"type": "transcript.text.done", "text": "Good morning", "usage": usage})
        await line.end_stream()

    upstream.scripts["transcribe-tokens"] = script
    stream = client.audio.transcriptions.create(
        model="transcribe-tokens", file=("talk.wav", _wav(9)), stream=True
    )
    texts = [event.delta if event.type == "transcript.text.delta" else "." for event in stream]
    assert "".join(texts) == "Good morning."
    row = media.rows()[-1]
    assert row["cost_nanousd"] == 10 * 2_500 + 90 * 6_000 + 5 * 10_000
    assert row["hold_nanousd"] >= row["cost_nanousd"]


def test_a_transcription_that_breaks_off_does_not_look_like_an_end(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event({"type": "transcript.text.delta", "delta": "Good"})
        await line.send(b"0\r\n\r\n")

    upstream.scripts["transcribe-tokens"] = script
    stream = client.audio.transcriptions.create(
        model="transcribe-tokens", file=("talk.wav", _wav(9)), stream=True
    )
    with pytest.raises(openai.APIError, match="broke its answer off"):
        list(stream)
    row = media.rows()[-1]
    assert (row["outcome"], row["estimated"]) == ("broken", 1)


def test_speech_is_relayed_as_it_comes(upstream: Upstream, media: Tollway, client: OpenAI) -> None:
    upstream.scripts["tts-1"] = speaking
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Grüß Gott" * 10
    ) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        assert answer.headers["x-tollway-model"] == "up/tts-1"
        assert b"".join(answer.iter_bytes()) == SOUND
    row = media.rows()[-1]
    assert (row["hold_nanousd"], row["cost_nanousd"]) == (90 * 15_000, 90 * 15_000)
    assert (row["outcome"], row["estimated"]) == ("ok", 0)
    assert row["first_token_us"]


def test_speech_that_is_billed_in_tokens_is_estimated(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    upstream.scripts["tts-tokens"] = speaking
    client.audio.speech.create(model="tts-tokens", voice="alloy", input="a" * 100).read()
    row = media.rows()[-1]
    assert (row["output_tokens"], row["estimated"]) == (150, 1)
    assert 150 * 12_000 < row["cost_nanousd"] < row["hold_nanousd"]


def _speak(client: OpenAI, *, into: io.BytesIO) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Hello"
    ) as answer:
        for piece in answer.iter_bytes():
            into.write(piece)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_speech_that_breaks_off_breaks_the_connection(
    upstream: Upstream, media: Tollway, client: OpenAI, framing: str
) -> None:
    async def script(call: Call, line: Line) -> None:
        header = "transfer-encoding: chunked" if framing == "chunked" else "content-length: 9000"
        await line.send(f"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n{header}\r\n\r\n".encode())
        await (line.chunk if framing == "chunked" else line.send)(SOUND[:1000])
        raise ConnectionResetError

    upstream.scripts["tts-1"] = script
    received = io.BytesIO()
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        _speak(client, into=received)
    assert SOUND.startswith(received.getvalue())
    row = media.rows()[-1]
    assert (row["outcome"], row["cost_nanousd"]) == ("broken", 5 * 15_000)


def test_speech_that_nobody_hears_is_settled(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await line.chunk(SOUND)
        await line.until_closed()

    upstream.scripts["tts-1"] = script
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Hello"
    ) as answer:
        assert next(answer.iter_bytes())
    assert upstream.wait_for_calls(1)[0].closed.wait(10)
    row = media.rows()[-1]
    assert (row["outcome"], row["cost_nanousd"]) == ("client_gone", 5 * 15_000)


def test_speech_falls_back_before_its_first_piece(
    upstream: Upstream, media: Tollway, client: OpenAI
) -> None:
    async def fail(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "busy"}}, status="503 Service Unavailable")

    async def page(call: Call, line: Line) -> None:
        await line.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"
        )

    async def silence(call: Call, line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 0\r\n\r\n")

    for first in (fail, page, silence):
        upstream.scripts |= {"tts-1": first, "tts-tokens": speaking}
        answer = client.audio.speech.with_raw_response.create(
            model="everything", voice="alloy", input="Hello"
        )
        assert answer.headers["x-tollway-attempts"] == "2"
        assert answer.headers["x-tollway-policy"] == "ordered"
        assert answer.content == SOUND


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked(
    upstream: Upstream, media: Tollway, client: OpenAI, path: str
) -> None:
    upstream.scripts["rerank-1"] = answering(RANKING)
    body = {"model": "everything", "query": "toll", "documents": ["a", {"text": "b"}], "top_n": 2}
    answer = httpx2.post(
        media.url + path, json=body, headers={"authorization": f"Bearer {client.api_key}"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"] == RANKING["results"]
    assert answer.headers["x-tollway-cost-usd"] == "0.002000000"
    (call,) = upstream.calls
    assert call.body == {**body, "model": "rerank-1"}
    row = media.rows()[-1]
    assert (row["virtual_model"], row["cost_nanousd"]) == ("everything", 2_000_000)


def test_a_key_may_be_kept_to_its_endpoints(media: Tollway, upstream: Upstream) -> None:
    key = media.admin("POST", "/keys", {"name": "judge", "endpoints": ["moderations", "speech"]})
    headers = {"authorization": f"Bearer {key['key']}"}
    body = {"model": "everything", "prompt": "a gate"}
    answer = media.post("/v1/images/generations", body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    assert upstream.calls == []


def test_a_model_of_another_kind_is_refused(media: Tollway, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has no images"):
        client.images.generate(model="whisper-1", prompt="a gate")
