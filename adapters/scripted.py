"""`scripted`: a target inside our own process that answers from a small script.

It serves two ends: the first request of somebody who has configured nothing yet, and tests that
need an upstream with a given answer, pace or fault. What it says is made up; it calls itself a
demonstration and is never chosen where a real target is configured.

A script (YAML or JSON) is a `Script`: the first reply whose `when`, a regular expression, is found
in the last user message is given. A token is a word or a punctuation mark with the space before
it, and usage counts exactly the tokens that came in and went out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import struct
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml

from adapters.base import (
    Answer,
    BadRequest,
    Call,
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    ModelNotFound,
    UpstreamTimeout,
)
from adapters.wire.failures import error_family

_TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
_DEFAULT_DIMENSIONS = 256


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function the reply calls."""

    name: str
    arguments: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a reply goes wrong.

    `refuse` fails to connect, `status` answers with an error, the others strike after
    `after_tokens` tokens, or at the end of a shorter reply: `disconnect` cuts the connection,
    `stall` falls silent, `malformed` sends what is no JSON, `error` reports an error inside the
    answer. `no_usage` merely leaves the usage out.
    """

    kind: Literal["refuse", "status", "disconnect", "stall", "malformed", "error", "no_usage"]
    status: int = 503
    code: str | None = None
    message: str = "a scripted fault"
    retry_after_s: int | None = None
    after_tokens: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said to a request."""

    when: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    fault: Fault | None = None
    first_token_s: float = 0.0
    tokens_per_s: float = 0.0
    """0 is as fast as it can be read."""


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replies in order of precedence, and the models that give them."""

    replies: list[Reply]
    models: tuple[str, ...] = ("demo",)
    dimensions: int = _DEFAULT_DIMENSIONS


_DEMONSTRATION = Script(
    models=("demo", "demo-embed"),
    replies=[
        Reply(
            when=r"(?i)\b(hello|hi|hey)\b",
            text=(
                "Hello! This is Tollway's built-in demonstration: no language model is behind it, "
                "so nothing you read here is an answer. Set OPENAI_API_KEY, or add a provider to "
                "router.yaml, and the same request goes to a real one."
            ),
            first_token_s=0.1,
            tokens_per_s=60,
        ),
        Reply(
            text=(
                "This is Tollway's built-in demonstration: no language model is behind it. "
                "Your request was authenticated, routed, paid for out of a budget, streamed and "
                "written into the ledger, all as it would be for a real provider. To get real "
                "answers, set a key such as OPENAI_API_KEY, or add a provider to router.yaml."
            ),
            first_token_s=0.1,
            tokens_per_s=60,
        ),
    ],
)


class Scripted:
    """A provider that keeps to its script."""

    demonstration = True
    speaks: Set[Endpoint] = frozenset({"chat", "embeddings"})

    def __init__(self, script: Script) -> None:
        self._script = script
        self._patterns = [re.compile(reply.when) for reply in script.replies]

    @classmethod
    def demonstrating(cls) -> Scripted:
        """What is served where nothing is configured."""
        return cls(_DEMONSTRATION)

    @classmethod
    def from_file(cls, path: Path) -> Scripted:
        """A script of the operator's; raises `ValueError` that names the file and the mistake."""
        try:
            script = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Script)
            return cls(script)
        except (OSError, yaml.YAMLError, ValueError, re.error) as error:
            raise ValueError(f"{path}: is no script: {error}") from None

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Answer]:
        """Answer a call; see `adapters.base.Adapter`."""
        if call.model not in self._script.models:
            raise ModelNotFound(
                f"the script has no model {call.model!r}", status=404, code="model_not_found"
            )
        if call.endpoint == "embeddings":
            asked = _read(call, _EmbeddingsRequest)
            yield _Whole(lambda: _embed(call, asked, self._script.dimensions))
            return
        request = _read(call, _ChatRequest)
        reply = self._reply_to(request)
        _raise_early(reply.fault)
        speech = _Speech(call, request, reply)
        if call.stream:
            async with aclosing(speech.events()) as events:
                yield _Streamed(events)
        else:
            yield _Whole(speech.whole)

    async def models(self) -> Sequence[str]:
        """The models of the script."""
        return self._script.models

    async def aclose(self) -> None:
        """Nothing is open."""

    def _reply_to(self, request: _ChatRequest) -> Reply:
        prompt = request.last_user_text()
        for pattern, reply in zip(self._patterns, self._script.replies, strict=True):
            if pattern.search(prompt):
                return _fitted(reply, request)
        raise BadRequest("the script has no reply to this message", status=400)


