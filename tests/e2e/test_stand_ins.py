"""Providers that nobody of us wrote, in each dialect they have, behind the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e import stand_ins
from tests.e2e.stand_ins import Llmock
from tests.e2e.tollway import Tollway, events, serving

TOOL = {
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


def configuration(providers: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Each provider (adapter and URL) with one model, which is a virtual model by its name."""
    return {
        "discover": False,
        "providers": {
            name: {"adapter": adapter, "base_url": url, "api_key": "x"}
            for name, (adapter, url) in providers.items()
        },
        "targets": [
            {
                "target": f"{name}/m",
                "price": {"input": 1, "output": 2},
                "capabilities": ["chat", "tools", "json_schema"],
                "max_output_tokens": 1000,
            }
            for name in providers
        ],
        "models": {
            **{name: {"targets": [f"{name}/m"]} for name in providers},
            "all": {"targets": [f"{name}/m" for name in providers]},
        },
    }


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def streamed(tollway: Tollway, model: str, **asked: Any) -> dict[str, Any]:
    """The parts of a stream that ended as it should, put together."""
    reply = tollway.chat(model, stream=True, **asked)
    assert reply.status_code == 200, reply.text
    *chunks, done = events(reply.text)
    assert done == "[DONE]", reply.text
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    calls: dict[int, list[str]] = {}
    for entry in (e for c in choices for e in c["delta"].get("tool_calls") or ()):
        call = calls.setdefault(entry["index"], ["", ""])
        call[0] += entry["function"].get("name") or ""
        call[1] += entry["function"].get("arguments") or ""
    return {
        "text": "".join(choice["delta"].get("content") or "" for choice in choices),
        "calls": [(name, json.loads(arguments)) for name, arguments in calls.values()],
        "finish": choices[-1]["finish_reason"],
    }


def is_told(reply: Any) -> bool:
    """Whether a client learns that the answer is none."""
    return "[DONE]" not in reply.text and (
        reply.status_code == 502 or "error" in events(reply.text)[-1]
    )


# --- aimock ---------------------------------------------------------------------------------------

AIMOCK = {
    "openai": ("openai", "/v1"),
    "anthropic": ("anthropic", "/v1"),
    "gemini": ("gemini", "/v1beta"),
    "ollama": ("ollama", ""),
}
CITIES = [{"name": "get_weather", "arguments": {"city": city}} for city in ("Paris", "Rome")]
FIXTURES: list[dict[str, Any]] = [
    {
        "match": {"userMessage": "hello"},
        "response": {"content": "Hello! “How” can I help you?"},
        "chunkSize": 5,
    },
    {"match": {"toolResultContains": "21"}, "response": {"content": "It is warm."}},
    {"match": {"userMessage": "think"}, "response": {"content": "Yes.", "reasoning": "Hm."}},
    {"match": {"userMessage": "weather"}, "response": {"toolCalls": CITIES}},
    {
        "match": {"userMessage": "cut"},
        "response": {"content": "This will be cut in the middle of it, and must show"},
        "chunkSize": 5,
        "truncateAfterChunks": 4,
    },
    {
        "match": {"userMessage": "slow down"},
        "response": {
            "error": {"message": "Slow down", "type": "rate_limit_error"},
            "status": 429,
            "retryAfter": 7,
        },
    },
]

through_aimock = pytest.mark.parametrize("dialect", AIMOCK)


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    if not stand_ins.has_npm_peers():
        pytest.skip("Node.js or the npm packages are not here (make test installs them)")
    folder = tmp_path_factory.mktemp("aimock")
    with stand_ins.aimock(folder, FIXTURES) as url:
        providers = {name: (adapter, url + path) for name, (adapter, path) in AIMOCK.items()}
        with serving(folder, configuration(providers)) as running:
            yield running


@through_aimock
def test_aimock_answers(aimock: Tollway, dialect: str) -> None:
    asked = {"messages": user("hello")}
    said = aimock.chat(dialect, **asked).json()
    assert said["choices"][0]["message"]["content"] == "Hello! “How” can I help you?"
    assert said["choices"][0]["finish_reason"] == "stop"
    assert said["model"]
    found = streamed(aimock, dialect, **asked)
    assert found == {"text": "Hello! “How” can I help you?", "calls": [], "finish": "stop"}


@pytest.mark.parametrize("dialect", sorted(AIMOCK.keys() - {"ollama"}))
def test_aimock_thinks(aimock: Tollway, dialect: str) -> None:
    """But for its Ollama, which calls thoughts `reasoning_content`, as Ollama does not."""
    asked = {"messages": user("think"), "reasoning_effort": "low", "max_tokens": 4000}
    message = aimock.chat(dialect, **asked).json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hm.")


@through_aimock
def test_aimock_calls_tools_and_is_told_what_they_say(aimock: Tollway, dialect: str) -> None:
    asked = {"messages": user("the weather"), "tools": [TOOL]}
    found = streamed(aimock, dialect, **asked)
    assert found["calls"] == [(call["name"], call["arguments"]) for call in CITIES]
    assert found["finish"] == "tool_calls"
    message = aimock.chat(dialect, **asked).json()["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"{degrees} degrees"}
        for call, degrees in zip(message["tool_calls"], (18, 21), strict=True)
    ]
    turns = [*user("the weather"), message, *results]
    said = aimock.chat(dialect, messages=turns, tools=[TOOL]).json()
    assert said["choices"][0]["message"]["content"] == "It is warm."


