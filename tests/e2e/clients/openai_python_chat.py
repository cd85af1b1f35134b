"""OpenAI's Python SDK on chat completions: `python -m tests.e2e.clients... URL KEY MODELS`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pydantic
from openai import OpenAI

from tests.e2e.clients.report import SCENE, run, same

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": SCENE["weather_schema"],
    },
}


class Book(pydantic.BaseModel):
    title: str
    pages: int
    tags: list[str]


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def calls_of(message: Any) -> list[tuple[str, Any]]:
    found = message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in found]


def results_of(message: Any) -> list[Any]:
    return [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": SCENE["temperatures"][json.loads(call.function.arguments)["city"]],
        }
        for call in message.tool_calls
    ]


def text(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "Be brief."}, user(SCENE["ask_story"])],
        temperature=0.5,
        max_tokens=500,
        stop=["THE END"],
    )
    same(answer.choices[0].message.content, SCENE["story"])
    same(answer.choices[0].finish_reason, "stop")


def stream(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(model=model, messages=[user(SCENE["ask_story"])]) as made:
        pieces = [e.delta for e in made if e.type == "content.delta" and e.delta]
        answer = made.get_final_completion()
    same(len(pieces), 3)
    same(answer.choices[0].message.content, SCENE["story"])
    same(answer.choices[0].finish_reason, "stop")


def tools(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_one"])]
    answer = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    same(calls_of(answer.choices[0].message), [("get_weather", {"city": "Paris"})])
    same(answer.choices[0].finish_reason, "tool_calls")


def parallel_tools(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_both"])]
    with client.chat.completions.stream(model=model, messages=messages, tools=[WEATHER]) as made:
        answer = made.get_final_completion()
    expected = [("get_weather", {"city": city}) for city in SCENE["temperatures"]]
    same(calls_of(answer.choices[0].message), expected)
    same(answer.choices[0].finish_reason, "tool_calls")


def tool_results(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_both"])]
    first = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    message = first.choices[0].message
    messages += [message, *reversed(results_of(message))]
    second = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    said = second.choices[0].message.content or ""
    # In which order they are read is up to the provider.
    same(sorted(said.split(". ")[:2]), ["Paris: 18 degrees", "Rome: 21 degrees"])


def image(client: OpenAI, model: str) -> None:
    url = f"data:image/png;base64,{SCENE['image']}"
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": parts}]
    )
    same(answer.choices[0].message.content, SCENE["seen"])


def structured_output(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=[user("A book, please")], response_format=Book
    )
    same(answer.choices[0].message.parsed, Book(**SCENE["book"]))


def reasoning(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_story"])]
    whole = client.chat.completions.create(
        model=model, messages=messages, reasoning_effort="low", max_tokens=4000
    )
    message: Any = whole.choices[0].message
    same((message.reasoning_content, message.content), (SCENE["thought"], SCENE["story"]))
    thought = ""
    for chunk in client.chat.completions.create(
        model=model, messages=messages, reasoning_effort="low", max_tokens=4000, stream=True
    ):
        delta: Any = chunk.choices[0].delta
        thought += getattr(delta, "reasoning_content", None) or ""
    same(thought, SCENE["thought"])


def reasoning_kept(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_both"])]
    asked: Any = {"reasoning_effort": "low", "max_tokens": 4000, "tools": [WEATHER]}
    first = client.chat.completions.create(model=model, messages=messages, **asked)
    message = first.choices[0].message
    messages += [message.model_dump(exclude_none=True), *results_of(message)]
    second = client.chat.completions.create(model=model, messages=messages, **asked)
    same(second.choices[0].message.content, SCENE["remembered"])


def usage(client: OpenAI, model: str) -> None:
    messages = [user(SCENE["ask_story"])]
    whole = client.chat.completions.create(model=model, messages=messages)
    *_, last = client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    cached = 0 if "ollama" in model else SCENE["usage"]["cached"]
    for told in (whole.usage, last.usage):
        assert told is not None
        same((told.prompt_tokens, told.completion_tokens, told.total_tokens), (140, 17, 157))
        details = told.prompt_tokens_details
        same((details.cached_tokens or 0) if details else 0, cached)


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
    with OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0) as made:
        run(made, FEATURES, models)
