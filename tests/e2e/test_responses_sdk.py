"""Responses and legacy completions, judged by the official SDK, over every way upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import APIError, BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from tests.e2e.sdk_runs import run_sdk_checks
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk

SCRIPT = {
    "models": ["talker"],
    "replies": [
        {
            "when": "weather",
            "reasoning": "Two cities.",
            "tool_calls": [
                {"name": "get_weather", "arguments": {"city": "Paris"}},
                {"name": "get_weather", "arguments": {"city": "Rome"}},
            ],
        },
        {"when": "think", "reasoning": "Let me think.", "text": "Done."},
        {
            "when": "break",
            "text": "one two three",
            "fault": {"kind": "disconnect", "after_tokens": 1},
        },
        {"text": "Once upon a time."},
    ],
}
DEMONSTRATION: dict[str, Any] = {
    "providers": {"demo": {"adapter": "scripted"}},
    "targets": [{"target": "demo/demo", "price": "free"}],
    "models": {"auto": {"targets": ["demo/demo"]}},
}
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 30,
}
MESSAGE = {
    "id": "msg_up",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello there", "annotations": []}],
}
THOUGHT = {"id": "rs_up", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("responses")
    (folder / "script.yaml").write_text(yaml.safe_dump(SCRIPT))
    config = {
        "server": {"workers": 2},
        "providers": {"script": {"adapter": "scripted", "script": str(folder / "script.yaml")}},
        "targets": [
            {
                "target": "script/talker",
                "price": {"input": 1, "output": 2},
                "max_output_tokens": 500,
            }
        ],
        "models": {"auto": {"targets": ["script/talker"]}},
    }
    with serving(folder, config) as running:
        yield running


@pytest.fixture(scope="module")
def native(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """The same upstream as OpenAI, which has responses, and as a server that has not."""
    config = provider(upstream.base_url, "m1", adapter="openai")
    config["providers"]["plain"] = {"base_url": upstream.base_url}
    config["targets"].append({"target": "plain/m2", "price": {"input": 1, "output": 2}})
    config["models"]["both"] = {"targets": ["up/m1", "plain/m2"]}
    with serving(tmp_path_factory.mktemp("native"), config) as running:
        yield running


@pytest.mark.parametrize("version", ["3", "2"])
def test_openai_sdk(scripted: Tollway, version: str) -> None:
    run_sdk_checks(scripted, "responses_sdk_checks.py", version)


@pytest.mark.negative(number=12)
def test_what_is_kept_belongs_to_its_key(scripted: Tollway) -> None:
    first, second = (
        client_of(scripted, scripted.admin("POST", "/keys", {"name": name})["key"])
        for name in ("one", "two")
    )
    made = first.responses.create(model="auto", input="hi")
    assert first.responses.retrieve(made.id).id == made.id
    for ask in (
        lambda: second.responses.retrieve(made.id),
        lambda: second.responses.delete(made.id),
        lambda: second.responses.input_items.list(made.id),
    ):
        with pytest.raises(NotFoundError):
            ask()
    with pytest.raises(BadRequestError) as refused:
        second.responses.create(model="auto", input="hi", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"
    reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
    with pytest.raises(BadRequestError):
        second.responses.create(model="auto", input=reference)
    again = first.responses.create(model="auto", input=reference)
    assert again.output_text
    # What a reference stands for is kept with it.
    more = first.responses.create(model="auto", input="more", previous_response_id=again.id)
    assert more.output_text
    assert first.responses.input_items.list(again.id).data[0].type == "message"


def test_one_item_is_not_made_into_many_times_a_request(tmp_path: Path) -> None:
    with serving(tmp_path, {**DEMONSTRATION, "server": {"max_body_mb": 1}}) as running:
        client = client_of(running)
        made = client.responses.create(model="auto", input="hi")
        reference: Any = {"type": "item_reference", "id": made.output[0].id}
        with pytest.raises(BadRequestError, match="larger than a request"):
            client.responses.create(model="auto", input=[reference] * 15_000)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/responses/", 404),
        ("/v1/responses/resp_no", 404),
        ("/v1/responses/%00%ff/input_items", 404),
        ("/v1/responses/resp_no/elsewhere", 404),
        ("/v1/responses/MADE/input_items?limit=0", 400),
        ("/v1/responses/MADE/input_items?limit=%F0%9F%91%8B", 400),
        ("/v1/responses/MADE/input_items?after=no", 400),
        ("/v1/responses/MADE?stream=true", 400),
        ("/v1/responses/MADE/input_items?limit=1&order=asc", 200),
    ],
)
def test_odd_paths_are_answered(scripted: Tollway, path: str, status: int) -> None:
    key = scripted.admin("POST", "/keys", {"name": "odd"})["key"]
    made = client_of(scripted, key).responses.create(model="auto", input="hi").id
    reply = scripted.get(path.replace("MADE", made), headers={"authorization": f"Bearer {key}"})
    assert reply.status_code == status, reply.text
    assert status == 200 or reply.json()["error"]["message"]


def test_a_file_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "responses.db").write_bytes(b"no database" * 1000)
    with serving(tmp_path, DEMONSTRATION) as running:
        reply = running.post("/v1/responses", {"model": "auto", "input": "hi"})
        assert reply.status_code == 200
        assert reply.json()["status"] == "completed"
        assert "is not kept" in running.log()


def test_nothing_is_kept_where_that_is_off(tmp_path: Path) -> None:
    with serving(tmp_path, {**DEMONSTRATION, "responses": {"store": False}}) as running:
        made = running.post("/v1/responses", {"model": "auto", "input": "hi"}).json()
        assert made["store"] is False
        assert running.get(f"/v1/responses/{made['id']}").status_code == 404
        again = {"model": "auto", "input": "hi", "previous_response_id": made["id"]}
        assert running.post("/v1/responses", again).status_code == 400
        assert not (running.data / "responses.db").exists()


def test_a_response_of_a_provider_is_under_our_id(native: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = respond
    client = client_of(native)
    made = client.responses.create(model="up/m1", input="hi", reasoning={"effort": "low"})
    assert made.output_text == "Hello there"
    assert made.id.startswith("resp_") and made.id != "resp_up"
    assert made.store is True
    (call,) = upstream.wait_for_calls(1)
    assert call.path == "/v1/responses"
    assert call.body["store"] is False
    assert call.body["include"] == ["reasoning.encrypted_content"]
    row = native.rows(1)[-1]
    assert (row["endpoint"], row["outcome"]) == ("responses", "ok")
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (20, 5, 10)

    client.responses.create(model="up/m1", input="and?", previous_response_id=made.id)
    body = upstream.wait_for_calls(2)[1].body
    assert [item["type"] for item in body["input"]] == [
        "message",
        "reasoning",
        "message",
        "message",
    ]
    assert "previous_response_id" not in body


def test_a_stream_of_a_provider_passes(native: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = respond
    client = client_of(native)
    with client.responses.stream(model="up/m1", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.output_text.delta") == 2
    assert final.output_text == "Hello there"
    assert client.responses.retrieve(final.id).output_text == "Hello there"


def test_what_one_provider_cannot_another_does(native: Tollway, upstream: Upstream) -> None:
    """A conversation goes on at a server that has no responses."""
    upstream.scripts["m1"] = respond
    upstream.scripts["m2"] = chat_answer
    client = client_of(native)
    made = client.responses.create(model="both", input="hi")

    async def fail(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "down"}}, status="503 Down")

    upstream.scripts["m1"] = fail
    upstream.calls.clear()
    again = client.responses.create(model="both", input="and?", previous_response_id=made.id)
    assert again.output_text == "Hello there"
    _, chat = upstream.wait_for_calls(2)
    assert chat.path == "/v1/chat/completions"
    assert chat.body["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "and?"},
    ]


def test_a_failed_response_falls_back(native: Tollway, upstream: Upstream) -> None:
    async def fail(call: Call, line: Line) -> None:
        await line.start_stream()
        created = {"id": "resp_up", "status": "in_progress", "output": []}
        await line.event({"type": "response.created", "response": created})
        failed = {"id": "resp_up", "status": "failed", "error": {"message": "Sorry"}}
        await line.event({"type": "response.failed", "response": failed})
        await line.send(b"0\r\n\r\n")

    upstream.scripts["m1"] = fail
    upstream.scripts["m2"] = chat_answer
    with client_of(native).responses.stream(model="both", input="hi") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "Hello there"


def test_a_stream_that_is_cut_is_never_complete(native: Tollway, upstream: Upstream) -> None:
    async def cut(call: Call, line: Line) -> None:
        await line.start_stream()
        for event in stream_events()[:5]:
            await line.event(event)
        line.reset()

    upstream.scripts["m1"] = cut
    stream = client_of(native).responses.create(model="up/m1", input="hi", stream=True)
    kinds: list[str] = []
    with pytest.raises(APIError):
        kinds.extend(event.type for event in stream)
    assert kinds[-1] == "response.failed"
    assert native.rows(1)[-1]["outcome"] == "broken"


@pytest.mark.parametrize("adapter", ["openai_compatible", "openai"])
def test_a_stream_that_a_budget_cuts_is_incomplete_and_has_what_was_said(
    upstream: Upstream, tmp_path: Path, adapter: str
) -> None:
    async def endless(call: Call, line: Line) -> None:
        await line.start_stream()
        for event in stream_events()[:4] if adapter == "openai" else ():
            await line.event(event)
        piece = {
            "type": "response.output_text.delta",
            "sequence_number": 9,
            "item_id": "msg_up",
            "output_index": 0,
            "content_index": 0,
            "delta": "word ",
        }
        while True:
            await line.event(piece if adapter == "openai" else chunk({"content": "word "}))
            await asyncio.sleep(0.002)

    upstream.scripts["m1"] = endless
    config = provider(upstream.base_url, "m1", adapter=adapter, meterable=True)
    config["targets"][0]["max_output_tokens"] = 100_000
    with serving(tmp_path, config) as tollway:
        made = tollway.admin("POST", "/keys", {"name": "poor"})
        budget = {"scope": f"key:{made['id']}", "window": "lifetime", "limit_usd": 0.003}
        tollway.admin("POST", "/budgets", budget)
        client = client_of(tollway, made["key"])
        events = list(client.responses.create(model="up/m1", input="hi", stream=True))
        (row,) = tollway.rows(1)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert last.response.output_text == said != ""
    assert (row["outcome"], row["cost_nanousd"] <= 3_000_000) == ("capped", True)


def test_tools_of_openai_go_to_openai_alone(native: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = respond
    search: Any = [{"type": "web_search"}]
    free = client_of(native, native.admin("POST", "/keys", {"name": "free"})["key"])
    free.responses.create(model="up/m1", input="hi", tools=search)
    assert upstream.wait_for_calls(1)[0].body["tools"] == search
    with pytest.raises(BadRequestError) as refused:
        free.responses.create(model="plain/m2", input="hi", tools=search)
    assert refused.value.param == "tools[0].type"
    upstream.scripts["m2"] = chat_answer
    dropped = free.responses.with_raw_response.create(
        model="plain/m2",
        input="hi",
        tools=search,
        extra_headers={"x-tollway-drop-params": "true"},
    )
    assert dropped.headers["x-tollway-dropped-params"] == "tools[0].type"


def test_a_hard_budget_refuses_what_has_no_bound_where_it_would_be_sent(
    native: Tollway, upstream: Upstream
) -> None:
    upstream.scripts["m2"] = chat_answer
    made = native.admin("POST", "/keys", {"name": "bounded"})
    budget = {"scope": f"key:{made['id']}", "limit_usd": 1, "window": "day"}
    native.admin("POST", "/budgets", budget)
    client = client_of(native, made["key"])
    search: Any = [{"type": "web_search"}]
    with pytest.raises(PermissionDeniedError):
        client.responses.create(model="up/m1", input="hi", tools=search)
    answer = client.responses.create(
        model="plain/m2",
        input="hi",
        tools=search,
        max_output_tokens=100,
        extra_headers={"x-tollway-drop-params": "true"},
    )
    assert answer.output_text == "Hello there"
    assert len(upstream.calls) == 1


def test_completions_of_a_server_pass(native: Tollway, upstream: Upstream) -> None:
    async def complete(call: Call, line: Line) -> None:
        choice = {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}
        said = {"id": "cmpl-up", "object": "text_completion", "created": 1, "model": "up"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        if not call.body.get("stream"):
            await line.json({**said, "choices": [choice], "usage": usage})
            return
        await line.start_stream()
        await line.event({**said, "choices": [choice]})
        await line.event({**said, "choices": [], "usage": usage})
        await line.end_stream()

    upstream.scripts["m2"] = complete
    client = client_of(native)
    whole = client.completions.create(model="plain/m2", prompt=["a", "b"], echo=True)
    assert whole.choices[0].text == "Hello"
    streamed = list(client.completions.create(model="plain/m2", prompt="a", stream=True))
    assert [chunk.choices[0].text for chunk in streamed] == ["Hello"]
    assert [call.path for call in upstream.calls] == ["/v1/completions"] * 2
    assert native.rows(2)[-1]["output_tokens"] == 1


def client_of(tollway: Tollway, key: str = "") -> OpenAI:
    """A client with a key of its own."""
    key = key or tollway.admin("POST", "/keys", {"name": "sdk"})["key"]
    return OpenAI(base_url=f"{tollway.url}/v1", api_key=key, max_retries=0)


def response(status: str, **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_up",
        "object": "response",
        "created_at": 1,
        "model": "up-model",
        "status": status,
        "output": [],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": False,
        **members,
    }


def stream_events() -> list[dict[str, Any]]:
    where = {"item_id": "msg_up", "output_index": 0, "content_index": 0}
    part = MESSAGE["content"][0]  # type: ignore[index]  # the message above
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**MESSAGE, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **where, "delta": "Hello", "logprobs": []},
        {"type": "response.output_text.delta", **where, "delta": " there", "logprobs": []},
        {"type": "response.output_text.done", **where, "text": "Hello there", "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE},
        {
            "type": "response.completed",
            "response": response("completed", output=[MESSAGE], usage=USAGE),
        },
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(said)]


async def respond(call: Call, line: Line) -> None:
    """What OpenAI does."""
    if not call.body.get("stream"):
        await line.json(response("completed", output=[THOUGHT, MESSAGE], usage=USAGE))
        return
    await line.start_stream()
    for event in stream_events():
        payload = json.dumps(event).encode()
        await line.chunk(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), payload))
    await line.send(b"0\r\n\r\n")


async def chat_answer(call: Call, line: Line) -> None:
    """What a server does that has only chats."""
    assert call.path == "/v1/chat/completions"
    if not call.body.get("stream"):
        await line.json(completion("Hello there"))
        return
    await line.start_stream()
    for event in (chunk({"content": "Hello"}), chunk({"content": " there"}), chunk({}, "stop")):
        await line.event(event)
    await line.event(usage_chunk())
    await line.end_stream()
