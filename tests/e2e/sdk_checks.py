"""What an openai SDK user does, as a program: `python sdk_checks.py BASE_URL KEY`.

Run once for each major version of the SDK that is in use.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import openai
import pydantic
from openai import AsyncOpenAI, OpenAI

MESSAGES: Any = [{"role": "user", "content": "Tell me something"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Answer(pydantic.BaseModel):
    title: str
    pages: int
    tags: list[str]


def whole_answer(client: OpenAI) -> None:
    reply = client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
    assert reply.headers["x-tollway-model"] == "script/talker"
    answer = reply.parse()
    assert answer._request_id and answer._request_id.startswith("req_")
    assert answer.choices[0].message.content == "Once upon a time."
    assert answer.usage and answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens == 3


def streamed_answer(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="cheap", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Once upon a time."
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


def streamed_without_usage(client: OpenAI) -> None:
    for chunk in client.chat.completions.create(model="best", messages=MESSAGES, stream=True):
        assert chunk.choices[0].index == 0
        assert chunk.usage is None


def two_choices(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="auto", messages=MESSAGES, n=2, stream=True)
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert set(texts.values()) == {"Once upon a time."}


def stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="auto", messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "Once upon a time."
    assert final.choices[0].message.role == "assistant"


def tools(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "weather please"}]
    answer = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in answer.choices[0].message.tool_calls or []] == [
        "get_weather",
        "get_weather",
    ]
    with client.chat.completions.stream(model="auto", messages=messages, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert final.choices[0].finish_reason == "tool_calls"


def structured_output(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="auto", messages=MESSAGES, response_format=Answer)
    assert isinstance(answer.choices[0].message.parsed, Answer)


def embeddings(client: OpenAI) -> None:
    # Without a format the SDK asks for base64 and decodes it.
    packed = client.embeddings.create(model="embed", input=["a cat", "a cat", "a dog"])
    floats = client.embeddings.create(model="embed", input="a cat", encoding_format="float")
    first, same, other = (item.embedding for item in packed.data)
    assert first == same != other
    assert len(first) == 64
    assert all(abs(a - b) < 1e-6 for a, b in zip(first, floats.data[0].embedding, strict=True))
    assert len(client.embeddings.create(model="embed", input=[[1, 2], [3]]).data) == 2
    short = client.embeddings.create(model="embed", input=[1, 2, 3], dimensions=16)
    assert len(short.data[0].embedding) == 16
    assert packed.usage.prompt_tokens == 6


def models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:4] == ["auto", "cheap", "best", "embed"]
    assert "script/talker" in names
    assert client.models.retrieve("auto").owned_by == "tollway"
    assert client.models.retrieve("script/talker").id == "script/talker"


def errors(client: OpenAI) -> None:
    _raises(openai.NotFoundError, lambda: _ask(client, "nobody"), "model_not_found")
    _raises(openai.BadRequestError, lambda: _ask(client, "auto", max_tokens=-1), None)
    wrong = client.with_options(api_key="sk-tw-wrong")
    _raises(openai.AuthenticationError, lambda: _ask(wrong, "auto"), "invalid_api_key")
    broken = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "break"}], stream=True
    )
    _raises(openai.APIError, lambda: list(broken), None)


def _ask(client: OpenAI, model: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, **fields)


def _raises(kind: type[openai.APIError], call: Callable[[], Any], code: str | None) -> None:
    try:
        call()
    except kind as error:
        assert code is None or error.code == code, error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


async def asynchronous(base_url: str, key: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=key) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="auto", messages=MESSAGES) for _ in range(8))
        )
        assert {a.choices[0].message.content for a in answers} == {"Once upon a time."}
        for _ in range(3):  # the connection is used again only if a stream ends promptly
            text = ""
            async for chunk in await client.chat.completions.create(
                model="auto", messages=MESSAGES, stream=True
            ):
                text += chunk.choices[0].delta.content or ""
            assert text == "Once upon a time."
        vectors = await client.embeddings.create(model="embed", input="x")
        assert len(vectors.data[0].embedding) == 64


def main(base_url: str, key: str) -> None:
    with OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        for check in (
            whole_answer,
            streamed_answer,
            streamed_without_usage,
            two_choices,
            stream_helper,
            tools,
            structured_output,
            embeddings,
            models,
            errors,
        ):
            check(client)
            print(check.__name__, "ok")
    asyncio.run(asynchronous(base_url, key))
    print("asynchronous ok, openai", openai.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
