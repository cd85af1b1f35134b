"""Amazon Bedrock: who signs, what is sent where, and what comes back."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore
import pytest
from msgspec import structs

from adapters import base, registry
from adapters.base import AdapterError, Call, Deadlines, Endpoint
from adapters.bedrock import Bedrock, speaks
from adapters.http.aws_signing import Signer
from adapters.wire import aws_failures
from tests.adapters import clouds
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, piece, whole
from tests.adapters.wire_converse import FRAMES

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
KEY, SECRET, SESSION = "AKIATEST0123456789", "secret/0123456789+abcdef", "session-token-0123456789"
API_KEY = "ABSK-test-0123456789"
HI = [{"role": "user", "content": "Hi"}]
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**ANSWER, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}},
]


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)


def chat(model: str = CLAUDE, *, stream: bool = False, **members: Any) -> Call:
    return call("chat", model, stream=stream, messages=HI, **members)


def call(
    endpoint: Endpoint,
    model: str = CLAUDE,
    *,
    stream: bool = False,
    headers: dict[str, str] | None = None,
    **members: Any,
) -> Call:
    body = {"model": model, **members, **({"stream": True} if stream else {})}
    return Call(
        endpoint=endpoint,
        model=model,
        body=json.dumps(body).encode(),
        stream=stream,
        deadlines=Deadlines(),
        headers=headers or {},
    )


def ask(
    asked: Call, answer: Callable[[Peer], None] | bytes, **settings: Any
) -> tuple[Request | None, Any]:
    """What was sent, and what came of it: the body, the payloads or the error."""
    sent: list[Request] = []

    def serve(peer: Peer) -> None:
        sent.append(peer.read_request())
        peer.send(answer) if isinstance(answer, bytes) else answer(peer)

    async def play(url: str) -> Any:
        adapter = Bedrock(base_url=url, **{"region": "us-east-1", **settings})
        try:
            async with adapter.open(asked) as opened:
                if not asked.stream:
                    return json.loads(await opened.body())
                found = []
                while payloads := await opened.payloads():
                    found += [json.loads(payload) for payload in payloads]
                return found
        except AdapterError as error:
            return error
        finally:
            await adapter.aclose()

    with ScriptedServer(serve) as server:
        outcome = asyncio.run(play(server.url))
    return (sent[0] if sent else None), outcome


def sent_for(asked: Call, answer: bytes = whole(ANSWER), **settings: Any) -> Request:
    request, outcome = ask(asked, answer, **{"api_key": API_KEY, **settings})
    assert request is not None, outcome
    return request


def frames(*events: dict[str, Any]) -> bytes:
    return b"".join(piece(clouds.chunk(event)) for event in events)


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", [CLAUDE, "amazon.nova-pro-v1:0"])
def test_requests_are_signed(model: str, stream: bool) -> None:
    request, _ = ask(chat(model, stream=stream), whole({}))
    assert request is not None
    fields = request.headers["authorization"]
    assert f"Credential={KEY}/" in fields
    assert "/us-east-1/bedrock/aws4_request" in fields
    assert request.headers["x-amz-security-token"] == SESSION
    signed = re.search("SignedHeaders=([^,]*)", fields)
    assert signed is not None
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(signed[1].split(";"))
    assert fields.endswith(f"Signature={clouds.signature(request, SECRET)}")


def test_a_profile_signs_with_its_own_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", API_KEY)  # which is somebody else's
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = AKIAMINE\naws_secret_access_key = {SECRET}\n"
    )
    request, _ = ask(chat(), whole(ANSWER), profile="mine")
    assert request is not None
    assert "Credential=AKIAMINE/" in request.headers["authorization"]
    assert request.headers["authorization"].endswith(clouds.signature(request, SECRET))


@pytest.mark.parametrize(("expires_in", "renews"), [(30, True), (3600, False)])
def test_keys_are_renewed_before_they_expire(tmp_path: Path, expires_in: int, renews: bool) -> None:
    count = tmp_path / "count"
    script = tmp_path / "give.py"
    script.write_text(
        f"""
