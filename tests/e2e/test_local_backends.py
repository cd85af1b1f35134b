"""One contract for every local back end, by the OpenAI SDK, and what some cannot keep of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from openai import (
    APIError,
    APIStatusError,
    BadRequestError,
    LengthFinishReasonError,
    NotFoundError,
    OpenAI,
)
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e.local_backends import BACKENDS, SAID, Running

PATIENCE_S = 60.0
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}
PAINT: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"kind": {"enum": ["red"]}},
            "required": ["kind"],
            "additionalProperties": False,
        },
    },
}

# By back end: the tests that it fails. One that it passes fails here.
FAILURES = (APIStatusError, AssertionError, LengthFinishReasonError, pytest.fail.Exception)
VECTORS_ONLY = "it makes vectors, and says nothing"
CANNOT = {
    "minilm": dict.fromkeys(
        (
            *("test_an_answer_and_what_it_took", "test_a_stream_is_the_same_answer"),
            *("test_a_completion", "test_what_it_does_not_read_is_dropped_if_asked"),
            *("test_a_stop_ends_the_answer", "test_a_function_is_called_when_it_must_be"),
            *("test_a_function_is_called_where_the_model_wants_to", "test_json_of_a_schema"),
            *("test_a_client_that_leaves_makes_room", "test_callers_at_the_same_time"),
            *("test_what_is_too_long_is_refused_by_name", "test_pictures_are_refused"),
            "test_a_model_that_dies_in_a_stream_and_comes_back",
        ),
        VECTORS_ONLY,
    ),
    "llama_server": {
        "test_a_function_is_called_when_it_must_be": "it may babble before the call",
        "test_what_it_does_not_read_is_dropped_if_asked": "it reads over what it does not know",
    },
    "ollama": {
        "test_a_function_is_called_when_it_must_be": "it leaves that to the model",
        "test_pictures_are_refused": "it alone knows whether a model sees",
    },
}


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend.name)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    backend = request.param
    if backend.missing is not None:
        pytest.skip(backend.missing)
    with backend.start(tmp_path_factory.mktemp(backend.name)) as started:
        yield started


@pytest.fixture(autouse=True)
def _known_to_fail(request: pytest.FixtureRequest) -> None:
    if "running" not in request.fixturenames:
        return
    name = request.node.callspec.params["running"].name
    if reason := CANNOT.get(name, {}).get(request.function.__name__):
        request.applymarker(pytest.mark.xfail(reason=reason, raises=FAILURES, strict=True))


def test_what_some_cannot_keep_is_of_this_contract() -> None:
    assert CANNOT.keys() <= {backend.name for backend in BACKENDS}
    named = {name for tests in CANNOT.values() for name in tests}
    assert named <= {name for name in globals() if name.startswith("test_")}


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{running.tollway.url}/v1", api_key="x", timeout=PATIENCE_S, max_retries=0
    ) as client:
        yield client


def _text(client: OpenAI, model: str, **asked: Any) -> str:
    answer = client.chat.completions.create(
        model=model, **{"messages": HELLO, "temperature": 0, **asked}
    )
    return answer.choices[0].message.content or ""


def test_an_answer_and_what_it_took(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="mine", messages=HELLO)
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage and usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens in (3, 4)  # some count the token that ends the answer


def test_a_stream_is_the_same_answer(client: OpenAI) -> None:
    *chunks, last = client.chat.completions.create(
        model="mine", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(filter(None, said)) == SAID
    assert last.usage and last.usage.completion_tokens in (3, 4)


def test_a_completion(running: Running, client: OpenAI) -> None:
    completion = client.completions.create(model=running.name("canned"), prompt="Hello")
    assert completion.choices[0].text == SAID
    assert completion.usage and completion.usage.completion_tokens in (3, 4)


def test_what_it_does_not_read_is_dropped_if_asked(running: Running, client: OpenAI) -> None:
    body = {"prediction": {"type": "content", "content": "Good"}}
    model = running.name("canned")
    with pytest.raises(BadRequestError, match="prediction"):
        client.chat.completions.create(model=model, messages=HELLO, extra_body=body)
    answer = client.chat.completions.with_raw_response.create(
        model=model,
        messages=HELLO,
        extra_body=body,
        extra_headers={"x-tollway-drop-params": "true"},
    )
    assert answer.headers["x-tollway-dropped-params"] == "prediction"
    assert answer.parse().choices[0].message.content == SAID


def test_a_stop_ends_the_answer(running: Running, client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=running.name("canned"), messages=HELLO, stop=[" day"]
    )
    assert answer.choices[0].message.content == "Good"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_function_is_called_when_it_must_be(
    running: Running, client: OpenAI, is_streamed: bool
) -> None:
    call = _call(client, running.name("babbling"), is_streamed, tool_choice="required")
    assert call == ("paint", {"kind": "red"})


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_function_is_called_where_the_model_wants_to(
    running: Running, client: OpenAI, is_streamed: bool
) -> None:
    call = _call(client, running.name("calling"), is_streamed)
    assert call == ("paint", {"kind": "red"})


def _call(client: OpenAI, model: str, is_streamed: bool, **asked: Any) -> tuple[str, Any]:
    asked = {"messages": HELLO, "tools": [PAINT], "temperature": 0, "max_tokens": 400, **asked}
    if is_streamed:
        with client.chat.completions.stream(model=model, **asked) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = cast(Any, client.chat.completions.create(model=model, **asked)).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    return call.function.name, json.loads(call.function.arguments)


def test_json_of_a_schema(running: Running, client: OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    said = json.loads(_text(client, running.name("babbling"), response_format=wanted))
    assert said["kind"] in ("red", "green") and isinstance(said["sure"], bool)
    assert set(said) == {"kind", "sure"}


def test_vectors_are_the_same_in_either_format(running: Running, client: OpenAI) -> None:
    asked = {"model": running.name("embed"), "input": ["the cat", "dog"]}
    packed = client.embeddings.create(**asked)  # the SDK asks for base64 by itself
    plain = client.embeddings.create(**asked, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    cat, dog = (entry.embedding for entry in plain.data)
    assert len(cat) == len(dog) and cat != dog
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


def test_a_client_that_leaves_makes_room(running: Running, client: OpenAI) -> None:
    model = running.name("babbling")
    asked = {"model": model, "messages": HELLO, **running.endless}
    start_s = running.busy_s("babbling") if _text(client, model, max_tokens=1) else None
    if start_s is not None:
        _text(client, model, **{**running.endless, "max_tokens": 3000})
        whole_s = (running.busy_s("babbling") or 0) - start_s
    with client.chat.completions.create(**asked, stream=True) as stream:
        assert next(stream)
    left_s = running.busy_s("babbling")
    # The answer that was left would have taken ten times as long, and this one waited for it.
    assert _text(client, model, max_tokens=1)
    if start_s is not None:
        assert (running.busy_s("babbling") or 0) - (left_s or 0) < whole_s


def test_callers_at_the_same_time(running: Running, client: OpenAI) -> None:
    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"Number {number % 4}"}]
        return _text(client, running.name("babbling"), messages=messages, max_tokens=12)

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == alone * 4


def test_vectors_at_the_same_time(running: Running, client: OpenAI) -> None:
    def ask(number: int) -> list[float]:
        text = ["the cat", "dog", "a mat", "on"][number % 4]
        return client.embeddings.create(model=running.name("embed"), input=text).data[0].embedding

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ask, range(16)))
    for one, other in zip(made, alone * 4, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_what_is_too_long_is_refused_by_name(running: Running, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        _text(
            client,
            running.name("canned"),
            messages=[{"role": "user", "content": "word " * 3000}],
        )
    assert refused.value.code == "context_length_exceeded"


def test_a_text_too_long_for_a_vector_is_refused(running: Running, client: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        client.embeddings.create(model=running.name("embed"), input="the cat " * 2000)


def test_pictures_are_refused(running: Running, client: OpenAI) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    with pytest.raises(BadRequestError) as refused:
        _text(client, running.name("canned"), messages=[{"role": "user", "content": parts}])
    assert "image" in refused.value.message


def test_a_model_that_nobody_has(running: Running, client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as refused:
        _text(client, running.name("nobody"))
    assert refused.value.code == "model_not_found"


def test_a_model_that_dies_in_a_stream_and_comes_back(running: Running, client: OpenAI) -> None:
    model = running.name("babbling")
    asked = {"model": model, "messages": HELLO, **running.endless}
    with client.chat.completions.create(**asked, stream=True) as stream:
        assert next(stream)
        running.kill("babbling")
        with pytest.raises(APIError) as broken:
            deque(stream, maxlen=0)
    # The SDK has it from an event: by the connection's end, or [DONE], it would be content.
    assert not isinstance(broken.value, APIStatusError) and broken.value.code == "upstream_error"
    running.revive()
    assert _text(client, model, max_tokens=1)


def test_a_model_of_vectors_that_dies_comes_back(running: Running, client: OpenAI) -> None:
    asked = {"model": running.name("embed"), "input": "the cat"}
    before = client.embeddings.create(**asked).data[0].embedding
    running.kill("embed")
    running.revive()
    after = client.embeddings.create(**asked).data[0].embedding
    assert after == pytest.approx(before, abs=1e-5)