# --- what is asked --------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""


class _Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern=r"^[\w.:-]{1,128}$")]
    parameters: Any = None


class _Tool(msgspec.Struct):
    function: _Function | None = None


class _Schema(msgspec.Struct):
    schema: Any = None


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ChatRequest(msgspec.Struct):
    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | _Tool | None = None
    response_format: _Format | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of one answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def last_user_text(self) -> str:
        said = [message.text for message in self.messages if message.role == "user"]
        return said[-1] if said else ""

    def demanded_tool(self) -> _Function | None:
        """The function that the request insists on."""
        functions = [tool.function for tool in self.tools or () if tool.function is not None]
        if isinstance(self.tool_choice, _Tool) and self.tool_choice.function is not None:
            name = self.tool_choice.function.name
            return next((f for f in functions if f.name == name), None)
        return functions[0] if functions and self.tool_choice == "required" else None


class _EmbeddingsRequest(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: str | None = None

    def items(self) -> list[Sequence[object]]:
        """The tokens of each text."""
        if isinstance(self.input, str):
            return [tokenize(self.input)]
        if all(isinstance(item, int) for item in self.input):
            return [self.input]
        return [tokenize(item) if isinstance(item, str) else _listed(item) for item in self.input]


def _listed(item: object) -> Sequence[object]:
    return item if isinstance(item, list) else [item]


_Request = TypeVar("_Request", _ChatRequest, _EmbeddingsRequest)


def _read(call: Call, kind: type[_Request]) -> _Request:
    """The request; raises `BadRequest`. The standard library takes lone surrogates, too."""
    try:
        return msgspec.convert(json.loads(call.body), kind)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the script cannot read the request: {error}", status=400) from None


# --- what is answered -----------------------------------------------------------------------------


class _Answer:
    headers: Mapping[str, str] = {}
    dropped: Sequence[str] = ()

    async def body(self) -> bytes:
        raise AssertionError("this call asked for a stream")

    async def payloads(self) -> Sequence[bytes]:
        raise AssertionError("this call did not ask for a stream")

    async def pieces(self) -> bytes:
        raise AssertionError("this call asked for text")


class _Whole(_Answer):
    def __init__(self, say: Callable[[], Awaitable[bytes]]) -> None:
        self._say = say

    async def body(self) -> bytes:
        return await self._say()


class _Streamed(_Answer):
    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        self._events = events

    async def payloads(self) -> Sequence[bytes]:
        async for event in self._events:
            return (event,)
        return ()


class _Speech:
    """One reply to one request, token by token."""

    def __init__(self, call: Call, request: _ChatRequest, reply: Reply) -> None:
        self._call = call
        self._request = request
        self._reply = reply
        self._n = request.n or 1
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-demo-{time.time_ns():x}",
            "object": "chat.completion.chunk" if call.stream else "chat.completion",
            "created": int(time.time()),
            "model": call.model,
        }
        deltas = list(self._all_deltas())
        self._deltas = deltas[: request.limit]
        if len(self._deltas) < len(deltas):
            self._finish = "length"
        else:
            self._finish = "tool_calls" if reply.tool_calls else "stop"

    async def whole(self) -> bytes:
        """The answer of a call that does not stream."""
        tokens = self._n * len(self._deltas)
        await asyncio.sleep(self._reply.first_token_s + tokens * self._token_s)
        if (fault := await self._strike()) is not None:
            return fault
        choice = {"message": self._message(), "logprobs": None, "finish_reason": self._finish}
        answer: dict[str, Any] = {
            **self._head,
            "choices": [{"index": i, **choice} for i in range(self._n)],
        }
        if self._counts:
            answer["usage"] = self._usage()
        return msgspec.json.encode(answer)

    async def events(self) -> AsyncGenerator[bytes]:
        """The payloads of a stream."""
        await asyncio.sleep(self._reply.first_token_s)
        fault = self._reply.fault
        tokens = self._n * len(self._deltas)
        strikes_at = min(fault.after_tokens, tokens) if fault is not None else -1
        sent = 0
        for index in range(self._n):
            yield self._chunk(index, {"role": "assistant", "content": ""})
            for delta in (*self._deltas, None):
                if sent == strikes_at and (bad := await self._strike()) is not None:
                    yield bad
                    return
                if delta is not None:
                    yield self._chunk(index, delta)
                    sent += 1
                    await asyncio.sleep(self._token_s)
            yield self._chunk(index, {}, self._finish)
        if self._request.wants_usage and self._counts:
            yield msgspec.json.encode({**self._head, "choices": [], "usage": self._usage()})

    @property
    def _token_s(self) -> float:
        return 1 / self._reply.tokens_per_s if self._reply.tokens_per_s else 0.0

    @property
    def _counts(self) -> bool:
        return self._reply.fault is None or self._reply.fault.kind != "no_usage"

    async def _strike(self) -> bytes | None:
        """Let the fault happen: raise it, or return what it sends in an answer's place."""
        fault = self._reply.fault
        if fault is None:
            return None
        match fault.kind:
            case "disconnect":
                raise ConnectionLost("the scripted connection was cut")
            case "stall":
                await asyncio.sleep(self._call.deadlines.idle_s)
                raise UpstreamTimeout("the scripted stream fell silent", phase="idle")
            case "malformed":
                return b'{"choices":[{"delta":{"content":'
            case "error":
                error = {"message": fault.message, "code": fault.code}
                return msgspec.json.encode({"error": error})
            case "refuse" | "status" | "no_usage":
                return None

    def _all_deltas(self) -> Iterator[dict[str, Any]]:
        for token in tokenize(self._reply.reasoning):
            yield {"reasoning_content": token}
        for token in tokenize(self._reply.text):
            yield {"content": token}
        for number, call in enumerate(self._reply.tool_calls):
            function = {"name": call.name, "arguments": ""}
            call_id = f"call_{self._head['id'][-8:]}_{number}"
            opening = {"index": number, "id": call_id, "type": "function", "function": function}
            yield {"tool_calls": [opening]}
            for token in tokenize(json.dumps(call.arguments)):
                yield {"tool_calls": [{"index": number, "function": {"arguments": token}}]}

    def _message(self) -> dict[str, Any]:
        """The deltas put together."""
        texts = {"content": "", "reasoning_content": ""}
        calls: list[dict[str, Any]] = []
        for delta in self._deltas:
            for name, said in delta.items():
                if name != "tool_calls":
                    texts[name] += said
                elif "id" in said[0]:
                    function = said[0]["function"]
                    calls.append({"id": said[0]["id"], "type": "function", "function": function})
                else:
                    calls[-1]["function"]["arguments"] += said[0]["function"]["arguments"]
        message = {"role": "assistant", "content": texts["content"] or None, "refusal": None}
        if texts["reasoning_content"]:
            message["reasoning_content"] = texts["reasoning_content"]
        return {**message, "tool_calls": calls} if calls else message

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return msgspec.json.encode({**self._head, "choices": [choice]})

    def _usage(self) -> dict[str, Any]:
        prompt = sum(len(tokenize(message.text)) for message in self._request.messages)
        completion = self._n * len(self._deltas)
        reasoning = self._n * sum("reasoning_content" in delta for delta in self._deltas)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }


def tokenize(text: str) -> list[str]:
    """The tokens of a text; joined they are the text again."""
    return _TOKEN.findall(text)


def _raise_early(fault: Fault | None) -> None:
    """The faults that strike before there is an answer."""
    if fault is None:
        return
    if fault.kind == "refuse":
        raise ConnectFailed("the scripted provider refuses connections")
    if fault.kind == "status":
        headers = {} if fault.retry_after_s is None else {"retry-after": str(fault.retry_after_s)}
        kind = error_family(fault.status, fault.message, fault.code)
        raise kind(fault.message, status=fault.status, code=fault.code, headers=headers)


def _fitted(reply: Reply, request: _ChatRequest) -> Reply:
    """The reply, or where the request insists on a tool or a schema, something of that shape."""
    if reply.tool_calls or reply.fault:
        return reply
    shape = request.response_format or _Format()
    if shape.type == "json_schema":
        schema = shape.json_schema.schema if shape.json_schema else None
        return msgspec.structs.replace(reply, text=json.dumps(sample(schema)))
    if shape.type == "json_object":
        return msgspec.structs.replace(reply, text=json.dumps({"demonstration": True}))
    tool = request.demanded_tool()
    if tool is None:
        return reply
    arguments = sample(tool.parameters)
    call = ToolCall(name=tool.name, arguments=arguments if isinstance(arguments, dict) else {})
    return msgspec.structs.replace(reply, text="", tool_calls=[call])