import datetime, json, pathlib
count = pathlib.Path({str(count)!r})
count.write_text((count.read_text() if count.exists() else "") + "x")
expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds={expires_in})
print(json.dumps({{
    "Version": 1,
    "AccessKeyId": "AKIA" + str(len(count.read_text())),
    "SecretAccessKey": {SECRET!r},
    "SessionToken": "t" * 20,
    "Expiration": expires.isoformat(),
}}))
"""
    )
    (tmp_path / "config").write_text(
        f"[profile mine]\ncredential_process = {sys.executable} {script}\n"
    )

    async def play() -> list[str]:
        signer = Signer(region="us-east-1", profile="mine")
        signed = [await signer.headers("https://h/", b"", "application/json") for _ in range(2)]
        await signer.aclose()
        return [headers["authorization"].split("/")[0] for headers in signed]

    first, second = asyncio.run(play())
    assert (first != second) == renews


def test_a_profile_that_is_not_there_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="mine"):
        Bedrock(region="us-east-1", profile="mine")


@pytest.mark.usefixtures("_keys")
def test_an_api_key_goes_before_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent_for(chat()).headers["authorization"] == f"Bearer {API_KEY}"
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "ABSK-environment")
    request = sent_for(chat(), api_key=None)
    assert request.headers["authorization"] == "Bearer ABSK-environment"


def test_without_credentials_nothing_is_sent_and_callers_are_told_no_more() -> None:
    request, error = ask(chat(), whole(ANSWER))
    assert request is None
    assert type(error) is base.UpstreamAuth
    assert error.message == "there are no credentials for Amazon Bedrock"


@pytest.mark.usefixtures("_keys")
def test_what_was_signed_with_is_never_quoted() -> None:
    said = {"message": f"x-amz-security-token:{SESSION}", "error": "x"}
    _, error = ask(chat(), whole(said, 400, x_amzn_errortype="ValidationException"))
    assert type(error) is base.BadRequest
    assert SESSION not in str(vars(error))
    settings = registry.Settings(name="b", region="us-east-1", api_key=API_KEY)
    assert API_KEY not in repr(settings)


def test_the_address_is_the_regions() -> None:
    for region in ("us-east-1", "eu-central-1"):
        adapter = Bedrock(region=region, api_key=API_KEY)
        assert adapter.url == f"https://bedrock-runtime.{region}.amazonaws.com"


# --- Anthropic's models ---------------------------------------------------------------------------


def test_chat_is_invoked_in_anthropics_dialect() -> None:
    request, answer = ask(chat(max_tokens=7), whole(ANSWER), api_key=API_KEY)
    assert request is not None
    assert clouds.path_of(request) == f"/model/{CLAUDE}/invoke"
    assert json.loads(request.body) == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    assert answer["choices"][0]["message"]["content"] == "Hi"
    assert answer["usage"]["total_tokens"] == 5


def test_what_clouds_would_have_to_fetch_is_refused_or_left_out_and_named() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    parts = [{"type": "text", "text": "Hi"}, image]
    made = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for messages in (
        [{"role": "user", "content": parts}],
        [
            *HI,
            {"role": "assistant", "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "1", "content": parts},
        ],
    ):
        asked = call("chat", messages=messages)
        _, error = ask(asked, b"", api_key=API_KEY)
        assert type(error) is base.Unsupported
        assert error.param == "messages[].content[].image_url"
        request = sent_for(structs.replace(asked, drop_params=True))
        assert b"example.com" not in request.body
        assert b'"Hi"' in request.body


def test_the_tier_of_all_requests_is_not_told() -> None:
    assert b"service_tier" not in sent_for(chat(service_tier="default")).body


def test_a_resource_name_is_one_part_of_the_path() -> None:
    model = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-6-v1"
    target = sent_for(chat(model)).line.split(" ")[1]
    assert target.count("/") == 3
    assert target.startswith("/model/arn%3Aaws")


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_stream_is_unwrapped(endpoint: Endpoint) -> None:
    asked = call(endpoint, stream=True, max_tokens=7, messages=HI)
    request, payloads = ask(asked, FRAMES + frames(*EVENTS) + END, api_key=API_KEY)
    assert request is not None
    assert clouds.path_of(request) == f"/model/{CLAUDE}/invoke-with-response-stream"
    assert "stream" not in json.loads(request.body)
    if endpoint == "messages":
        assert payloads == EVENTS
    else:
        texts = [c["delta"].get("content") for p in payloads for c in p["choices"]]
        assert "".join(text or "" for text in texts) == "Hi"
        assert payloads[-1]["usage"]["total_tokens"] == 5


def test_messages_go_as_they_are_but_for_model_stream_and_version() -> None:
    members = {"max_tokens": 7, "messages": [], "thinking": {"type": "adaptive"}, "new": 1.0}
    request = sent_for(call("messages", **members))
    assert json.loads(request.body) == {"anthropic_version": "bedrock-2023-05-31", **members}


def test_lone_surrogates_reach_the_model() -> None:
    text = "\ud83d"
    request = sent_for(call("messages", max_tokens=1, messages=[{"role": "user", "content": text}]))
    assert json.loads(request.body)["messages"][0]["content"] == text


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":"\\ud83d"', b"1"])
def test_a_body_that_is_no_object_is_the_clients_fault(body: bytes) -> None:
    asked = Call(endpoint="messages", model=CLAUDE, body=body, stream=False, deadlines=Deadlines())
    request, error = ask(asked, b"", api_key=API_KEY)
    assert request is None
    assert type(error) is base.BadRequest


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_betas_go_in_the_body(endpoint: Endpoint) -> None:
    asked = call(endpoint, max_tokens=1, messages=HI, headers={"anthropic-beta": "mine-1, both-1"})
    request = sent_for(asked, headers={"Anthropic-Beta": "operators-1,both-1"})
    expected = ["operators-1", "both-1", "mine-1"]
    assert json.loads(request.body)["anthropic_beta"] == expected
    assert "anthropic-beta" not in request.headers


def test_tokens_are_counted_for_the_model_itself() -> None:
    members: dict[str, Any] = {
        "messages": HI,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }
    asked = call("count_tokens", **members)
    request, answer = ask(asked, whole({"inputTokens": 9}), api_key=API_KEY)
    assert request is not None
    assert clouds.path_of(request) == f"/model/{CLAUDE.removeprefix('us.')}/count-tokens"
    wrapped = json.loads(request.body)["input"]["invokeModel"]["body"]
    invocation = json.loads(base64.b64decode(wrapped))
    assert invocation == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 2001,
        **members,
    }
    assert answer == {"input_tokens": 9}


def test_a_count_that_is_none_is_malformed() -> None:
    _, error = ask(call("count_tokens", messages=[]), whole({"inputTokens": "9"}), api_key=API_KEY)
    assert type(error) is base.MalformedAnswer


# --- streams that fail ----------------------------------------------------------------------------


def test_an_error_before_everything_else_is_raised_as_its_family() -> None:
    refused = FRAMES + piece(clouds.exception("throttlingException", "slow down")) + END
    for model in (CLAUDE, "amazon.nova-pro-v1:0"):
        _, error = ask(chat(model, stream=True), refused, api_key=API_KEY)
        assert type(error) is base.RateLimited
        assert (error.status, error.code) == (429, "ThrottlingException")
        assert error.message == "slow down"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("modelStreamErrorException", "overloaded_error"),
        ("validationException", "invalid_request_error"),
        ("unheardOfException", "overloaded_error"),
    ],
)
def test_a_later_error_is_told_in_the_dialect_of_the_endpoint(name: str, kind: str) -> None:
    broken = FRAMES + frames(EVENTS[0]) + piece(clouds.exception(name, "no")) + END
    for endpoint in ("chat", "messages"):
        payloads: list[Any] = []

        async def play(url: str, endpoint: Endpoint, payloads: list[Any]) -> None:
            adapter = Bedrock(region="us-east-1", base_url=url, api_key=API_KEY)
            asked = call(endpoint, stream=True, max_tokens=1, messages=HI)
            async with adapter.open(asked) as opened:
                while found := await opened.payloads():
                    payloads += [json.loads(payload) for payload in found]

        def serve(peer: Peer) -> None:
            peer.read_request()
            peer.send(broken)

        with ScriptedServer(serve) as server, pytest.raises(base.ConnectionLost):
            asyncio.run(play(server.url, endpoint, payloads))
        assert payloads[-1]["error"]["message"] == "no"
        assert payloads[-1]["error"]["type"] == kind
        assert ("type" in payloads[-1]) == (endpoint == "messages")


@pytest.mark.parametrize(
    "body",
    [
        piece(clouds.event("chunk", {"bytes": "!"})),
        piece(clouds.event("chunk", {})),
        piece(clouds.event("chunk", {"bytes": base64.b64encode(b"[]").decode()})),
        piece(clouds.chunk(EVENTS[0])[:-1] + b"x"),
    ],
)
def test_frames_that_hold_no_event_are_malformed(body: bytes) -> None:
    _, error = ask(chat(stream=True), FRAMES + body + END, api_key=API_KEY)
    assert type(error) is base.MalformedAnswer


def test_a_stream_without_its_end_is_lost() -> None:
    _, error = ask(chat(stream=True), FRAMES + frames(*EVENTS[:-1]) + END, api_key=API_KEY)
    assert type(error) is base.ConnectionLost


# --- errors ---------------------------------------------------------------------------------------


def service() -> dict[str, Any]:
    """Amazon's own description of the service."""
    folder = Path(botocore.__path__[0], "data", "bedrock-runtime")
    (file,) = folder.glob("*/service-2.json.gz")
    described: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return described


