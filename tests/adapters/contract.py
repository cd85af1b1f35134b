"""Every adapter on the stage of each scene: the same provider, as far as the contract can tell.

A scene is what the provider does; a stage makes an adapter of one kind whose provider does it.
Whoever writes an adapter adds its stage to `STAGES`, and the contract tests run over it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec

from adapters import registry
from adapters.anthropic import Anthropic
from adapters.base import Adapter
from adapters.bedrock import Bedrock
from adapters.gemini import Gemini
from adapters.local import Local
from adapters.ollama import Ollama
from adapters.presets import PRESETS
from adapters.scripted import Fault, Reply, Script, Scripted, ToolCall
from adapters.templated_http import TemplatedHttp
from adapters.templates import Endpoints
from adapters.vertex import Vertex
from tests.adapters import clouds
from tests.adapters.servers import Peer, ScriptedServer

TEXT = "Once upon a time."
CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}

Scene = Literal[
    "text",
    "tools",
    "embeddings",
    "cut",
    "stall",
    "error in the stream",
    "refused connection",
    "status 400",
    "status 401",
    "status 404",
    "status 429",
    "status 500",
    "too long",
]
Stage = Callable[[Scene], AbstractContextManager[Adapter]]

MODEL = "model-x"


# --- scripted -------------------------------------------------------------------------------------

_SCRIPTED: dict[Scene, Reply] = {
    "text": Reply(text=TEXT),
    "embeddings": Reply(),
    "tools": Reply(tool_calls=[ToolCall(name="get_weather", arguments={"city": "Paris"})]),
    "cut": Reply(text=TEXT, fault=Fault(kind="disconnect", after_tokens=2)),
    "stall": Reply(text=TEXT, fault=Fault(kind="stall", after_tokens=2)),
    "error in the stream": Reply(text=TEXT, fault=Fault(kind="error", message="no", code="c")),
    "refused connection": Reply(fault=Fault(kind="refuse")),
    "status 400": Reply(fault=Fault(kind="status", status=400, message="no", code="c")),
    "status 401": Reply(fault=Fault(kind="status", status=401)),
    "status 404": Reply(fault=Fault(kind="status", status=404, code="model_not_found")),
    "status 429": Reply(fault=Fault(kind="status", status=429, retry_after_s=7)),
    "status 500": Reply(fault=Fault(kind="status", status=500)),
    "too long": Reply(fault=Fault(kind="status", status=400, code="context_length_exceeded")),
}


@contextlib.contextmanager
def _scripted(scene: Scene) -> Iterator[Adapter]:
    yield Scripted(Script(models=[MODEL], replies=[_SCRIPTED[scene]]))


# --- openai_compatible ----------------------------------------------------------------------------


def head(status: int = 200, **headers: str) -> bytes:
    """The head of an answer; `content_type` is `content-type`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Because\r\n{lines}\r\n".encode()


def whole(body: object, status: int = 200, **headers: str) -> bytes:
    """An answer with a JSON body."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content_type": "application/json", "content_length": str(len(text)), **headers}
    return head(status, **given) + text


EVENTS = head(content_type="text/event-stream", transfer_encoding="chunked")


def piece(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"
DONE = piece(b"data: [DONE]\n\n")


def event(value: object) -> bytes:
    """An event of a stream, in a piece of its own."""
    return piece(b"data: %b\n\n" % json.dumps(value).encode())


def chunk(delta: object, finish: str | None = None) -> dict[str, Any]:
    """A chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}


_USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
_FUNCTION = {"name": "get_weather", "arguments": json.dumps({"city": "Paris"})}
_TOOL_CALL = {"id": "call_1", "type": "function", "function": _FUNCTION}


def _saying(peer: Peer, message: dict[str, Any], finish: str) -> None:
    """Answer with a message, streamed or whole as the request asks."""
    if json.loads(peer.read_request().body).get("stream"):
        peer.send(EVENTS + event(chunk({"role": "assistant", "content": ""})))
        calls = message.get("tool_calls")
        delta = {"tool_calls": [{"index": 0, **calls[0]}]} if calls else message
        peer.send(event(chunk(delta)) + event(chunk({}, finish)))
        peer.send(event({"choices": [], "usage": _USAGE}) + DONE + END)
        return
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    peer.send(whole({"choices": [choice], "usage": _USAGE}))


def _text(peer: Peer) -> None:
    _saying(peer, {"content": TEXT}, "stop")


