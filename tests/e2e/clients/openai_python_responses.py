"""OpenAI's Python SDK on responses: `python -m tests.e2e.clients... URL KEY MODELS`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pydantic
from openai import OpenAI

from tests.e2e.clients.report import SCENE, run, same

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": SCENE["weather_schema"],
    "strict": True,
}
THINKING: Any = {"reasoning": {"effort": "low"}, "max_output_tokens": 4000}


class Book(pydantic.BaseModel):
    title: str
    pages: int
    tags: list[str]


def calls_of(response: Any) -> list[tuple[str, Any]]:
    found = [item for item in response.output if item.type == "function_call"]
    return [(item.name, json.loads(item.arguments)) for item in found]


def results_of(response: Any) -> list[Any]:
    """The results of all calls, the last first."""
    results = [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": SCENE["temperatures"][json.loads(item.arguments)["city"]],
        }
        for item in response.output
        if item.type == "function_call"
    ]
    return results[::-1]


def thoughts_of(response: Any) -> str:
    items = [item for item in response.output if item.type == "reasoning"]
    return "".join(part.text for item in items for part in item.content or item.summary)


def text(client: OpenAI, model: str) -> None:
    answer = client.responses.create(
        model=model, instructions="Be brief.", input=SCENE["ask_story"], temperature=0.5
    )
    same((answer.output_text, answer.status), (SCENE["story"], "completed"))


def stream(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=SCENE["ask_story"]) as made:
        pieces = [e.delta for e in made if e.type == "response.output_text.delta" and e.delta]
        answer = made.get_final_response()
    same(len(pieces), 3)
    same((answer.output_text, answer.status), (SCENE["story"], "completed"))


def tools(client: OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input=SCENE["ask_one"], tools=[WEATHER])
    same(calls_of(answer), [("get_weather", {"city": "Paris"})])


def parallel_tools(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=SCENE["ask_both"], tools=[WEATHER]) as made:
        answer = made.get_final_response()
    same(calls_of(answer), [("get_weather", {"city": city}) for city in SCENE["temperatures"]])


def tool_results(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "tools": [WEATHER]}
    first = client.responses.create(input=SCENE["ask_both"], **asked)
    turns = [{"role": "user", "content": SCENE["ask_both"]}, *first.output, *results_of(first)]
    sent = client.responses.create(input=turns, **asked)
    kept = client.responses.create(input=results_of(first), previous_response_id=first.id, **asked)
    for answer in (sent, kept):
        # In which order they are read is up to the provider.
        said = sorted(answer.output_text.split(". ")[:2])
        same(said, ["Paris: 18 degrees", "Rome: 21 degrees"])


def image(client: OpenAI, model: str) -> None:
    url = f"data:image/png;base64,{SCENE['image']}"
    parts: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": url, "detail": "auto"},
    ]
    turns: Any = [{"role": "user", "content": parts}]
    same(client.responses.create(model=model, input=turns).output_text, SCENE["seen"])


def structured_output(client: OpenAI, model: str) -> None:
    answer = client.responses.parse(model=model, input="A book, please", text_format=Book)
    same(answer.output_parsed, Book(**SCENE["book"]))


def reasoning(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "input": SCENE["ask_story"], **THINKING}
    with client.responses.stream(**asked) as made:
        streamed = made.get_final_response()
    for answer in (client.responses.create(**asked), streamed):
        same((thoughts_of(answer), answer.output_text), (SCENE["thought"], SCENE["story"]))


def reasoning_kept(client: OpenAI, model: str) -> None:
    """As an agent does that keeps nothing with the server."""
    asked: Any = {
        "model": model,
        "tools": [WEATHER],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        **THINKING,
    }
    with client.responses.stream(input=SCENE["ask_both"], **asked) as made:
        first = made.get_final_response()
    items = [item.model_dump(exclude_none=True) for item in first.output]
    turns = [{"role": "user", "content": SCENE["ask_both"]}, *items, *results_of(first)]
    same("I remember." in client.responses.create(input=turns, **asked).output_text, True)


def usage(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=SCENE["ask_story"]) as made:
        streamed = made.get_final_response()
    cached = 0 if "ollama" in model else SCENE["usage"]["cached"]
    whole = client.responses.create(model=model, input=SCENE["ask_story"])
    for told in (whole.usage, streamed.usage):
        assert told is not None
        same((told.input_tokens, told.output_tokens, told.total_tokens), (140, 17, 157))
        same(told.input_tokens_details.cached_tokens, cached)


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
