"""What a user of the openai SDK does with responses and completions, as a program.

`python responses_sdk_checks.py BASE_URL KEY`, once for each major version that is in use.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
import pydantic
from openai import AsyncOpenAI, OpenAI

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


class Answer(pydantic.BaseModel):
    title: str
    pages: int


def whole_response(client: OpenAI) -> None:
    response = client.responses.create(model="auto", input="Tell me something")
    assert response.output_text == "Once upon a time."
    assert response.status == "completed"
    assert response.usage and response.usage.output_tokens == 5
    assert response.usage.input_tokens == 3


def streamed_response(client: OpenAI) -> None:
    stream = client.responses.create(model="auto", input="Tell me something", stream=True)
    events = list(stream)
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "Once upon a time."
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == text


def stream_helper(client: OpenAI) -> None:
    with client.responses.stream(model="auto", input="think", reasoning={}) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == "Done."
    thought = final.output[0]
    assert thought.type == "reasoning" and thought.content
    assert thought.content[0].text == "Let me think."
    assert final.usage and final.usage.output_tokens_details.reasoning_tokens == 4


def summaries(client: OpenAI) -> None:
    stream = client.responses.create(
        model="auto", input="think", reasoning={"summary": "auto"}, stream=True
    )
    told = "".join(e.delta for e in stream if e.type == "response.reasoning_summary_text.delta")
    assert told == "Let me think."


def tools_loop(client: OpenAI) -> None:
    first = client.responses.create(model="auto", input="weather please", tools=[TOOL])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        for call in calls
    ]
    # Both ways of going on: by the id of what was kept, and by sending everything again.
    client.responses.create(
        model="auto", previous_response_id=first.id, input=outputs, tools=[TOOL]
    )
    again: Any = [{"role": "user", "content": "weather please"}]
    again += [item.model_dump(exclude_none=True) for item in first.output]
    client.responses.create(model="auto", input=[*again, *outputs], tools=[TOOL], store=False)
    with client.responses.stream(model="auto", input="weather please", tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    calls = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]


def structured_output(client: OpenAI) -> None:
    parsed = client.responses.parse(model="auto", input="x", text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer)
    with client.responses.stream(model="auto", input="x", text_format=Answer) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_response().output_parsed, Answer)


def kept_responses(client: OpenAI) -> None:
    first = client.responses.create(model="auto", input="one two three")
    second = client.responses.create(
        model="auto", input="four", previous_response_id=first.id, instructions="Be brief"
    )
    # one two three, once upon a time., Be brief, four: the scripted target counts words.
    assert second.usage and second.usage.input_tokens == 3 + 5 + 2 + 1
    assert second.previous_response_id == first.id
    assert client.responses.retrieve(second.id).output_text == second.output_text
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.content[0].text for item in items if item.type == "message"] == ["four"]
    reference: Any = [{"type": "item_reference", "id": second.output[0].id}]
    third = client.responses.create(model="auto", input=[*reference, *_said("five")])
    fourth = client.responses.create(model="auto", input="six", previous_response_id=third.id)
    # once upon a time., five, once upon a time., six.
    assert fourth.usage and fourth.usage.input_tokens == 5 + 1 + 5 + 1
    client.responses.delete(first.id)
    _raises(openai.NotFoundError, lambda: client.responses.retrieve(first.id))
    follow = {"model": "auto", "input": "x", "previous_response_id": second.id}
    _raises(openai.BadRequestError, lambda: client.responses.create(**follow))
    forgotten = client.responses.create(model="auto", input="x", store=False)
    _raises(openai.NotFoundError, lambda: client.responses.retrieve(forgotten.id))
    _raises(openai.BadRequestError, lambda: client.responses.cancel(second.id))


def _said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def errors(client: OpenAI) -> None:
    _raises(openai.BadRequestError, lambda: client.responses.create(model="auto", input=[]))
    _raises(openai.NotFoundError, lambda: client.responses.create(model="nobody", input="x"))
    seen: list[str] = []

    def read() -> None:
        for event in client.responses.create(model="auto", input="break", stream=True):
            seen.append(event.type)

    _raises(openai.APIError, read)
    assert seen[-1] == "response.failed"


def completions(client: OpenAI) -> None:
    whole = client.completions.create(model="auto", prompt="Tell me something", max_tokens=50)
    assert whole.choices[0].text == "Once upon a time."
    assert whole.usage and whole.usage.total_tokens == 8
    stream = client.completions.create(
        model="auto",
        prompt="Tell me something",
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Once upon a time."
    assert last.usage and last.usage.total_tokens == 8
    _raises(
        openai.BadRequestError, lambda: client.completions.create(model="auto", prompt=["a", "b"])
    )


def _raises(kind: type[openai.APIError], call: Any) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def asynchronous(base_url: str, key: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        first = await client.responses.create(model="auto", input="Tell me something")

        async def go_on() -> str:
            text = ""
            async with client.responses.stream(
                model="auto", input="more", previous_response_id=first.id
            ) as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        text += event.delta
                final = await stream.get_final_response()
            # What was just answered is kept already, whichever worker is asked.
            kept = await client.responses.retrieve(final.id)
            assert kept.output_text == text
            return text

        texts = await asyncio.gather(*(go_on() for _ in range(12)))
        assert set(texts) == {"Once upon a time."}


def main(base_url: str, key: str) -> None:
    with OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        for check in (
            whole_response,
            streamed_response,
            stream_helper,
            summaries,
            tools_loop,
            structured_output,
            kept_responses,
            errors,
            completions,
        ):
            check(client)
            print(check.__name__, "ok")
    asyncio.run(asynchronous(base_url, key))
    print("asynchronous ok, openai", openai.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