def test_no_error_of_the_service_is_unmapped() -> None:
    described = service()
    errors = {name for name, shape in described["shapes"].items() if shape.get("exception")}
    assert errors
    assert errors <= aws_failures.FAMILIES.keys()


def test_statuses_are_those_of_the_service() -> None:
    shapes = service()["shapes"]
    for name, (_, status) in aws_failures.FAMILIES.items():
        if name in shapes:
            assert shapes[name]["error"]["httpStatusCode"] == status


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Malformed input request: #: extraneous key", base.BadRequest),
        ("Input is too long for requested model.", base.ContextExceeded),
        ("prompt is too long: 210000 tokens > 200000 maximum", base.ContextExceeded),
        ("The provided model identifier is invalid.", base.ModelNotFound),
        (
            "Invocation of model ID x with on-demand throughput isn\u2019t supported.",
            base.ModelNotFound,
        ),
        ("Operation not allowed", base.UpstreamAuth),
        ("Output blocked by content filtering policy", base.ContentRefused),
    ],
)
def test_a_validation_error_is_told_apart_by_its_words(
    message: str, kind: type[base.UpstreamError]
) -> None:
    headers = {"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/"}
    error = aws_failures.error_of(400, headers, json.dumps({"message": message}).encode())
    assert type(error) is kind


