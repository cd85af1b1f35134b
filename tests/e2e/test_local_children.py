"""GGUF files and sentence encoders end to end, by the real libraries where they are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.tollway import serving
from tests.models import make_gguf

LLAMA = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)
VECTORS = pytest.mark.skipif(
    not all(map(find_spec, ("numpy", "safetensors", "tokenizers"))),
    reason="the extra `embeddings` is not installed",
)
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("local")
    make_gguf.canned(folder / "canned.gguf", [b"Good", b" day", b"!"])
    make_gguf.babbling(folder / "babbling.gguf")
    small = {"backend": "llama_cpp", "needs_mb": 100, "context_length": 1024}
    targets = [
        {"target": "local/canned", "model": "canned.gguf", **small},
        {"target": "local/babbling", "model": "babbling.gguf", **small},
    ]
    if find_spec("numpy") and find_spec("safetensors") and find_spec("tokenizers"):
        from tests.models.make_bert import bert  # it needs them

        bert(folder / "bert")
        vectors = {"backend": "minilm", "needs_mb": 200, "capabilities": ["embeddings"]}
        targets.append({"target": "local/bert", "model": "bert", **vectors})
    config = {
        "providers": {"local": {"adapter": "local", "folder": str(folder)}},
        "targets": targets,
        "models": {"mine": {"targets": ["local/canned"]}},
        "host": {"memory_mb": 1000},
    }
    with (
        serving(folder, config) as running,
        OpenAI(base_url=f"{running.url}/v1", api_key="x") as client,
    ):
        yield client


@LLAMA
def test_a_virtual_model_of_a_local_file(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="mine", messages=HELLO)
    assert answer.choices[0].message.content == "Good day!"
    assert answer.usage and answer.usage.completion_tokens == 3
    completion = client.completions.create(model="local/canned", prompt="Hello")
    assert completion.choices[0].text == "Good day!"


@LLAMA
def test_what_a_child_does_not_read_is_dropped_if_asked(client: OpenAI) -> None:
    body = {"prediction": {"type": "content", "content": "Good"}}
    with pytest.raises(BadRequestError, match="prediction"):
        client.chat.completions.create(model="local/canned", messages=HELLO, extra_body=body)
    answer = client.chat.completions.with_raw_response.create(
        model="local/canned",
        messages=HELLO,
        extra_body=body,
        extra_headers={"x-tollway-drop-params": "true"},
    )
    assert answer.headers["x-tollway-dropped-params"] == "prediction"
    assert answer.parse().choices[0].message.content == "Good day!"
    chunks = list(
        client.chat.completions.create(
            model="mine", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Good day!"
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 3


@LLAMA
def test_a_schema_reaches_the_model(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="local/babbling",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["sure"], bool)


@LLAMA
def test_refusals_come_through_by_name(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as long:
        client.chat.completions.create(
            model="local/canned", messages=[{"role": "user", "content": "x" * 2000}]
        )
    assert long.value.code == "context_length_exceeded"
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    with pytest.raises(BadRequestError) as image:
        client.chat.completions.create(
            model="local/canned",
            messages=[{"role": "user", "content": parts}],  # type: ignore[list-item,misc]
        )
    assert "image" in image.value.message


@VECTORS
def test_vectors_without_any_provider(client: OpenAI) -> None:
    made = client.embeddings.create(model="local/bert", input=["the cat", "dog"])
    assert [len(entry.embedding) for entry in made.data] == [12, 12]
    assert made.usage.prompt_tokens == 7
