"""Anthropic's Python SDK on messages: `python -m tests.e2e.clients... URL KEY MODELS`."""

from __future__ import annotations

import sys
from typing import Any

import pydantic
from anthropic import Anthropic

from tests.e2e.clients.report import SCENE, run, same

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": SCENE["weather_schema"],
}
THINKING: Any = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}


class Book(pydantic.BaseModel):
    title: str
    pages: int
    tags: list[str]


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def results_of(message: Any) -> Any:
    """A message with the results of all calls, the last first."""
    results = [
        {
            "type": "tool_result",
            "tool_use_id": block.id,
            "content": SCENE["temperatures"][block.input["city"]],
        }
        for block in message.content
        if block.type == "tool_use"
    ]
    return user(results[::-1])


def said(message: Any) -> Any:
    content = [block.model_dump(exclude_none=True) for block in message.content]
    return {"role": "assistant", "content": content}


def text(client: Anthropic, model: str) -> None:
    answer = client.messages.create(
        model=model,
        max_tokens=500,
        system="Be brief.",
        messages=[user(SCENE["ask_story"])],
        stop_sequences=["THE END"],
    )
    same((text_of(answer), answer.stop_reason), (SCENE["story"], "end_turn"))


def stream(client: Anthropic, model: str) -> None:
    with client.messages.stream(
        model=model, max_tokens=500, messages=[user(SCENE["ask_story"])]
    ) as made:
        pieces = [piece for piece in made.text_stream if piece]
        answer = made.get_final_message()
    same(len(pieces), 3)
    same((text_of(answer), answer.stop_reason), (SCENE["story"], "end_turn"))


def tools(client: Anthropic, model: str) -> None:
    answer = client.messages.create(
        model=model, max_tokens=500, messages=[user(SCENE["ask_one"])], tools=[WEATHER]
    )
    same(calls_of(answer), [("get_weather", {"city": "Paris"})])
    same(answer.stop_reason, "tool_use")


def parallel_tools(client: Anthropic, model: str) -> None:
    with client.messages.stream(
        model=model, max_tokens=500, messages=[user(SCENE["ask_both"])], tools=[WEATHER]
    ) as made:
        answer = made.get_final_message()
    same(calls_of(answer), [("get_weather", {"city": city}) for city in SCENE["temperatures"]])
    same(answer.stop_reason, "tool_use")


def tool_results(client: Anthropic, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 500, "tools": [WEATHER]}
    first = client.messages.create(messages=[user(SCENE["ask_both"])], **asked)
    messages = [user(SCENE["ask_both"]), said(first), results_of(first)]
    answer = text_of(client.messages.create(messages=messages, **asked))
    # In which order they are read is up to the provider.
    same(sorted(answer.split(". ")[:2]), ["Paris: 18 degrees", "Rome: 21 degrees"])


def image(client: Anthropic, model: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": SCENE["image"]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    answer = client.messages.create(model=model, max_tokens=500, messages=[user(content)])
    same(text_of(answer), SCENE["seen"])


def structured_output(client: Anthropic, model: str) -> None:
    answer = client.messages.parse(
        model=model, max_tokens=500, messages=[user("A book, please")], output_format=Book
    )
    same(answer.parsed_output, Book(**SCENE["book"]))


def reasoning(client: Anthropic, model: str) -> None:
    asked: Any = {"model": model, "messages": [user(SCENE["ask_story"])], **THINKING}
    with client.messages.stream(**asked) as made:
        streamed = made.get_final_message()
    for answer in (client.messages.create(**asked), streamed):
        thoughts = [block.thinking for block in answer.content if block.type == "thinking"]
        same((thoughts, text_of(answer)), ([SCENE["thought"]], SCENE["story"]))


def reasoning_kept(client: Anthropic, model: str) -> None:
    asked: Any = {"model": model, "tools": [WEATHER], **THINKING}
    with client.messages.stream(messages=[user(SCENE["ask_both"])], **asked) as made:
        first = made.get_final_message()
    messages = [user(SCENE["ask_both"]), said(first), results_of(first)]
    same("I remember." in text_of(client.messages.create(messages=messages, **asked)), True)


def usage(client: Anthropic, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 500, "messages": [user(SCENE["ask_story"])]}
    with client.messages.stream(**asked) as made:
        streamed = made.get_final_message()
    cached = 0 if "ollama" in model else SCENE["usage"]["cached"]
    written = 30 if "anthropic" in model else 0
    for told in (client.messages.create(**asked).usage, streamed.usage):
        same(told.output_tokens, SCENE["usage"]["output"])
        same(told.input_tokens, SCENE["usage"]["input"] - cached - written)
        same(told.cache_read_input_tokens or 0, cached)
        same(told.cache_creation_input_tokens or 0, written)


FEATURES = (
    text,
    stream,
    tools,
    parallel_tools,
    tool_results,
    image,
    structured_output,
    reasoning,
    reasoning_kept,
    usage,
)

if __name__ == "__main__":
    base_url, key, models = sys.argv[1:]
    with Anthropic(base_url=base_url, api_key=key, max_retries=0) as made:
        run(made, FEATURES, models)
