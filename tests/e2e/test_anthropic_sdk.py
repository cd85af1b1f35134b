"""The official Anthropic SDK notices nothing, whichever dialect the target speaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pydantic
import pytest
import yaml
from anthropic import Anthropic, AsyncAnthropic

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk
from tests.proxy.wire.messages.grammar import read

SCRIPT = {
    "models": ["talker"],
    "replies": [
        {
            "when": "weather",
            "reasoning": "Two cities.",
            "text": "Looking.",
            "tool_calls": [
                {"name": "get_weather", "arguments": {"city": "Paris"}},
                {"name": "get_weather", "arguments": {"city": "Rome"}},
            ],
        },
        {
            "when": "break",
            "text": "one two three",
            "fault": {"kind": "disconnect", "after_tokens": 1},
        },
        {"when": "slow down", "text": "", "fault": {"kind": "status", "status": 429}},
        {"text": "Once upon a time."},
    ],
}
ASKED: Any = {"model": "script/talker", "max_tokens": 100}
HELLO: Any = [{"role": "user", "content": "Tell me something"}]
WEATHER: Any = [{"role": "user", "content": "weather please"}]
TOOL: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A scripted target, one that speaks chat and one that speaks Messages."""
    folder = tmp_path_factory.mktemp("anthropic")
    (folder / "script.yaml").write_text(yaml.safe_dump(SCRIPT))
    target = {"price": {"input": 1, "output": 2}, "max_output_tokens": 500}
    config = {
        "discover": False,
        "providers": {
            "script": {"adapter": "scripted", "script": str(folder / "script.yaml")},
            "open": {"base_url": upstream.base_url, "api_key": "sk-upstream"},
            "claude": {
                "adapter": "anthropic",
                "base_url": upstream.base_url,
                "api_key": "sk-ant-upstream",
            },
        },
        "targets": [
            {"target": "script/talker", **target},
            {"target": "open/gpt", **target},
            {"target": "claude/sonnet", **target},
        ],
        "models": {"auto": {"targets": ["script/talker"]}},
    }
    with serving(folder, config) as running:
        yield running


@pytest.fixture(scope="module")
def key(server: Tollway) -> str:
    made: str = server.admin("POST", "/keys", {"name": "sdk"})["key"]
    return made


@pytest.fixture
def client(server: Tollway, key: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key=key, max_retries=0) as client:
        yield client


# --- what is scripted -----------------------------------------------------------------------------


def test_a_whole_answer(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**ASKED, messages=HELLO)
    assert raw.headers["x-tollway-model"] == "script/talker"
    answer = raw.parse()
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "Once upon a time."
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 5
    assert answer._request_id is not None and answer._request_id.startswith("req_")