def test_an_error_without_a_name_is_told_by_its_status() -> None:
    assert type(aws_failures.error_of(503, {}, b"<html>")) is base.Overloaded
    assert type(aws_failures.error_of(403, {}, b"{}")) is base.UpstreamAuth


# --- what is asked where --------------------------------------------------------------------------


def test_only_claude_speaks_anthropics_dialect() -> None:
    assert "messages" in speaks(CLAUDE)
    assert speaks("amazon.nova-pro-v1:0") == {"chat"}
    assert speaks("cohere.embed-v4:0") == {"embeddings"}
    assert registry.speaks("bedrock", "meta.llama4-maverick-17b-instruct-v1:0") == {"chat"}


def test_another_model_is_not_asked_in_it() -> None:
    request, error = ask(call("messages", "amazon.nova-pro-v1:0"), b"", api_key=API_KEY)
    assert request is None
    assert type(error) is base.BadRequest
    assert error.param == "model"


# --- embeddings -----------------------------------------------------------------------------------

TITAN, COHERE = "amazon.titan-embed-text-v2:0", "us.cohere.embed-v4:0"


def test_titan_embeds_one_text() -> None:
    asked = call("embeddings", TITAN, input=["a"], dimensions=256, encoding_format="base64")
    said = {"embedding": [1.0], "inputTextTokenCount": 3, "embeddingsByType": {}}
    request, answer = ask(asked, whole(said), api_key=API_KEY)
    assert request is not None
    assert clouds.path_of(request) == f"/model/{TITAN}/invoke"
    assert json.loads(request.body) == {"inputText": "a", "dimensions": 256}
    assert answer["data"] == [{"object": "embedding", "index": 0, "embedding": [1.0]}]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize("embeddings", [[[1.0], [2.0]], {"float": [[1.0], [2.0]]}])
def test_cohere_embeds_many(embeddings: Any) -> None:
    asked = call("embeddings", COHERE, input=["a", "b"], dimensions=256, input_type="search_query")
    request, answer = ask(asked, whole({"embeddings": embeddings, "id": "1"}), api_key=API_KEY)
    assert request is not None
    assert json.loads(request.body) == {
        "texts": ["a", "b"],
        "input_type": "search_query",
        "output_dimension": 256,
    }
    assert [item["embedding"] for item in answer["data"]] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("model", "members", "param"),
    [
        (TITAN, {"input": ["a", "b"]}, "input"),
        (TITAN, {"input": [1, 2]}, "input"),
        (COHERE, {"input": [[1, 2]]}, "input"),
        (TITAN, {"input": "a", "input_type": "search_query"}, "input_type"),
    ],
)
def test_what_an_embedding_model_does_not_take_is_refused(
    model: str, members: dict[str, Any], param: str
) -> None:
    request, error = ask(call("embeddings", model, **members), b"", api_key=API_KEY)
    assert request is None
    assert type(error) is base.Unsupported
    assert error.param == param


@pytest.mark.parametrize("said", [{}, {"embeddings": []}, {"embedding": "a"}, []])
def test_an_answer_without_vectors_is_malformed(said: Any) -> None:
    _, error = ask(call("embeddings", TITAN, input="a"), whole(said), api_key=API_KEY)
    assert type(error) is base.MalformedAnswer


def test_a_model_that_makes_no_vectors_is_not_asked_for_them() -> None:
    for model in (CLAUDE, "amazon.nova-pro-v1:0"):
        request, error = ask(call("embeddings", model, input="a"), b"", api_key=API_KEY)
        assert request is None
        assert type(error) is base.BadRequest
