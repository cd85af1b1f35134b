"""Every adapter on the stage of each scene: the same provider, as far as the contract can tell.

A scene is what the provider does; a stage makes an adapter of one kind whose provider does it.
Whoever writes an adapter adds its stage to `STAGES`, and the contract tests run over it. What a
provider says in its own bytes, and all that may go wrong there, is in `test_wires.py`.
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
from adapters.leases import Served
from adapters.local import Local
from adapters.ollama import Ollama
from adapters.presets import PRESETS
from adapters.scripted import Fault, Reply, Script, Scripted, ToolCall
from adapters.templated_http import TemplatedHttp
from adapters.vertex import Vertex
from adapters.wire.templates import Endpoints
from tests.adapters import (
    clouds,
    wire_anthropic,
    wire_converse,
    wire_gemini,
    wire_ollama,
    wire_openai,
)
from tests.adapters.servers import Peer, ScriptedServer
from tests.adapters.wire import (
    END,
    Called,
    Said,
    Wire,
    piece,
    saying,
    stream_head,
    whole,
)

TEXT = "Once upon a time."
CALL: dict[str, Any] = {"name": "get_weather", "arguments": {"city": "Paris"}}

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


# --- in any dialect -------------------------------------------------------------------------------


def _begun(wire: Wire, go_on: Callable[[Peer], object]) -> Callable[[Peer], None]:
    """A provider that streams the first word, and goes on with something else."""
    events = wire.stream(Said(texts=("Once",)))
    first = next(place for place, event in enumerate(events) if b"Once" in event)

    def answer(peer: Peer) -> None:
        wire.read(peer)
        begun = b"".join(map(piece, events[: first + 1]))
        peer.send(stream_head(wire.content_type) + begun)
        go_on(peer)

    return answer


def _spoken(wire: Wire) -> dict[Scene, Callable[[Peer], None]]:
    """The scenes that are played alike in every dialect."""
    called = Called(id="call_1", name=CALL["name"], arguments=CALL["arguments"])
    return {
        "text": saying(wire, Said(texts=("Once ", "upon ", "a time."))),
        "tools": saying(wire, Said(calls=(called,), finish="tool_calls")),
        "cut": _begun(wire, Peer.reset),
        "stall": _begun(wire, Peer.is_gone),
        "error in the stream": _begun(
            wire, lambda peer: peer.send(piece(wire.error_event("no", "c")) + END)
        ),
    }


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

EVENTS = stream_head("text/event-stream")
DONE = piece(b"data: [DONE]\n\n")


def event(value: object) -> bytes:
    """An event of a stream, in a piece of its own."""
    return piece(b"data: %b\n\n" % json.dumps(value).encode())


def chunk(delta: object, finish: str | None = None) -> dict[str, Any]:
    """A chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}


_USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def _embeddings(peer: Peer) -> None:
    request = json.loads(peer.read_request().body)
    data = [{"index": i, "embedding": [1.0, 0.0]} for i, _ in enumerate(request["input"])]
    peer.send(whole({"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}))


def _failing(status: int, code: str | None = None, **headers: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole({"error": {"message": "no", "code": code}}, status, **headers))

    return answer


_SERVED: dict[Scene, Callable[[Peer], None]] = {
    **_spoken(wire_openai),
    "embeddings": _embeddings,
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
    async def lease(self, model: str, *, waits: bool) -> AsyncIterator[Served]:
        assert model == f"local/{MODEL}"
        yield Served(self._url, "sk-test-0123456789")

    def spoke(self, model: str, tokens: int, seconds: float) -> None:
        assert model == f"local/{MODEL}"


@contextlib.contextmanager
def _local(scene: Scene) -> Iterator[Adapter]:
    with ScriptedServer(_SERVED.get(scene, lambda peer: None)) as server:
        url = server.url
        if scene != "refused connection":
            yield Local("local", _Landlord(url))
    if scene == "refused connection":
        yield Local("local", _Landlord(url))


# --- gemini ---------------------------------------------------------------------------------------


def _gemini_embeddings(peer: Peer) -> None:
    requests = json.loads(peer.read_request().body)["requests"]
    embeddings = [{"values": [1.0, 0.0]} for _ in requests]
    peer.send(whole({"embeddings": embeddings, "usageMetadata": {"promptTokenCount": 2}}))


def _gemini_failing(
    status: int, name: str, message: str = "no", *details: Any
) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        error = {"code": status, "message": message, "status": name, "details": list(details)}
        peer.send(whole([{"error": error}] if status == 500 else {"error": error}, status))

    return answer


_GEMINI: dict[Scene, Callable[[Peer], None]] = {
    **_spoken(wire_gemini),
    "embeddings": _gemini_embeddings,
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


def _anthropic_failing(
    status: int, kind: str, message: str = "no", **headers: str
) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole(wire_anthropic.error(kind, message), status, **headers))

    return answer


_ANTHROPIC: dict[Scene, Callable[[Peer], None]] = {
    **_spoken(wire_anthropic),
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


def _ollama_embeddings(peer: Peer) -> None:
    vectors = [[1.0, 0.0] for _ in json.loads(wire_ollama.read(peer).body)["input"]]
    peer.send(whole({"model": MODEL, "embeddings": vectors, "prompt_eval_count": 2}))


def _ollama_failing(status: int, error: str, **headers: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        wire_ollama.read(peer)
        peer.send(whole({"error": error}, status, **headers))

    return answer


_OLLAMA: dict[Scene, Callable[[Peer], None]] = {
    **_spoken(wire_ollama),
    "embeddings": _ollama_embeddings,
    "error in the stream": _begun(
        wire_ollama,
        lambda peer: peer.send(piece(b'{"error":{"message":"no","code":"c"}}\n') + END),
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
        peer.send(wire_ollama.LINES + _line({"token": "Once upon"}))
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
        peer.send(wire_ollama.LINES + _line({"token": "Once"}))
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


def _aws_failing(
    status: int, name: str, message: str = "no", **headers: str
) -> Callable[[Peer], None]:
    return refusing(status, {"message": message}, x_amzn_ErrorType=f"{name}:http://x", **headers)


_CONVERSE: dict[Scene, Callable[[Peer], None]] = {
    **_spoken(wire_converse),
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