def test_a_stream(client: Anthropic) -> None:
    events = list(client.messages.create(**ASKED, messages=HELLO, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") == 5


def test_the_stream_helper(client: Anthropic) -> None:
    with client.messages.stream(**ASKED, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "Once upon a time."
        final = stream.get_final_message()
    assert final.usage.output_tokens == 5
    assert final.usage.input_tokens == 3


def test_the_beta_client(client: Anthropic) -> None:
    answer = client.beta.messages.create(**ASKED, messages=HELLO, betas=["some-beta-2026-01-01"])
    assert answer.content[0].type == "text"


def test_parallel_tools_thinking_and_their_results(client: Anthropic) -> None:
    answer = client.messages.create(**ASKED, messages=WEATHER, tools=[TOOL])
    with client.messages.stream(**ASKED, messages=WEATHER, tools=[TOOL]) as stream:
        streamed = stream.get_final_message()
    for message in (answer, streamed):
        thinking, text, *uses = message.content
        assert thinking.type == "thinking" and thinking.thinking == "Two cities."
        assert text.type == "text" and text.text == "Looking."
        assert [u.input for u in uses if u.type == "tool_use"] == [
            {"city": "Paris"},
            {"city": "Rome"},
        ]
        assert message.stop_reason == "tool_use"
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
            for use in message.content
            if use.type == "tool_use"
        ]
        said: Any = [
            *HELLO,
            message.to_param(),
            {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
        ]
        again = client.messages.create(**ASKED, messages=said, tools=[TOOL])
        assert again.stop_reason == "end_turn"


def test_a_tool_that_is_demanded(client: Anthropic) -> None:
    choice: Any = {"type": "tool", "name": "get_weather"}
    answer = client.messages.create(**ASKED, messages=HELLO, tools=[TOOL], tool_choice=choice)
    assert answer.content[0].type == "tool_use"
    assert answer.content[0].input == {"city": "demonstration"}


class Answer(pydantic.BaseModel):
    title: str
    pages: int


def test_structured_output(client: Anthropic) -> None:
    answer = client.messages.parse(**ASKED, messages=HELLO, output_format=Answer)
    assert isinstance(answer.parsed_output, Answer)


def test_counting(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.count_tokens(model="auto", messages=HELLO)
    assert raw.headers["x-tollway-token-count"] == "estimate"
    short = raw.parse().input_tokens
    long = client.messages.count_tokens(
        model="auto", messages=HELLO, system="word " * 4000, tools=[TOOL]
    )
    assert 0 < short < 100
    assert 4000 < long.input_tokens < 6000


def test_the_models(client: Anthropic) -> None:
    listed = client.models.list(limit=2)
    assert [model.id for model in listed][:2] == ["auto", "script/talker"]
    assert client.models.retrieve("script/talker").max_tokens == 500
    _raises(anthropic.NotFoundError, lambda: client.models.retrieve("nobody"))


def test_many_at_a_time(server: Tollway, key: str) -> None:
    async def ask() -> None:
        async with AsyncAnthropic(base_url=server.url, auth_token=key) as client:
            answers = await asyncio.gather(
                *(client.messages.create(**ASKED, messages=HELLO) for _ in range(8))
            )
            assert {answer.stop_reason for answer in answers} == {"end_turn"}
            for _ in range(3):
                async with client.messages.stream(**ASKED, messages=HELLO) as stream:
                    assert await stream.get_final_text() == "Once upon a time."

    asyncio.run(ask())


# --- errors ---------------------------------------------------------------------------------------


def _raises(kind: type[anthropic.APIStatusError], call: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def test_errors_are_those_of_the_sdk(server: Tollway, client: Anthropic) -> None:
    def ask(**changes: Any) -> Any:
        return client.messages.create(**{**ASKED, "messages": HELLO, **changes})

    unknown = _raises(anthropic.NotFoundError, lambda: ask(model="nobody"))
    assert unknown.type == "not_found_error"
    assert unknown.error_code == "model_not_found"
    assert unknown.request_id.startswith("req_")
    assert _raises(anthropic.BadRequestError, lambda: ask(max_tokens=-1)).type == (
        "invalid_request_error"
    )
    wrong = client.with_options(api_key="sk-tw-wrong")
    _raises(anthropic.AuthenticationError, lambda: wrong.messages.create(**ASKED, messages=HELLO))
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    _raises(anthropic.BadRequestError, lambda: ask(tools=[search]))
    dropped = client.messages.with_raw_response.create(
        **ASKED, messages=HELLO, tools=[search], extra_headers={"x-tollway-drop-params": "true"}
    )
    assert dropped.headers["x-tollway-dropped-params"] == "tools[0]"
    slow: Any = [{"role": "user", "content": "slow down"}]
    assert _raises(anthropic.RateLimitError, lambda: ask(messages=slow)).type == "rate_limit_error"
    for path in ("/v1/messages", "/v1/messages/nowhere"):
        answer = server.get(path)
        assert answer.status_code in (404, 405)
        assert answer.json()["type"] == "error"
        assert answer.headers["request-id"] == answer.json()["request_id"]


def test_a_stream_that_breaks_raises(client: Anthropic) -> None:
    said: Any = [{"role": "user", "content": "break"}]
    stream = client.messages.create(**ASKED, messages=said, stream=True)
    error = _raises(anthropic.APIStatusError, lambda: list(stream))
    assert error.type == "api_error"


def test_a_spent_budget_is_not_tried_again(server: Tollway) -> None:
    made = server.admin("POST", "/keys", {"name": "poor"})
    server.admin(
        "POST",
        "/budgets",
        {"scope": f"key:{made['id']}", "limit_usd": 0.000001, "window": "day"},
    )
    with Anthropic(base_url=server.url, api_key=made["key"], max_retries=5) as client:
        error = _raises(
            anthropic.RateLimitError, lambda: client.messages.create(**ASKED, messages=HELLO)
        )
    assert error.error_code == "insufficient_quota"
    assert error.response.headers["x-should-retry"] == "false"


# --- what a provider sends ------------------------------------------------------------------------


def test_a_target_that_speaks_chat(upstream: Upstream, client: Anthropic) -> None:
    async def answer(call: Call, line: Line) -> None:
        if not call.body.get("stream"):
            await line.json(completion("Hello"))
            return
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": ""}))
        for index in (0, 1):
            function = {"name": "f", "arguments": ""}
            head = {"index": index, "id": f"call_{index}", "type": "function"}
            await line.event(chunk({"tool_calls": [{**head, "function": function}]}))
        for index in (1, 0):
            function = {"arguments": json.dumps({"n": index})}
            await line.event(chunk({"tool_calls": [{"index": index, "function": function}]}))
        await line.event(chunk({}, "tool_calls"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["gpt"] = answer
    asked = {**ASKED, "model": "open/gpt", "system": "Be brief", "thinking": {"type": "adaptive"}}
    whole = client.messages.create(**asked, messages=HELLO)
    assert whole.content[0].type == "text"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (11, 7)
    with client.messages.stream(**asked, messages=HELLO) as stream:
        final = stream.get_final_message()
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"n": 0},
        {"n": 1},
    ]
    assert upstream.calls[1].body == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief"}, *HELLO],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "anthropic-version" not in upstream.calls[1].headers


USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 30,
    "output_tokens": 1,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_up",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-up",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": USAGE,
}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}


async def as_anthropic(call: Call, line: Line) -> None:
    if call.path.endswith("/count_tokens"):
        await line.json({"input_tokens": 321})
        return
    if not call.body.get("stream"):
        text = {"type": "text", "text": "Hello"}
        usage = {**USAGE, "output_tokens": 7}
        await line.json(
            {**MESSAGE, "content": [THINKING, text], "stop_reason": "end_turn", "usage": usage}
        )
        return
    await line.start_stream()
    for event in _events(stops=call.body["max_tokens"] != 13):
        await line.chunk(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _json(event)))
    if call.body["max_tokens"] == 13:
        line.reset()
        return
    await line.send(b"0\r\n\r\n")


def _events(*, stops: bool) -> Iterator[dict[str, Any]]:
    def delta(index: int, **fields: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": fields}

    def opens(index: int, **block: str) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    yield {"type": "message_start", "message": MESSAGE}
    yield opens(0, type="thinking", thinking="", signature="")
    yield {"type": "ping"}
    yield delta(0, type="thinking_delta", thinking="Hm.")
    yield delta(0, type="signature_delta", signature="sig")
    yield {"type": "content_block_stop", "index": 0}
    yield opens(1, type="text", text="")
    yield delta(1, type="text_delta", text="Hel")
    if not stops:
        return
    yield delta(1, type="text_delta", text="lo")
    yield {"type": "content_block_stop", "index": 1}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}}
    yield {"type": "message_stop"}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


CLAUDE: Any = {**ASKED, "model": "claude/sonnet"}


def test_a_target_that_speaks_messages_gets_the_request_as_it_is(
    server: Tollway, upstream: Upstream, client: Anthropic
) -> None:
    upstream.scripts["sonnet"] = as_anthropic
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    before = len(server.rows())
    answer = client.beta.messages.create(
        **CLAUDE, messages=HELLO, tools=[search], betas=["b1"], extra_body={"new": {"x": 1}}
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]
    call = upstream.calls[0]
    assert call.path == "/v1/messages"
    assert call.body == {
        "model": "sonnet",
        "max_tokens": 100,
        "messages": HELLO,
        "tools": [search],
        "new": {"x": 1},
    }
    assert call.headers["anthropic-beta"] == "b1"
    assert call.headers["x-api-key"] == "sk-ant-upstream"
    assert "authorization" not in call.headers
    row = server.rows(before + 1)[-1]
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (140, 100, 7)
    assert row["endpoint"] == "messages"


def test_its_stream_is_relayed(server: Tollway, upstream: Upstream, client: Anthropic) -> None:
    upstream.scripts["sonnet"] = as_anthropic
    before = len(server.rows())
    with client.messages.stream(**CLAUDE, messages=HELLO) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "thinking" and final.content[0].signature == "sig"
    assert final.usage.cache_read_input_tokens == 100
    assert final.usage.output_tokens == 7
    assert final.id == "msg_up"
    row = server.rows(before + 1)[-1]
    assert (row["outcome"], row["estimated"]) == ("ok", 0)
    assert (row["input_tokens"], row["output_tokens"]) == (140, 7)


def test_its_stream_that_breaks_is_estimated_and_looks_broken(
    server: Tollway, upstream: Upstream, client: Anthropic, key: str
) -> None:
    upstream.scripts["sonnet"] = as_anthropic
    before = len(server.rows())
    body = {**CLAUDE, "messages": HELLO, "max_tokens": 13, "stream": True}
    answer = server.post("/v1/messages", body, headers={"x-api-key": key})
    seen = read(answer.content, is_whole=False)
    assert seen.text == "Hel"
    assert seen.error is not None
    row = server.rows(before + 1)[-1]
    assert (row["outcome"], row["estimated"]) == ("broken", 1)
    assert row["output_tokens"] >= 2


def test_its_own_count_is_exact_and_costs_nothing(
    server: Tollway, upstream: Upstream, client: Anthropic
) -> None:
    upstream.scripts["sonnet"] = as_anthropic
    raw = client.messages.with_raw_response.count_tokens(model="claude/sonnet", messages=HELLO)
    assert raw.headers["x-tollway-token-count"] == "exact"
    assert raw.parse().input_tokens == 321
    assert upstream.calls[0].path == "/v1/messages/count_tokens"
    assert upstream.calls[0].body == {"model": "sonnet", "messages": HELLO}
    row = server.rows()[-1]
    assert (row["endpoint"], row["outcome"], row["cost_nanousd"]) == ("count_tokens", "ok", 0)


def test_counts_are_within_the_limits_of_their_key(server: Tollway, upstream: Upstream) -> None:
    upstream.scripts["sonnet"] = as_anthropic
    limits = {"name": "slow", "requests_per_minute": 1}
    key = server.admin("POST", "/keys", limits)["key"]
    slow = Anthropic(base_url=server.url, api_key=key, max_retries=0)
    assert slow.messages.count_tokens(model="claude/sonnet", messages=HELLO).input_tokens == 321
    with pytest.raises(anthropic.RateLimitError):
        slow.messages.count_tokens(model="claude/sonnet", messages=HELLO)
    assert len(upstream.calls) == 1


def test_a_count_that_fails_is_estimated_and_one_that_is_refused_is_refused(
    upstream: Upstream, client: Anthropic
) -> None:
    answers = iter([("500 Oops", {}), ("200 OK", {"input_tokens": "many"}), ("400 Bad", {})])

    async def fail(call: Call, line: Line) -> None:
        status, body = next(answers)
        await line.json(body, status)

    upstream.scripts["sonnet"] = fail

    def count() -> Any:
        counted = client.messages.with_raw_response.count_tokens
        return counted(model="claude/sonnet", messages=HELLO)

    for _ in range(2):
        assert count().headers["x-tollway-token-count"] == "estimate"
    _raises(anthropic.BadRequestError, count)


def test_its_errors_keep_their_meaning(upstream: Upstream, client: Anthropic) -> None:
    refusals = iter(
        [
            ("400 Bad Request", "invalid_request_error", "prompt is too long: 9 > 8"),
            ("429 Too Many Requests", "rate_limit_error", "slower"),
            ("529 Overloaded", "overloaded_error", "Overloaded"),
            ("401 Unauthorized", "authentication_error", "invalid x-api-key sk-ant-upstream"),
        ]
    )

    async def refuse(call: Call, line: Line) -> None:
        status, kind, message = next(refusals)
        error = {"type": "error", "error": {"type": kind, "message": message}}
        await line.json(error, status, "retry-after: 7\r\n")

    upstream.scripts["sonnet"] = refuse

    def ask() -> Any:
        return client.messages.create(**CLAUDE, messages=HELLO)

    assert "prompt is too long" in _raises(anthropic.BadRequestError, ask).api_message
    limited = _raises(anthropic.RateLimitError, ask)
    assert limited.response.headers["retry-after"] == "7"
    assert _raises(anthropic.InternalServerError, ask).type == "api_error"
    assert "sk-ant" not in _raises(anthropic.InternalServerError, ask).message


def test_pings_while_nothing_comes(upstream: Upstream, tmp_path: Path) -> None:
    async def slow(call: Call, line: Line) -> None:
        await line.start_stream()
        await asyncio.sleep(0.5)
        if call.body["max_tokens"] == 13:
            line.reset()
            return
        await line.event(chunk({"role": "assistant", "content": "late"}))
        await line.event(chunk({}, "stop"))
        await line.end_stream()

    upstream.scripts["m1"] = slow
    config = provider(upstream.base_url, "m1")
    config["server"]["first_payload_s"] = 0.1
    asked: Any = {"model": "up/m1", "messages": HELLO}
    with serving(tmp_path, config) as tollway:
        reply = tollway.post("/v1/messages", {**asked, "max_tokens": 20, "stream": True})
        assert reply.text.startswith("event: ping\ndata: ")
        assert read(reply.content).text == "late"
        with Anthropic(base_url=tollway.url, api_key="x", max_retries=0) as client:
            with client.messages.stream(**asked, max_tokens=20) as stream:
                assert stream.get_final_text() == "late"
            broken = client.messages.create(**asked, max_tokens=13, stream=True)
            assert _raises(anthropic.APIStatusError, lambda: list(broken)).status_code == 200


# --- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["openai_compatible", "anthropic"])
def test_a_stream_that_a_budget_cuts_ends_for_the_sdk_as_at_its_maximum(
    upstream: Upstream, tmp_path: Path, adapter: str
) -> None:
    async def endless(call: Call, line: Line) -> None:
        await line.start_stream()
        events = _events(stops=False)
        if adapter == "anthropic":
            for event in events:
                await line.event(event)
        while True:
            delta = {"type": "text_delta", "text": "word "}
            piece = {"type": "content_block_delta", "index": 1, "delta": delta}
            await line.event(piece if adapter == "anthropic" else chunk({"content": "word "}))
            await asyncio.sleep(0.002)

    upstream.scripts["m1"] = endless
    config = provider(upstream.base_url, "m1", adapter=adapter, meterable=True)
    config["targets"][0]["max_output_tokens"] = 100_000
    with serving(tmp_path, config) as tollway:
        made = tollway.admin("POST", "/keys", {"name": "poor"})
        budget = {"scope": f"key:{made['id']}", "window": "lifetime", "limit_usd": 0.003}
        tollway.admin("POST", "/budgets", budget)
        with Anthropic(base_url=tollway.url, api_key=made["key"], max_retries=0) as client:
            asked: Any = {"model": "up/m1", "max_tokens": 50_000, "messages": HELLO}
            events = list(client.messages.create(**asked, stream=True))
        assert upstream.calls[0].closed.wait(5)
        (row,) = tollway.rows(1)
    *_, stop, end, last = events
    assert (stop.type, last.type) == ("content_block_stop", "message_stop")
    assert end.type == "message_delta" and end.delta.stop_reason == "max_tokens"
    assert end.to_dict()["tollway"]["reason"] == "budget_exhausted"
    assert end.usage.output_tokens == row["output_tokens"]
    assert (row["outcome"], row["estimated"]) == ("capped", 1)
    assert row["cost_nanousd"] <= 3_000_000


def test_a_hard_budget_refuses_what_has_no_bounded_cost(
    upstream: Upstream, server: Tollway
) -> None:
    made = server.admin("POST", "/keys", {"name": "careful"})
    budget = {"scope": f"key:{made['id']}", "window": "lifetime", "limit_usd": 1}
    server.admin("POST", "/budgets", budget)
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    with Anthropic(base_url=server.url, api_key=made["key"], max_retries=0) as client:
        error = _raises(
            anthropic.PermissionDeniedError,
            lambda: client.messages.create(**CLAUDE, messages=HELLO, tools=[search]),
        )
    assert "tools[0]" in error.api_message
    assert upstream.calls == []