# --- values that fit a schema ---------------------------------------------------------------------

# A schema comes from whoever sends a request, and may ask for values without end.
_MOST_VALUES = 1000
_DEEPEST_VALUE = 32
_LONGEST_LIST = 100


def sample(schema: object) -> Any:
    """The plainest value that fits a JSON schema, as far as tools and structured outputs use it."""
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    def __init__(self, root: object) -> None:
        self._root = root
        self._left = _MOST_VALUES

    def value(self, schema: object, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or self._left < 0 or depth > _DEEPEST_VALUE:
            return None
        if "$ref" in schema:
            return self.value(self._referred(schema["$ref"]), depth + 1)
        for choice in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(choice), list) and schema[choice]:
                return self.value(schema[choice][0], depth + 1)
        for given in ("const", "default"):
            if given in schema:
                return schema[given]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        return self._of_type(schema, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object")
        match kind[0] if isinstance(kind, list) and kind else kind:
            case "object":
                properties = schema.get("properties")
                named = properties.items() if isinstance(properties, dict) else ()
                return {name: self.value(inner, depth + 1) for name, inner in named}
            case "array":
                least = schema.get("minItems")
                length = min(max(1, least), _LONGEST_LIST) if isinstance(least, int) else 1
                return [self.value(schema.get("items"), depth + 1)] * length
            case "string":
                return "demonstration"
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return True
            case _:
                return None

    def _referred(self, reference: object) -> object:
        found = self._root
        for part in str(reference).removeprefix("#").split("/")[1:]:
            found = found.get(part) if isinstance(found, dict) else None
        return found


# --- embeddings -----------------------------------------------------------------------------------


async def _embed(call: Call, request: _EmbeddingsRequest, dimensions: int) -> bytes:
    items = request.items()
    as_base64 = request.encoding_format == "base64"
    vectors = [_vector(tokens, request.dimensions or dimensions) for tokens in items]
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(v) if as_base64 else v}
        for i, v in enumerate(vectors)
    ]
    tokens = sum(map(len, items))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode(
        {"object": "list", "data": data, "model": call.model, "usage": usage}
    )


def _vector(tokens: Sequence[object], dimensions: int) -> list[float]:
    """A hashed bag of words, of length 1: similar texts have similar vectors."""
    vector = [0.0] * dimensions
    for token in tokens:
        word = str(token).strip().lower().encode("utf-8", "replace")
        hashed = hashlib.blake2b(word, digest_size=8).digest()
        place = int.from_bytes(hashed[:4], "little") % dimensions
        vector[place] += 1.0 if hashed[4] & 1 else -1.0
    length = math.hypot(*vector) or 1.0
    return [x / length for x in vector]


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
