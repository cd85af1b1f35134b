"""Bedrock and Vertex AI as aimock plays them, which nobody of us wrote: its frames, its dialects.

`make test` installs it where npm is to be had; skipped otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.adapters import clouds
from tests.e2e import stand_ins
from tests.e2e.tollway import Tollway, serving

pytestmark = pytest.mark.skipif(
    not stand_ins.has_npm_peers(),
    reason="Node.js or the npm packages are not installed (make test does it where npm is)",
)

USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
TEXT = "Hello! How can I help you today?"
FIXTURES: list[dict[str, Any]] = [
    {"match": {"userMessage": "hello"}, "response": {"content": TEXT, "usage": USAGE}},
    {
        "match": {"userMessage": "weather"},
        "response": {
            "toolCalls": [{"name": "get_weather", "arguments": {"location": "Paris"}}],
            "usage": USAGE,
        },
    },
]
CLAUDE = "aws/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
TARGETS = [CLAUDE, "aws/amazon.nova-pro-v1:0", "gcp/gemini-3-pro-preview"]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}
every_target = pytest.mark.parametrize("target", TARGETS)
# It sends Claude's events bare, where Amazon wraps each: `{"bytes": "..."}`.
streaming_targets = pytest.mark.parametrize("target", TARGETS[1:])
either_kind = pytest.mark.parametrize(
    ("target", "stream"), [*((t, False) for t in TARGETS), *((t, True) for t in TARGETS[1:])]
)


@pytest.fixture(scope="module")
def tollway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("clouds")
    with (
        stand_ins.aimock(folder, FIXTURES) as url,
        clouds.TokenService().running(folder) as file,
    ):
        aws = {"adapter": "bedrock", "region": "us-east-1", "api_key": "ABSK-test-0123456789"}
        gcp = {"adapter": "vertex", "region": "global", "project": "p"}
        config = {
            "providers": {
                "aws": {**aws, "base_url": url},
                "gcp": {**gcp, "base_url": url, "credentials_file": str(file)},
            },
            "targets": [
                {"target": name, "price": {"input": 1, "output": 2}, "max_output_tokens": 100}
                for name in TARGETS
            ],
        }
        with serving(folder, config) as running:
            yield running


def chunks_of(text: str) -> list[dict[str, Any]]:
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(each[6:]) for each in text.split("\n\n") if each.startswith("data: {")]


@every_target
def test_a_whole_answer_and_what_it_cost(tollway: Tollway, target: str) -> None:
    answer = tollway.chat(target, messages=[{"role": "user", "content": "hello"}])
    assert answer.status_code == 200, answer.text + tollway.log()
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["usage"]["total_tokens"] == 17
    assert tollway.rows(1)[0]["cost_nanousd"] == 9 * 1000 + 8 * 2000


@streaming_targets
def test_a_stream_and_what_it_cost(tollway: Tollway, target: str) -> None:
    answer = tollway.chat(target, messages=[{"role": "user", "content": "hello"}], stream=True)
    assert answer.status_code == 200, answer.text + tollway.log()
    choices = [c for chunk in chunks_of(answer.text) for c in chunk["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == TEXT
    assert choices[-1]["finish_reason"] == "stop"


@either_kind
def test_a_tool_call(tollway: Tollway, target: str, stream: bool) -> None:
    messages = [{"role": "user", "content": "weather"}]
    answer = tollway.chat(target, messages=messages, tools=[TOOL], stream=stream)
    assert answer.status_code == 200, answer.text + tollway.log()
    if stream:
        choices = [c for chunk in chunks_of(answer.text) for c in chunk["choices"]]
        calls = [call for c in choices for call in c["delta"].get("tool_calls", ())]
        arguments = "".join(call["function"].get("arguments", "") for call in calls)
        finish = choices[-1]["finish_reason"]
    else:
        [choice] = answer.json()["choices"]
        [call] = choice["message"]["tool_calls"]
        arguments, finish = call["function"]["arguments"], choice["finish_reason"]
    assert json.loads(arguments) == {"location": "Paris"}
    assert finish == "tool_calls"


@either_kind
def test_anthropics_dialect_at_every_cloud(tollway: Tollway, target: str, stream: bool) -> None:
    answer = httpx2.post(
        f"{tollway.url}/v1/messages",
        headers={"authorization": "Bearer any", "anthropic-version": "2023-06-01"},
        json={
            "model": target,
            "max_tokens": 50,
            "stream": stream,
            "messages": [{"role": "user", "content": "hello"}],
        },
    )
    assert answer.status_code == 200, answer.text + tollway.log()
    if not stream:
        assert answer.json()["content"][0]["text"] == TEXT
        return
    events = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]
    assert events[-1]["type"] == "message_stop"
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == TEXT