@through_aimock
def test_aimock_answers_in_every_dialect_of_clients(aimock: Tollway, dialect: str) -> None:
    """Responses are relayed to its OpenAI and messages to its Anthropic, translated elsewhere."""
    expected = "Hello! “How” can I help you?"
    with openai.OpenAI(base_url=f"{aimock.url}/v1", api_key="x", max_retries=0) as client:
        assert client.responses.create(model=dialect, input="hello").output_text == expected
        with client.responses.stream(model=dialect, input="hello") as stream:
            assert stream.until_done().get_final_response().output_text == expected
    with anthropic.Anthropic(base_url=aimock.url, api_key="x", max_retries=0) as other:
        asked: Any = {"model": dialect, "max_tokens": 100, "messages": user("hello")}
        [block] = other.messages.create(**asked).content
        assert block.type == "text"
        assert block.text == expected
        with other.messages.stream(**asked) as messages:
            assert messages.get_final_text() == expected


@through_aimock
def test_aimock_cut_off_shows_in_every_dialect_of_clients(aimock: Tollway, dialect: str) -> None:
    with (
        openai.OpenAI(base_url=f"{aimock.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIError),
        client.responses.stream(model=dialect, input="cut") as stream,
    ):
        stream.until_done()
    with (
        anthropic.Anthropic(base_url=aimock.url, api_key="x", max_retries=0) as other,
        pytest.raises(anthropic.APIError),
        other.messages.stream(model=dialect, max_tokens=100, messages=user("cut")) as messages,  # type: ignore[arg-type]
    ):
        messages.until_done()


@through_aimock
def test_aimock_cut_off_shows(aimock: Tollway, dialect: str) -> None:
    assert is_told(aimock.chat(dialect, messages=user("cut"), stream=True))


@through_aimock
def test_aimock_slows_us_down(aimock: Tollway, dialect: str) -> None:
    reply = aimock.chat(dialect, messages=user("slow down"))
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "7"
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"


# --- llmock ---------------------------------------------------------------------------------------

LLMOCK = {
    "openai": ("openai", "/v1"),
    "anthropic": ("anthropic", "/anthropic/v1"),
    "gemini": ("gemini", "/gemini/v1beta"),
    "mistral": ("mistral", "/mistral/v1"),
    "groq": ("groq", "/groq/openai/v1"),
    "xai": ("xai", "/xai/v1"),
    "together": ("together", "/together/v1"),
}

through_llmock = pytest.mark.parametrize("provider", LLMOCK)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tollway, Llmock]]:
    if not stand_ins.LLMOCK.exists():
        pytest.skip("llmock is not installed (make test does it)")
    folder = tmp_path_factory.mktemp("llmock")
    with stand_ins.llmock(folder) as judge:
        providers = {name: (adapter, judge.url + path) for name, (adapter, path) in LLMOCK.items()}
        with serving(folder, configuration(providers)) as running:
            yield running, judge


def faults(judge: Llmock) -> list[str]:
    """What is a fault by llmock's rules whatever the client of ours does."""
    return [found["code"] for found in judge.verdict()["findings"] if found["severity"] == "error"]


@through_llmock
def test_llmock_answers(judged: tuple[Tollway, Llmock], provider: str) -> None:
    tollway, judge = judged
    judge.will()
    text = "Hello! This is a mock response from m."
    said = tollway.chat(provider).json()
    assert said["choices"][0]["message"]["content"] == text
    assert said["model"] == "m"
    assert said["usage"]["completion_tokens"] > 0
    assert streamed(tollway, provider) == {"text": text, "calls": [], "finish": "stop"}
    weather = {"calls": [("get_weather", {"city": "mock-city"})], "finish": "tool_calls"}
    assert streamed(tollway, provider, tools=[TOOL]) == {"text": "", **weather}
    assert judge.verdict()["findings"] == []


@through_llmock
@pytest.mark.parametrize("kind", ["truncate", "disconnect", "malformed"])
def test_llmock_breaks_a_stream(judged: tuple[Tollway, Llmock], provider: str, kind: str) -> None:
    tollway, judge = judged
    # Always: what breaks before its first token is asked for once more.
    judge.will({"type": "stream_fault", "kind": kind, "after_chunks": 3, "times": None})
    assert is_told(tollway.chat(provider, stream=True))


@through_llmock
@pytest.mark.parametrize("status", [400, 401, 404])
def test_llmock_says_no(judged: tuple[Tollway, Llmock], provider: str, status: int) -> None:
    tollway, judge = judged
    judge.will({"type": "fail", "status": status, "times": None})
    reply = tollway.chat(provider)
    assert reply.status_code in (status, 502)
    assert faults(judge) == []
    assert judge.verdict()["attempts"] == 1


def test_clients_wait_as_long_as_every_provider_asks(judged: tuple[Tollway, Llmock]) -> None:
    tollway, judge = judged
    judge.will(
        *(
            {"type": "fail", "status": 429, "retry_after": 1, "match": {"provider": name}}
            for name in LLMOCK
        )
    )

    def ask(provider: str) -> str | None:
        with openai.OpenAI(base_url=f"{tollway.url}/v1", api_key="x", max_retries=2) as client:
            said = client.chat.completions.create(
                model=provider, messages=[{"role": "user", "content": f"Hello {provider}"}]
            )
            return said.choices[0].message.content

    with ThreadPoolExecutor(len(LLMOCK)) as threads:
        assert all(threads.map(ask, LLMOCK))
    verdict = judge.verdict()
    assert verdict["attempts"] == 2 * len(LLMOCK)
    assert verdict["findings"] == []


def test_another_provider_answers_for_all_that_are_down(judged: tuple[Tollway, Llmock]) -> None:
    tollway, judge = judged
    *down, up = LLMOCK
    judge.will(
        *({"type": "fail", "status": 503, "times": None, "match": {"provider": n}} for n in down)
    )
    reply = tollway.chat("all")
    assert reply.status_code == 200
    assert reply.headers["x-tollway-model"] == f"{up}/m"
    assert faults(judge) == []
    judge.will()
