"""The wire, over real sockets: what goes in comes out, and what breaks shows."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx2
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk


def test_json_answer_is_relayed_as_it_came(tollway: Tollway, upstream: Upstream) -> None:
    answer = json.dumps(completion(text="x", new_field={"kept": [1.0, None]}), indent=1).encode()

    async def script(call: Call, line: Line) -> None:
        await line.json(
            answer, headers="x-ratelimit-remaining-requests: 7\r\nx-request-id: up-1\r\n"
        )

    upstream.scripts["m1"] = script
    reply = tollway.chat("up/m1")
    assert reply.content == answer
    assert reply.headers["x-tollway-model"] == "up/m1"
    assert reply.headers["x-tollway-provider"] == "up"
    assert reply.headers["x-tollway-attempts"] == "1"
    assert reply.headers["x-tollway-cost-usd"] == "0.000025000"  # 11 x $1 + 7 x $2 per million
    assert reply.headers["x-ratelimit-remaining-requests"] == "7"
    assert reply.headers["x-tollway-upstream-request-id"] == "up-1"
    assert reply.headers["x-request-id"].startswith("req_")


def test_what_clients_choke_on_is_put_right_in_a_whole_answer(
    tollway: Tollway, upstream: Upstream
) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    odd = {
        "choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "eos"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }

    async def script(call: Call, line: Line) -> None:
        await line.json(odd)

    upstream.scripts["m1"] = script
    answer = ChatCompletion.model_validate_json(tollway.chat("up/m1").content, strict=True)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls
    said = answer.choices[0].message.tool_calls[0]
    assert said.type == "function"
    assert said.function.arguments == '{"a":1}'
    assert said.id.startswith("call_")
    assert answer.usage
    assert answer.usage.total_tokens == 18


def test_an_answer_that_broke_off_is_billed_and_leads_to_the_next_target(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def script(call: Call, line: Line) -> None:
        answer = completion()
        answer["choices"][0]["finish_reason"] = "error"
        await line.json(answer)

    upstream.scripts["m1"] = script
    assert tollway.chat("auto").status_code == 200
    broken, ok = tollway.rows()[-2:]
    assert (broken["outcome"], ok["outcome"]) == ("broken", "ok")
    assert broken["cost_nanousd"] == ok["cost_nanousd"]


def test_request_body_is_the_clients_but_for_model(tollway: Tollway, upstream: Upstream) -> None:
    body = (
        '{"model":"up/m1","messages":[{"role":"developer","content":"a\u2028b"},'
        '{"role":"assistant","content":null,"reasoning_content":"kept","tool_calls":[{"id":"c",'
        '"type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":'
        '{"thought_signature":"s"}}}]},{"role":"tool","tool_call_id":"c","content":"r"}],'
        '"max_tokens":5,"max_completion_tokens":6,"temperature":1.0,"seed":12345678901234567,'
        '"stop":null,"top_k":4,"metadata":{"a":"b"},"unknown":{"deep":[1e2]}}'
    ).encode()
    httpx2.post(
        f"{tollway.url}/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json; charset=utf-8", "authorization": "Bearer mine"},
    ).raise_for_status()
    (call,) = upstream.calls
    assert call.raw == body.replace(b'"up/m1"', b'"m1"')
    assert call.headers["authorization"] == "Bearer sk-upstream"
    assert "mine" not in str(call.headers)


def test_stream_is_canonical_and_ends_at_once(tollway: Tollway) -> None:
    reply = tollway.chat("up/m1", stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    *chunks, done = events(reply.text)
    assert done == "[DONE]"
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == [
        "", "Hello", " there", ", friend", None,
    ]  # fmt: skip
    assert all("usage" not in c and c["choices"] for c in chunks)


def test_usage_chunk_comes_last_where_it_was_asked_for(tollway: Tollway) -> None:
    reply = tollway.chat("up/m1", stream=True, stream_options={"include_usage": True})
    *chunks, last, done = events(reply.text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert all(c["usage"] is None for c in chunks)


def test_usage_is_always_asked_of_the_provider(tollway: Tollway, upstream: Upstream) -> None:
    tollway.chat("up/m1", stream=True, stream_options={"include_obfuscation": False})
    assert upstream.calls[0].body["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


def test_status_waits_for_the_first_payload(tollway: Tollway, upstream: Upstream) -> None:
    async def role_then_error(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": ""}))
        await line.event({"error": {"message": "overloaded", "code": 503}})

    upstream.scripts["m1"] = role_then_error
    reply = tollway.chat("auto", stream=True)
    assert reply.status_code == 200
    assert reply.headers["x-tollway-model"] == "up/m2"
    assert reply.headers["x-tollway-attempts"] == "2"
    contents = [e for e in events(reply.text) if e != "[DONE]"]
    assert sum("role" in e["choices"][0]["delta"] for e in contents) == 1
    assert [row["outcome"] for row in tollway.rows()[-2:]] == ["upstream_error", "ok"]


@pytest.mark.parametrize("fault", ["reset", "end", "done_without_finish", "broken_json", "error"])
def test_broken_stream_ends_in_an_error_event(
    tollway: Tollway, upstream: Upstream, fault: str
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "Hel"}))
        match fault:
            case "reset":
                await asyncio.sleep(0.05)  # a reset overtakes what is still unread
                line.reset()
            case "end":
                await line.send(b"0\r\n\r\n")
            case "done_without_finish":
                await line.end_stream()
            case "broken_json":
                await line.event(b'{"choices":[{')
                await line.until_closed()
            case "error":
                await line.event({"error": {"message": "boom", "type": "server_error"}})
                await line.until_closed()

    upstream.scripts["m1"] = script
    reply = tollway.chat("auto", stream=True)
    assert reply.status_code == 200
    assert "[DONE]" not in reply.text
    first, error = events(reply.text)
    assert first["choices"][0]["delta"]["content"] == "Hel"
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert tollway.rows()[-1]["outcome"] == "broken"
    assert tollway.rows()[-1]["estimated"] == 1


@pytest.mark.parametrize("status", ["500 No", "429 Slow", "401 Who", "404 Gone", "302 Over there"])
def test_failing_target_falls_back(tollway: Tollway, upstream: Upstream, status: str) -> None:
    async def fail(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "no"}}, status, "location: http://127.0.0.1:1/\r\n")

    upstream.scripts["m1"] = fail
    reply = tollway.chat("auto")
    assert reply.status_code == 200
    assert reply.headers["x-tollway-model"] == "up/m2"


def test_providers_words_reach_the_client_but_not_its_keys(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def refuse(call: Call, line: Line) -> None:
        error = {"message": "bad: sk-upstream", "type": "t", "code": 7, "param": "p"}
        await line.json({"error": error}, "422 No")

    upstream.scripts["m1"] = refuse
    reply = tollway.chat("auto")
    assert reply.status_code == 422
    assert reply.json() == {
        "error": {"message": "bad: [redacted]", "type": "t", "param": "p", "code": "7"}
    }
    assert len(upstream.calls) == 1


def test_our_key_refused_is_never_a_401(tollway: Tollway, upstream: Upstream) -> None:
    async def refuse(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "Incorrect API key sk-upstream"}}, "401 No")

    upstream.scripts["m1"] = refuse
    reply = tollway.chat("up/m1")
    assert reply.status_code == 502
    assert "sk-upstream" not in reply.text


def test_html_error_page_becomes_json(tollway: Tollway, upstream: Upstream) -> None:
    async def page(call: Call, line: Line) -> None:
        await line.send(
            b"HTTP/1.1 503 X\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
        )

    upstream.scripts["m1"] = page
    reply = tollway.chat("up/m1")
    assert reply.status_code == 502
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_upstream_is_closed_when_the_client_leaves(
    tollway: Tollway, upstream: Upstream, stream: bool
) -> None:
    async def hang(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = hang
    client = _post_raw(tollway, {"model": "up/m1", "stream": stream})
    (call,) = upstream.wait_for_calls(1)
    client.close()
    left = time.monotonic()
    assert call.closed.wait(5)
    assert time.monotonic() - left < 1
    row = tollway.rows()[-1]
    assert (row["outcome"], row["estimated"]) == ("client_gone", 1)
    assert row["cost_nanousd"] > 0


@pytest.mark.negative(number=36)
def test_client_leaving_in_mid_stream_is_billed_for_what_it_got(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def start_and_hang(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "word " * 100}))
        await line.until_closed()

    upstream.scripts["m1"] = start_and_hang
    client = _post_raw(tollway, {"model": "up/m1", "stream": True})
    while b"word" not in client.recv(65536):
        pass
    client.close()
    assert upstream.calls[0].closed.wait(5)
    row = tollway.rows()[-1]
    assert row["outcome"] == "client_gone"
    assert row["output_tokens"] == 125


def test_client_leaving_after_the_last_byte_changes_nothing(tollway: Tollway) -> None:
    client = _post_raw(tollway, {"model": "up/m1", "stream": True})
    received = b""
    while b"[DONE]" not in received:
        received += client.recv(65536)
    client.close()
    assert tollway.rows()[-1]["outcome"] == "ok"


def test_keepalive_comments_while_nothing_comes(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def slow(call: Call, line: Line) -> None:
        await line.start_stream()
        await asyncio.sleep(0.5)
        await line.event(chunk({"role": "assistant", "content": "late"}))
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = slow
    config = provider(upstream.base_url, "m1")
    config["server"]["first_payload_s"] = 0.1
    with serving(tmp_path_factory.mktemp("keepalive"), config) as running:
        reply = running.chat("auto", stream=True)
        assert reply.text.startswith(": keepalive\n\n")
        assert events(reply.text)[-1] == "[DONE]"
        assert "x-tollway-model" not in reply.headers


def test_embeddings_come_in_the_format_that_was_asked_for(tollway: Tollway) -> None:
    body = {"model": "vectors", "input": ["a", "b"]}
    floats = tollway.post("/v1/embeddings", body).json()
    assert [item["embedding"] for item in floats["data"]] == [[1.0, 2.0, 0.0], [1.0, 2.0, 1.0]]
    packed = tollway.post("/v1/embeddings", body | {"encoding_format": "base64"}).json()
    assert packed["data"][0]["embedding"] == "AACAPwAAAEAAAAAA"


@pytest.mark.parametrize("value", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_every_form_of_input_is_relayed(
    tollway: Tollway, upstream: Upstream, value: object
) -> None:
    body = {"model": "up/embed", "input": value, "dimensions": 3}
    assert tollway.post("/v1/embeddings", body).status_code == 200
    assert upstream.calls[0].body == {**body, "model": "embed"}


def test_large_chunked_and_compressed_bodies_are_accepted(
    tollway: Tollway, upstream: Upstream
) -> None:
    import gzip

    image = "data:image/png;base64," + "A" * (8 << 20)
    content = [{"type": "image_url", "image_url": {"url": image}}]
    body = json.dumps(
        {"model": "up/m1", "messages": [{"role": "user", "content": content}]}
    ).encode()
    url = f"{tollway.url}/v1/chat/completions"

    def pieces() -> object:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    assert httpx2.post(url, content=pieces(), timeout=30).status_code == 200
    packed = gzip.compress(body)
    reply = httpx2.post(url, content=packed, headers={"content-encoding": "gzip"}, timeout=30)
    assert reply.status_code == 200
    assert [call.body["messages"][0]["content"] for call in upstream.calls] == [content, content]


def _post_raw(tollway: Tollway, fields: dict[str, object]) -> socket.socket:
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], **fields}).encode()
    host, _, port = tollway.url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    return client
