"""Google's Vertex AI: tokens, addresses, both publishers, embeddings."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters import base, registry
from adapters.base import AdapterError, Call, Deadlines, Endpoint
from adapters.vertex import Vertex, address, speaks
from tests.adapters import clouds
from tests.adapters.contract import EVENTS, event
from tests.adapters.servers import Peer, Request, ScriptedServer, closed_port
from tests.adapters.wire import END, whole
from tests.adapters.wire_gemini import gemini

CLAUDE = "claude-sonnet-4-5@20250929"
GEMINI = "gemini-3-pro-preview"
HI = [{"role": "user", "content": "Hi"}]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def call(endpoint: Endpoint, model: str, **more: Any) -> Call:
    stream = more.pop("stream", False)
    headers = more.pop("headers", {})
    drop_params = more.pop("drop_params", False)
    body = {"model": model, **more, **({"stream": True} if stream else {})}
    return Call(
        endpoint=endpoint,
        model=model,
        body=json.dumps(body).encode(),
        stream=stream,
        deadlines=Deadlines(),
        headers=headers,
        drop_params=drop_params,
    )


async def play(adapter: Vertex, *calls: Call) -> list[Any]:
    """What comes of calls, one after the other: a body, payloads or an error."""
    outcomes: list[Any] = []
    for asked in calls:
        try:
            async with adapter.open(asked) as opened:
                if not asked.stream:
                    outcomes.append(json.loads(await opened.body()))
                    continue
                found = []
                while payloads := await opened.payloads():
                    found += [json.loads(payload) for payload in payloads]
                outcomes.append(found)
        except AdapterError as error:
            outcomes.append(error)
    await adapter.aclose()
    return outcomes


def ask(
    folder: Path,
    answer: bytes,
    *calls: Call,
    tokens: clouds.TokenService | None = None,
    **more: Any,
) -> tuple[list[Request], list[Any]]:
    """What was sent, and what came of it."""
    sent: list[Request] = []

    def serve(peer: Peer) -> None:
        while True:
            sent.append(peer.read_request())
            peer.send(answer)

    with (
        (tokens or clouds.TokenService()).running(folder) as file,
        ScriptedServer(serve) as server,
    ):
        settings = {"project": "my-project", "region": "europe-west1", "credentials_file": file}
        adapter = Vertex(**{**settings, "base_url": server.url, **more})
        outcomes = asyncio.run(play(adapter, *calls))
    return sent, outcomes


def asked_at(request: Request) -> str:
    target = request.line.split(" ")[1]
    return target.removeprefix("/v1/projects/my-project/locations/europe-west1/publishers/")


# --- tokens ---------------------------------------------------------------------------------------


def test_a_service_account_has_one_token_for_many_calls(tmp_path: Path) -> None:
    tokens = clouds.TokenService()
    calls = [call("chat", GEMINI, messages=HI)] * 3
    sent, _ = ask(tmp_path, whole(gemini({"text": "Hi"}, finish="STOP")), *calls, tokens=tokens)
    assert {request.headers["authorization"] for request in sent} == {"Bearer token-1-0123456789"}
    assert len(sent) == 3
    assert b"assertion=" in tokens.asked[0].body


def test_a_token_that_is_about_to_expire_is_not_used(tmp_path: Path) -> None:
    tokens = clouds.TokenService(expires_in=20)
    calls = [call("chat", GEMINI, messages=HI)] * 2
    sent, _ = ask(tmp_path, whole(gemini({"text": "Hi"}, finish="STOP")), *calls, tokens=tokens)
    assert [request.headers["authorization"][-18:] for request in sent] == [
        "token-1-0123456789",
        "token-2-0123456789",
    ]


def test_a_refused_account_sends_nothing_and_callers_are_told_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = clouds.TokenService(expires_in=0)
    with caplog.at_level(logging.WARNING):
        sent, [error] = ask(tmp_path, b"", call("chat", GEMINI, messages=HI), tokens=tokens)
    assert sent == []
    assert type(error) is base.UpstreamAuth
    assert error.message == "there are no credentials for Vertex AI"
    assert "invalid_grant" in caplog.text
    assert "PRIVATE KEY" not in caplog.text


def test_a_token_service_out_of_reach_is_no_fault_of_the_request(tmp_path: Path) -> None:
    file = clouds.service_account(tmp_path, f"http://127.0.0.1:{closed_port()}/token")
    adapter = Vertex(project="p", region="global", credentials_file=file)
    [error] = asyncio.run(play(adapter, call("chat", GEMINI, messages=HI)))
    assert type(error) is base.ConnectFailed
    assert not error.dispatched


def test_the_application_default_credentials_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clouds.TokenService().running(tmp_path) as file:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        answer = whole(gemini({"text": "Hi"}, finish="STOP"))
        (tmp_path / "other").mkdir()
        chat = call("chat", GEMINI, messages=HI)
        [request], _ = ask(tmp_path / "other", answer, chat, credentials_file=None)
    assert request.headers["authorization"] == "Bearer token-1-0123456789"


@pytest.mark.parametrize(
    "text", ["{}", "no JSON: secret-0123456789", '{"type": "service_account"}']
)
def test_a_file_without_a_key_is_found_at_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"key\.json") as caught:
        Vertex(project="p", region="global", credentials_file=file)
    assert "secret" not in str(caught.value)
    with pytest.raises(OSError, match=r"none\.json"):
        Vertex(project="p", region="global", credentials_file=tmp_path / "none.json")


def test_a_token_is_never_quoted(tmp_path: Path) -> None:
    said = {"error": {"code": 400, "message": "bad token-1-0123456789", "status": "X"}}
    _, [error] = ask(tmp_path, whole(said, 400), call("chat", GEMINI, messages=HI))
    assert type(error) is base.BadRequest
    assert error.message == "bad [redacted]"


def test_an_api_key_is_refused() -> None:
    with pytest.raises(ValueError, match="api_key"):
        Vertex(project="p", region="global", api_key="AIza-0123456789")


# --- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("europe-west1", "europe-west1-aiplatform.googleapis.com"),
    ],
)
def test_each_region_has_its_address(region: str, host: str) -> None:
    assert address(region) == f"https://{host}"


def test_endpoints_are_those_of_the_publisher() -> None:
    assert registry.speaks("vertex", CLAUDE) == {"chat", "messages", "count_tokens"}
    assert speaks(GEMINI) == {"chat", "embeddings"}


# --- Google's models ------------------------------------------------------------------------------


def test_gemini_is_asked_in_its_own_dialect(tmp_path: Path) -> None:
    chat = call("chat", GEMINI, messages=HI)
    [request], [answer] = ask(tmp_path, whole(gemini({"text": "Hi"}, finish="STOP")), chat)
    assert asked_at(request) == f"google/models/{GEMINI}:generateContent"
    assert json.loads(request.body)["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]
    assert answer["choices"][0]["message"]["content"] == "Hi"


def test_gemini_streams_events(tmp_path: Path) -> None:
    answer = EVENTS + event(gemini({"text": "Hi"}, finish="STOP")) + END
    [request], [payloads] = ask(tmp_path, answer, call("chat", GEMINI, messages=HI, stream=True))
    assert asked_at(request) == f"google/models/{GEMINI}:streamGenerateContent?alt=sse"
    assert payloads[0]["choices"][0]["delta"]["content"] == "Hi"


def test_calls_have_no_ids_here(tmp_path: Path) -> None:
    function = {"name": "f", "arguments": "{}"}
    made = {"id": "call_1", "type": "function", "function": function}
    messages = [
        *HI,
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    chat = call("chat", GEMINI, messages=messages)
    [request], _ = ask(tmp_path, whole(gemini({"text": "Hi"}, finish="STOP")), chat)
    assert b"call_1" not in request.body


def test_gemini_is_not_asked_in_anthropics_dialect(tmp_path: Path) -> None:
    sent, [error] = ask(tmp_path, b"", call("messages", GEMINI, messages=HI))
    assert sent == []
    assert type(error) is base.BadRequest


# --- embeddings -----------------------------------------------------------------------------------


def test_texts_are_predicted_in_one_request(tmp_path: Path) -> None:
    said = {
        "predictions": [
            {"embeddings": {"values": [1.0], "statistics": {"token_count": 2, "truncated": False}}},
            {"embeddings": {"values": [2.0], "statistics": {"token_count": 3.0}}},
        ]
    }
    asked = call(
        "embeddings",
        "text-embedding-005",
        input=["a", "b"],
        dimensions=5,
        task_type="RETRIEVAL_QUERY",
        encoding_format="base64",
        user="u",
    )
    [request], [answer] = ask(tmp_path, whole(said), asked)
    assert asked_at(request) == "google/models/text-embedding-005:predict"
    assert json.loads(request.body) == {
        "instances": [
            {"content": "a", "task_type": "RETRIEVAL_QUERY"},
            {"content": "b", "task_type": "RETRIEVAL_QUERY"},
        ],
        "parameters": {"outputDimensionality": 5},
    }
    assert [(d["index"], d["embedding"]) for d in answer["data"]] == [(0, [1.0]), (1, [2.0])]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_newer_models_embed_content(tmp_path: Path) -> None:
    said = {"embedding": {"values": [1.0]}, "usageMetadata": {"promptTokenCount": 4}}
    asked = call("embeddings", "gemini-embedding-2", input="a", dimensions=5)
    [request], [answer] = ask(tmp_path, whole(said), asked)
    assert asked_at(request) == "google/models/gemini-embedding-2:embedContent"
    assert json.loads(request.body) == {
        "content": {"parts": [{"text": "a"}]},
        "embedContentConfig": {"outputDimensionality": 5},
    }
    assert answer["data"][0]["embedding"] == [1.0]
    assert answer["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("gemini-embedding-001", ["a", "b"]),
        ("gemini-embedding-2", ["a", "b"]),
        ("text-embedding-005", [1, 2]),
        ("text-embedding-005", [[1, 2]]),
    ],
)
@pytest.mark.parametrize("drop_params", [True, False])
def test_input_that_a_model_does_not_take_is_refused(
    tmp_path: Path, model: str, given: Any, drop_params: bool
) -> None:
    asked = call("embeddings", model, input=given, drop_params=drop_params)
    sent, [error] = ask(tmp_path, b"", asked)
    assert sent == []
    assert type(error) is base.Unsupported
    assert error.param == "input"


def test_a_parameter_that_is_not_known_is_refused(tmp_path: Path) -> None:
    asked = call("embeddings", "text-embedding-005", input="a", truncate=True)
    _, [error] = ask(tmp_path, b"", asked)
    assert type(error) is base.Unsupported
    assert error.param == "truncate"


@pytest.mark.parametrize(
    "said", [{}, {"predictions": []}, {"predictions": 1}, [], {"embedding": {}}]
)
def test_an_answer_without_vectors_is_malformed(tmp_path: Path, said: Any) -> None:
    _, [error] = ask(tmp_path, whole(said), call("embeddings", "text-embedding-005", input="a"))
    assert type(error) is base.MalformedAnswer


# --- Anthropic's models ---------------------------------------------------------------------------


def test_claude_is_asked_in_its_own_dialect(tmp_path: Path) -> None:
    chat = call("chat", CLAUDE, messages=HI, max_tokens=7)
    [request], [answer] = ask(tmp_path, whole(MESSAGE), chat)
    assert asked_at(request) == f"anthropic/models/{CLAUDE}:rawPredict"
    body = json.loads(request.body)
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in body
    assert "stream" not in body
    assert answer["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_claude_streams_events(tmp_path: Path, endpoint: Endpoint) -> None:
    events = [
        {"type": "message_start", "message": {**MESSAGE, "content": []}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    answer = EVENTS + b"".join(event(each) for each in events) + END
    asked = call(endpoint, CLAUDE, messages=HI, max_tokens=7, stream=True)
    [request], [payloads] = ask(tmp_path, answer, asked)
    assert asked_at(request) == f"anthropic/models/{CLAUDE}:streamRawPredict"
    assert json.loads(request.body)["stream"] is True
    if endpoint == "messages":
        assert payloads == events
    else:
        assert payloads[1]["choices"][0]["delta"]["content"] == "Hi"


def test_tokens_are_counted_by_a_model_of_that_name(tmp_path: Path) -> None:
    asked = call("count_tokens", CLAUDE, messages=HI)
    [request], [answer] = ask(tmp_path, whole({"input_tokens": 9}), asked)
    assert asked_at(request) == "anthropic/models/count-tokens:rawPredict"
    assert json.loads(request.body)["model"] == CLAUDE
    assert answer == {"input_tokens": 9}


def test_betas_go_in_the_header(tmp_path: Path) -> None:
    headers = {"anthropic-beta": "mine-1"}
    asked = call("messages", CLAUDE, messages=HI, headers=headers)
    operators = {"anthropic-beta": "operators-1"}
    [request], _ = ask(tmp_path, whole(MESSAGE), asked, headers=operators)
    assert request.headers["anthropic-beta"] == "operators-1,mine-1"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "prompt is too long: 9"},
            },
            base.ContextExceeded,
        ),
        (
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
            base.Overloaded,
        ),
        (
            404,
            [{"error": {"code": 404, "message": "Publisher Model x", "status": "NOT_FOUND"}}],
            base.ModelNotFound,
        ),
        (
            429,
            {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}},
            base.RateLimited,
        ),
        (
            403,
            {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}},
            base.UpstreamAuth,
        ),
    ],
)
def test_errors_are_read_in_either_dialect(
    tmp_path: Path, status: int, body: Any, kind: type[base.UpstreamError]
) -> None:
    _, [error] = ask(tmp_path, whole(body, status), call("messages", CLAUDE, messages=HI))
    assert type(error) is kind
    assert error.status == status


# --- extras ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "library", "extra"),
    [("bedrock", "botocore", "bedrock"), ("vertex", "google.auth", "vertex")],
)
def test_libraries_are_imported_only_when_needed_and_named_when_missing(
    adapter: str, library: str, extra: str
) -> None:
    script = f"""
import os, sys
os.environ.pop("AWS_BEARER_TOKEN_BEDROCK", None)
from adapters import registry
assert {library!r} not in sys.modules
sys.modules[{library!r}] = None
try:
    registry.make({adapter!r}, registry.Settings(name="x", region="us-east-1", project="p"))
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert f"install tollway[{extra}]" in done.stdout