def _tools(peer: Peer) -> None:
    _saying(peer, {"content": None, "tool_calls": [_TOOL_CALL]}, "tool_calls")


def _embeddings(peer: Peer) -> None:
    request = json.loads(peer.read_request().body)
    data = [{"index": i, "embedding": [1.0, 0.0]} for i, _ in enumerate(request["input"])]
    peer.send(whole({"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}))


def _cut(peer: Peer) -> None:
    peer.read_request()
    peer.send(EVENTS + event(chunk({"content": "Once"})))
    peer.reset()


def _stall(peer: Peer) -> None:
    peer.read_request()
    peer.send(EVENTS + event(chunk({"content": "Once"})))
    assert peer.is_gone()


def _error_in_the_stream(peer: Peer) -> None:
    peer.read_request()
    peer.send(EVENTS + event(chunk({"content": ""})))
    peer.send(event({"error": {"message": "no", "code": "c"}}) + END)


def _failing(status: int, code: str | None = None, **headers: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole({"error": {"message": "no", "code": code}}, status, **headers))

    return answer


_SERVED: dict[Scene, Callable[[Peer], None]] = {
    "text": _text,
    "tools": _tools,
    "embeddings": _embeddings,
    "cut": _cut,
    "stall": _stall,
    "error in the stream": _error_in_the_stream,
    "status 400": _failing(400, "c"),
    "status 401": _failing(401, "invalid_api_key"),
    "status 404": _failing(404, "model_not_found"),
    "status 429": _failing(429, retry_after="7", x_secret="internal"),
    "status 500": _failing(500),
    "too long": _failing(400, "context_length_exceeded"),
}


def _parts(text: str, **more: object) -> list[dict[str, object]]:
    """Content as Mistral's reasoning models send it: a thought, then text."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    return [thought, {"type": "text", "text": text, **more}]


def _mistral_text(peer: Peer) -> None:
    if json.loads(peer.read_request().body).get("stream"):
        peer.send(EVENTS + event(chunk({"role": "assistant", "content": _parts("Once upon")})))
        peer.send(event(chunk({"content": TEXT.removeprefix("Once upon")})))
        peer.send(event({**chunk({"content": ""}, "stop"), "usage": _USAGE}) + DONE + END)
        return
    message = {"role": "assistant", "content": _parts(TEXT)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    peer.send(whole({"choices": [choice], "usage": _USAGE}))


def _azure_text(peer: Peer) -> None:
    request = peer.read_request()
    if json.loads(request.body).get("stream"):
        filtered = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": ""}
        peer.send(EVENTS + event(filtered) + event(chunk({"role": "assistant", "content": TEXT})))
        peer.send(event(chunk({}, "stop")) + event({"choices": [], "usage": _USAGE}) + DONE + END)
        return
    choice = {"index": 0, "message": {"content": TEXT}, "finish_reason": "stop"}
    peer.send(whole({"choices": [choice], "usage": _USAGE}))


def refusing(status: int, body: object, **headers: str) -> Callable[[Peer], None]:
    """A provider that answers with an error of its own shape."""

    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole(body, status, **headers))

    return answer


# Where a provider plays a scene in its own way.
_IN_ITS_OWN_WAY: dict[str, dict[Scene, Callable[[Peer], None]]] = {
    "mistral": {
        "text": _mistral_text,
        "status 400": refusing(400, {"object": "error", "message": "no", "type": "invalid"}),
        "status 401": refusing(401, {"detail": "Unauthorized"}),
        "status 404": refusing(404, {"object": "error", "message": "The model x is not there"}),
    },
    "azure": {
        "text": _azure_text,
        "status 401": refusing(401, {"statusCode": 401, "message": "Unauthorized. Bad token."}),
        "status 404": refusing(
            404,
            {
                "error": {
                    "code": "DeploymentNotFound",
                    "message": "The API deployment for this resource does not exist.",
                }
            },
        ),
    },
    "xai": {
        "status 400": refusing(400, {"code": "invalid-argument", "error": "no"}),
        "status 401": refusing(401, {"code": "unauthenticated", "error": "no"}),
        "status 404": refusing(404, {"code": "not-found", "error": "The model x does not exist"}),
    },
    "cerebras": {
        "status 400": refusing(400, {"message": "no", "code": "wrong_api_format"}),
        "status 404": refusing(404, {"message": "Model x does not exist", "code": "not_found"}),
    },
    "vllm": {
        "status 400": refusing(400, {"object": "error", "message": "no", "code": 400}),
        "status 404": refusing(404, {"object": "error", "message": "The model `x` does not exist"}),
    },
}


def _preset(name: str) -> Stage:
    own = _IN_ITS_OWN_WAY.get(name, {})

    @contextlib.contextmanager
    def stage(scene: Scene) -> Iterator[Adapter]:
        if scene == "refused connection":
            with ScriptedServer(lambda peer: None) as server:
                url = server.url
            yield registry.make(name, registry.Settings(name=name, base_url=url))
            return
        with ScriptedServer(own.get(scene) or _SERVED[scene]) as server:
            settings = registry.Settings(
                name=name, base_url=f"{server.url}/v1", api_key="sk-test-0123456789"
            )
            yield registry.make(name, settings)

    return stage


class _Landlord:
    """A lessor whose models are always there, at one address."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextlib.asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[str]:
        assert model == f"local/{MODEL}"
        yield self._url


@contextlib.contextmanager
def _local(scene: Scene) -> Iterator[Adapter]:
    with ScriptedServer(_SERVED.get(scene, lambda peer: None)) as server:
        url = server.url
        if scene != "refused connection":
            yield Local("local", _Landlord(url))
    if scene == "refused connection":
        yield Local("local", _Landlord(url))


# --- gemini ---------------------------------------------------------------------------------------


def gemini(*parts: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A `GenerateContentResponse` of one candidate."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": MODEL,
        "responseId": "r1",
    }


def _gemini_saying(*parts: dict[str, Any]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        if "streamGenerateContent?alt=sse" not in peer.read_request().line:
            peer.send(whole(gemini(*parts, finish="STOP")))
            return
        peer.send(EVENTS)
        for part in parts:
            peer.send(event(gemini(part)))
        peer.send(event(gemini({"text": ""}, finish="STOP")) + END)

    return answer


def _gemini_embeddings(peer: Peer) -> None:
    requests = json.loads(peer.read_request().body)["requests"]
    embeddings = [{"values": [1.0, 0.0]} for _ in requests]
    peer.send(whole({"embeddings": embeddings, "usageMetadata": {"promptTokenCount": 2}}))


def _gemini_breaking(break_off: Callable[[Peer], object]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(EVENTS + event(gemini({"text": "Once"})))
        break_off(peer)

    return answer


def _gemini_failing(
    status: int, name: str, message: str = "no", *details: Any
) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        error = {"code": status, "message": message, "status": name, "details": list(details)}
        peer.send(whole([{"error": error}] if status == 500 else {"error": error}, status))

    return answer


_GEMINI: dict[Scene, Callable[[Peer], None]] = {
    "text": _gemini_saying(*({"text": piece} for piece in ("Once ", "upon ", "a time."))),
    "tools": _gemini_saying({"functionCall": {"name": CALL["name"], "args": CALL["arguments"]}}),
    "embeddings": _gemini_embeddings,
    "cut": _gemini_breaking(Peer.reset),
    "stall": _gemini_breaking(Peer.is_gone),
    "error in the stream": _gemini_breaking(
        lambda peer: peer.send(event({"error": {"message": "no", "status": "c"}}) + END)
    ),
    "status 400": _gemini_failing(400, "INVALID_ARGUMENT"),
    "status 401": _gemini_failing(401, "UNAUTHENTICATED"),
    "status 404": _gemini_failing(404, "NOT_FOUND", "models/model-x is not found"),
    "status 429": _gemini_failing(429, "RESOURCE_EXHAUSTED", "no", {"retryDelay": "6.5s"}),
    "status 500": _gemini_failing(500, "INTERNAL"),
    "too long": _gemini_failing(
        400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens"
    ),
}


@contextlib.contextmanager
def _gemini(scene: Scene) -> Iterator[Adapter]:
    with ScriptedServer(_GEMINI.get(scene, lambda peer: None)) as server:
        if scene != "refused connection":
            yield Gemini(base_url=f"{server.url}/v1beta", api_key="AIza-test-0123456789")
    if scene == "refused connection":
        yield Gemini(base_url=f"{server.url}/v1beta")


# --- anthropic ------------------------------------------------------------------------------------


def anthropic_event(value: dict[str, Any]) -> bytes:
    """An event of Anthropic's, which have names, in a piece of its own."""
    return piece(b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode()))


def anthropic_message(*content: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
    """A whole message."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(content),
        "stop_reason": stop,
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }


def anthropic_events(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a message that is streamed, its texts in pieces."""
    start = {**message, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(message["content"]):
        deltas: list[dict[str, Any]] = []
        if block["type"] == "text":
            said = block["text"]
            deltas = [
                {"type": "text_delta", "text": said[at : at + 5]} for at in range(0, len(said), 5)
            ]
            block = {**block, "text": ""}
        elif block["type"] == "tool_use":
            said = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": text} for text in ("", said)]
            block = {**block, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += ({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        events.append({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    return [
        *events,
        {"type": "message_delta", "delta": stop, "usage": usage},
        {"type": "message_stop"},
    ]


def _anthropic_saying(message: dict[str, Any]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        if json.loads(peer.read_request().body).get("stream"):
            peer.send(EVENTS + b"".join(map(anthropic_event, anthropic_events(message))) + END)
        else:
            peer.send(whole(message))

    return answer


def _anthropic_breaking(break_off: Callable[[Peer], object]) -> Callable[[Peer], None]:
    begun = anthropic_events(anthropic_message({"type": "text", "text": "Once"}))[:4]

    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(EVENTS + b"".join(map(anthropic_event, begun)))
        break_off(peer)

    return answer


def anthropic_error(kind: str, message: str = "no") -> dict[str, Any]:
    """An error, in a stream or as a body."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def _anthropic_failing(
    status: int, kind: str, message: str = "no", **headers: str
) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole(anthropic_error(kind, message), status, **headers))

    return answer


_ANTHROPIC: dict[Scene, Callable[[Peer], None]] = {
    "text": _anthropic_saying(anthropic_message({"type": "text", "text": TEXT})),
    "tools": _anthropic_saying(
        anthropic_message(
            {"type": "tool_use", "id": "toolu_1", "name": CALL["name"], "input": CALL["arguments"]},
            stop="tool_use",
        )
    ),
    "cut": _anthropic_breaking(Peer.reset),
    "stall": _anthropic_breaking(Peer.is_gone),
    "error in the stream": _anthropic_breaking(
        lambda peer: peer.send(anthropic_event(anthropic_error("c")) + END)
    ),
    "status 400": _anthropic_failing(400, "invalid_request_error"),
    "status 401": _anthropic_failing(401, "authentication_error"),
    "status 404": _anthropic_failing(404, "not_found_error", f"model: {MODEL}"),
    "status 429": _anthropic_failing(429, "rate_limit_error", retry_after="7", x_secret="internal"),
    "status 500": _anthropic_failing(500, "api_error"),
    "too long": _anthropic_failing(400, "invalid_request_error", "prompt is too long: 2 > 1"),
}


@contextlib.contextmanager
def _anthropic(scene: Scene) -> Iterator[Adapter]:
    if scene == "refused connection":
        with ScriptedServer(lambda peer: None) as server:
            url = server.url
        yield Anthropic(base_url=url)
        return
    with ScriptedServer(_ANTHROPIC[scene]) as server:
        yield Anthropic(base_url=f"{server.url}/v1", api_key="sk-ant-test-0123456789")


# --- ollama ---------------------------------------------------------------------------------------

LINES = head(content_type="application/x-ndjson", transfer_encoding="chunked")


def line(message: object, **more: object) -> bytes:
    """A line of an answer of `/api/chat`, in a piece of its own."""
    said = {"model": MODEL, "message": message, "done": False, **more}
    return piece(json.dumps(said).encode() + b"\n")


_ENDED = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 5}


def asked(peer: Peer) -> dict[str, Any]:
    """The request that follows the questions on its side: nothing is loaded, nothing known."""
    while True:
        request = peer.read_request()
        if "/api/ps" not in request.line and "/api/show" not in request.line:
            found: dict[str, Any] = json.loads(request.body)
            return found
        peer.send(whole({"models": []}))


def _ollama_saying(*messages: dict[str, Any]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        if asked(peer)["stream"]:
            said = b"".join(line({"role": "assistant", **message}) for message in messages)
            peer.send(LINES + said + line({"role": "assistant", "content": ""}, **_ENDED) + END)
            return
        text = "".join(message.get("content", "") for message in messages)
        message = {**messages[0], "role": "assistant", "content": text}
        peer.send(whole({"model": MODEL, "message": message, **_ENDED}))

    return answer


def _ollama_embeddings(peer: Peer) -> None:
    vectors = [[1.0, 0.0] for _ in asked(peer)["input"]]
    peer.send(whole({"model": MODEL, "embeddings": vectors, "prompt_eval_count": 2}))


def _ollama_breaking(break_off: Callable[[Peer], object]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        asked(peer)
        peer.send(LINES + line({"role": "assistant", "content": "Once"}))
        break_off(peer)

    return answer


def _ollama_failing(status: int, error: str, **headers: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        asked(peer)
        peer.send(whole({"error": error}, status, **headers))

    return answer


_OLLAMA: dict[Scene, Callable[[Peer], None]] = {
    "text": _ollama_saying({"content": "Once upon"}, {"content": " a time."}),
    "tools": _ollama_saying({"tool_calls": [{"function": CALL}]}),
    "embeddings": _ollama_embeddings,
    "cut": _ollama_breaking(Peer.reset),
    "stall": _ollama_breaking(Peer.is_gone),
    "error in the stream": _ollama_breaking(
        lambda peer: peer.send(piece(b'{"error":{"message":"no","code":"c"}}\n') + END)
    ),
    "status 400": _ollama_failing(400, "invalid options"),
    "status 401": _ollama_failing(401, "unauthorized"),
    "status 404": _ollama_failing(404, "model 'model-x' not found, try pulling it first"),
    "status 429": _ollama_failing(429, "too many", retry_after="7", x_secret="internal"),
    "status 500": _ollama_failing(500, "llama runner process has terminated"),
    "too long": _ollama_failing(400, "the input length exceeds the context length"),
}


@contextlib.contextmanager
def _ollama(scene: Scene) -> Iterator[Adapter]:
    with ScriptedServer(_OLLAMA.get(scene, lambda peer: None)) as server:
        if scene != "refused connection":
            yield Ollama(base_url=server.url)
    if scene == "refused connection":
        yield Ollama(base_url=server.url)


# --- http -----------------------------------------------------------------------------------------

_ENDPOINTS = msgspec.convert(
    {
        "chat": {
            "path": "/generate",
            "request": {"inputs": "{{prompt}}", "stream": "{{stream}}"},
            "response": {
                "text": "generated.text",
                "finish_reason": "generated.reason",
                "input_tokens": "usage.in",
                "output_tokens": "usage.out",
            },
            "stream": {
                "framing": "lines",
                "text": "token",
                "input_tokens": "usage.in",
                "output_tokens": "usage.out",
            },
        },
        "embeddings": {
            "path": "/embed",
            "request": {"texts": "{{inputs}}"},
            "response": {"embeddings": "vectors.*.values", "input_tokens": "tokens"},
        },
    },
    Endpoints,
)


def _line(value: object) -> bytes:
    return piece(json.dumps(value).encode() + b"\n")


def _generating(peer: Peer) -> None:
    usage = {"in": 3, "out": 5}
    if json.loads(peer.read_request().body)["stream"]:
        peer.send(LINES + _line({"token": "Once upon"}))
        peer.send(_line({"token": TEXT.removeprefix("Once upon")}))
        peer.send(_line({"token": None, "usage": usage}) + END)
        return
    peer.send(whole({"generated": {"text": TEXT, "reason": "eos_token"}, "usage": usage}))


def _embedding(peer: Peer) -> None:
    texts = json.loads(peer.read_request().body)["texts"]
    peer.send(whole({"vectors": [{"values": [1.0, 0.0]} for _ in texts], "tokens": 2}))


def _token_then(then: Callable[[Peer], object]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(LINES + _line({"token": "Once"}))
        then(peer)

    return answer


_TEMPLATED: dict[Scene, Callable[[Peer], None]] = {
    **_SERVED,
    "text": _generating,
    "embeddings": _embedding,
    "cut": _token_then(lambda peer: peer.reset()),
    "stall": _token_then(lambda peer: peer.is_gone()),
    "error in the stream": _token_then(
        lambda peer: peer.send(_line({"error": {"message": "no", "code": "c"}}) + END)
    ),
}


@contextlib.contextmanager
def _http(scene: Scene) -> Iterator[Adapter]:
    if scene == "refused connection":
        with ScriptedServer(lambda peer: None) as server:
            url = server.url
        yield TemplatedHttp(base_url=url, endpoints=_ENDPOINTS)
        return
    with ScriptedServer(_TEMPLATED[scene]) as server:
        yield TemplatedHttp(base_url=server.url, endpoints=_ENDPOINTS)


WITHOUT_TOOLS = {"http"}

# --- bedrock --------------------------------------------------------------------------------------

FRAMES = head(content_type="application/vnd.amazon.eventstream", transfer_encoding="chunked")
_CONVERSED = {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}


def converse(name: str, payload: dict[str, Any]) -> bytes:
    """A message of `ConverseStream`, in a piece of its own."""
    return piece(clouds.event(name, payload))


def _converse_saying(block: dict[str, Any], reason: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        path = clouds.path_of(peer.read_request())
        if not path.endswith("/converse-stream"):
            message = {"role": "assistant", "content": [block]}
            said = {"output": {"message": message}, "stopReason": reason, "usage": _CONVERSED}
            peer.send(whole(said))
            return
        peer.send(FRAMES + converse("messageStart", {"role": "assistant"}))
        if (use := block.get("toolUse")) is not None:
            start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
            peer.send(converse("contentBlockStart", {"contentBlockIndex": 0, "start": start}))
            delta: dict[str, Any] = {"toolUse": {"input": json.dumps(use["input"])}}
        else:
            delta = block
        peer.send(converse("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}))
        peer.send(converse("contentBlockStop", {"contentBlockIndex": 0}))
        peer.send(converse("messageStop", {"stopReason": reason}))
        peer.send(converse("metadata", {"usage": _CONVERSED, "metrics": {}}) + END)

    return answer


def _converse_breaking(break_off: Callable[[Peer], object]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        delta = {"contentBlockIndex": 0, "delta": {"text": "Once"}}
        peer.send(FRAMES + converse("contentBlockDelta", delta))
        break_off(peer)

    return answer


def _aws_failing(
    status: int, name: str, message: str = "no", **headers: str
) -> Callable[[Peer], None]:
    return refusing(status, {"message": message}, x_amzn_ErrorType=f"{name}:http://x", **headers)


_CONVERSE: dict[Scene, Callable[[Peer], None]] = {
    "text": _converse_saying({"text": TEXT}, "end_turn"),
    "tools": _converse_saying(
        {"toolUse": {"toolUseId": "t1", "name": CALL["name"], "input": CALL["arguments"]}},
        "tool_use",
    ),
    "cut": _converse_breaking(Peer.reset),
    "stall": _converse_breaking(Peer.is_gone),
    "error in the stream": _converse_breaking(
        lambda peer: peer.send(piece(clouds.exception("c", "no")) + END)
    ),
    "status 400": _aws_failing(400, "ValidationException"),
    "status 401": _aws_failing(401, "NotAuthorized"),
    "status 404": _aws_failing(404, "ResourceNotFoundException"),
    "status 429": _aws_failing(429, "ThrottlingException", retry_after="7", x_secret="internal"),
    "status 500": _aws_failing(500, "InternalServerException"),
    "too long": _aws_failing(400, "ValidationException", "Input is too long for requested model."),
}


@contextlib.contextmanager
def _bedrock(scene: Scene) -> Iterator[Adapter]:
    with ScriptedServer(_CONVERSE.get(scene, lambda peer: None)) as server:
        adapter = Bedrock(region="us-east-1", base_url=server.url, api_key="ABSK-test-0123456789")
        if scene != "refused connection":
            yield adapter
    if scene == "refused connection":
        yield adapter


# --- vertex ---------------------------------------------------------------------------------------


def _vertex_embeddings(peer: Peer) -> None:
    instances = json.loads(peer.read_request().body)["instances"]
    vectors = [{"values": [1.0, 0.0], "statistics": {"token_count": 1}} for _ in instances]
    peer.send(whole({"predictions": [{"embeddings": vector} for vector in vectors]}))


@contextlib.contextmanager
def _vertex(scene: Scene) -> Iterator[Adapter]:
    served = {**_GEMINI, "embeddings": _vertex_embeddings}
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        file = opened.enter_context(clouds.TokenService().running(folder))

        def adapter(url: str) -> Adapter:
            return Vertex(project="p", region="global", base_url=url, credentials_file=file)

        with ScriptedServer(served.get(scene, lambda peer: None)) as server:
            if scene != "refused connection":
                yield adapter(server.url)
        if scene == "refused connection":
            yield adapter(server.url)


STAGES: dict[str, Stage] = {
    "scripted": _scripted,
    **{name: _preset(name) for name in ("openai_compatible", *PRESETS)},
    "gemini": _gemini,
    "anthropic": _anthropic,
    "ollama": _ollama,
    "bedrock": _bedrock,
    "vertex": _vertex,
    "http": _http,
    "local": _local,
}
