"""An OpenAI client at providers that speak its dialect in a way of their own, and none at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.tollway import Tollway, serving
from tests.e2e.upstream import Call, Line, Upstream

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
PRICE = {"input": 1, "output": 2}


async def mistral(call: Call, line: Line) -> None:
    """Refuses what it does not know, and thinks in parts of its content."""
    known = {"model", "messages", "stream", "temperature", "max_tokens", "random_seed"}
    if unknown := sorted(call.body.keys() - known):
        detail = [{"type": "extra_forbidden", "loc": ["body", unknown[0]], "msg": "Not permitted"}]
        await line.json({"object": "error", "message": {"detail": detail}}, status="422 No")
        return
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    content = [thought, {"type": "text", "text": "Once"}]
    if not call.body.get("stream"):
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await line.json({"id": "1", "choices": [choice], "usage": USAGE})
        return
    await line.start_stream()
    for delta, finish in (({"content": content}, None), ({"content": " upon"}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        more = {"usage": USAGE} if finish else {}
        await line.event({"id": "1", "choices": [choice], **more})
    await line.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def generator(call: Call, line: Line) -> None:
    assert call.path == "/v1/generate"
    assert call.body == {"inputs": "Hi", "model": "raw", "length": 64, "stream": False}
    await line.json({"outputs": [{"text": "Hello"}], "counts": {"in": 3, "out": 5}})


@pytest.fixture
def tollway(upstream: Upstream, tmp_path: Path) -> Iterator[Tollway]:
    endpoints = {
        "chat": {
            "path": "/generate",
            "request": {
                "inputs": "{{prompt}}",
                "model": "{{model}}",
                "length": "{{max_tokens}}",
                "stream": "{{stream}}",
            },
            "response": {
                "text": "outputs.0.text",
                "input_tokens": "counts.in",
                "output_tokens": "counts.out",
            },
        }
    }
    config = {
        "providers": {
            "mistral": {"adapter": "mistral", "base_url": upstream.base_url, "api_key": "sk-m"},
            "mine": {"adapter": "http", "base_url": upstream.base_url, "endpoints": endpoints},
        },
        "targets": [
            {"target": "mistral/large", "price": PRICE},
            {"target": "mine/raw", "price": PRICE, "max_output_tokens": 64},
        ],
    }
    upstream.scripts["large"] = mistral
    upstream.scripts["raw"] = generator
    with serving(tmp_path, config) as running:
        yield running


def post(tollway: Tollway, body: dict[str, Any], **headers: str) -> httpx2.Response:
    asked = {"messages": [{"role": "user", "content": "Hi"}], **body}
    return httpx2.post(
        f"{tollway.url}/v1/chat/completions",
        json=asked,
        headers={"authorization": "Bearer any", **headers},
    )


def test_mistral_is_told_what_it_knows_and_thinks_as_others_do(tollway: Tollway) -> None:
    body = {"model": "mistral/large", "seed": 7, "user": "u", "max_completion_tokens": 9}
    answer = post(tollway, body)
    assert answer.status_code == 200
    message = answer.json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Once", "Hm.")
    (row,) = tollway.rows(1)
    assert row["cost_nanousd"] == 3 * 1_000 + 5 * 2_000


def test_mistrals_stream_is_everybodys(tollway: Tollway) -> None:
    options = {"include_usage": True}
    answer = post(tollway, {"model": "mistral/large", "stream": True, "stream_options": options})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert '"reasoning_content":"Hm."' in answer.text
    assert '"content":" upon"' in answer.text
    assert '"prompt_tokens":3' in answer.text


def test_what_mistral_lacks_is_refused_or_dropped_and_told(tollway: Tollway) -> None:
    body = {"model": "mistral/large", "logit_bias": {"1": 2}}
    refused = post(tollway, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "logit_bias"
    answer = post(tollway, body, **{"x-tollway-drop-params": "true"})
    assert answer.status_code == 200
    assert "logit_bias" in answer.headers["x-tollway-dropped-params"]


def test_any_other_endpoint_streams_its_whole_answer(tollway: Tollway) -> None:
    answer = post(tollway, {"model": "mine/raw", "stream": True})
    assert answer.status_code == 200
    assert '"content":"Hello"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert post(tollway, {"model": "mine/raw"}).json()["usage"]["total_tokens"] == 8
    assert [row["cost_nanousd"] for row in tollway.rows(2)] == [13_000, 13_000]
