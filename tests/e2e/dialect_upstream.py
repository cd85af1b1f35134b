"""One model behind the APIs of four providers, which reads every request as strictly as they do.

What it answers depends on what it was asked and on nothing else, so that a client must get the same
through any of them. What the real API would refuse is refused with its own error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.adapters import wire_anthropic, wire_gemini, wire_ollama, wire_openai
from tests.adapters.wire import Called, Counts, Json, Said, Wire

STORY = ("Once ", "upon ", "a time.")
THOUGHTS = ("Let me ", "think.")
SIGNATURE = "c2lnbmF0dXJl"
TEMPERATURES = {"Paris": "18 degrees", "Rome": "21 degrees"}
MODELS = {
    "openai": "gpt-6-luna",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3.8-flash",
    "ollama": "qwen3",
}
"""The providers, and the model each is asked for."""


@dataclass(kw_only=True)
class Asked:
    """A request, whatever its dialect.

    `forced` is the tool that must be called, `results` are what the last turn's tools returned.
    """

    text: str = ""
    stream: bool = False
    thinks: bool = False
    tools: dict[str, Json] = field(default_factory=dict)
    forced: str | None = None
    schema: Json | None = None
    images: list[bytes] = field(default_factory=list)
    calls: dict[str, Json] = field(default_factory=dict)
    results: list[tuple[Json, str]] = field(default_factory=list)
    remembers: bool = False
    """Whether the thoughts of an earlier turn came back, signed where they were."""


class Refused(Exception):
    """The request is not what the API takes."""


def _must(holds: object, why: str) -> None:
    if not holds:
        raise Refused(why)


# --- the policy -----------------------------------------------------------------------------------


def answer(asked: Asked, dialect: str) -> Said:
    """What the model says."""
    counts = Counts(prompt=140, output=17, reasoned=10 if asked.thinks else 0, cached=100)
    if dialect == "anthropic":
        counts = Counts(prompt=140, output=17, cached=100, written=30, written_1h=20)
    elif dialect == "ollama":
        counts = Counts(prompt=140, output=17)
    signature = SIGNATURE if dialect in ("anthropic", "gemini") else ""
    thoughts = THOUGHTS if asked.thinks else ()
    if calls := _calls(asked):
        if dialect == "gemini":
            calls[0] = replace(calls[0], signature=SIGNATURE)
        return Said(
            thoughts=thoughts,
            signature=signature if thoughts else "",
            calls=calls,
            finish="tool_calls",
            counts=counts,
        )
    return Said(
        texts=_texts(asked),
        thoughts=thoughts,
        signature=signature if thoughts else "",
        counts=counts,
    )


def _calls(asked: Asked) -> list[Called]:
    """One for each city that is named, or the one that is asked for whatever is said."""
    if asked.forced is not None:
        schema = asked.tools[asked.forced]
        return [Called(id="call_0", name=asked.forced, arguments=instance(schema, schema))]
    cities = [city for city in TEMPERATURES if city in asked.text]
    if not asked.tools or not cities or asked.results:
        return []
    [(name, schema)] = asked.tools.items()
    return [
        Called(id=f"call_{place}", name=name, arguments=_arguments(schema, city))
        for place, city in enumerate(cities)
    ]


def _texts(asked: Asked) -> tuple[str, ...]:
    if asked.results:
        said = [f"{next(iter(given.values()))}: {result}. " for given, result in asked.results]
        return (*said, "I remember." if asked.thinks and asked.remembers else "Done.")
    if asked.schema is not None:
        text = json.dumps(instance(asked.schema, asked.schema))
        return text[:5], text[5:]
    if asked.images:
        return tuple(f"Image {hashlib.sha256(image).hexdigest()[:8]}. " for image in asked.images)
    return STORY


def _arguments(schema: Json, city: str) -> Json:
    names = schema.get("required") or list(schema.get("properties") or {"city": {}})
    return {names[0]: city}


def instance(schema: Json, root: Json) -> Any:
    """The plainest value that a schema allows."""
    if "$ref" in schema:
        found: Any = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return instance(found, root)
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return instance(schema[name][0], root)
    if schema.get("enum"):
        return schema["enum"][0]
    match str(schema.get("type", "string")).lower():
        case "object":
            members = schema.get("properties") or {}
            return {name: instance(inner, root) for name, inner in members.items()}
        case "array":
            return [instance(schema.get("items") or {}, root)]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case "null":
            return None
    return "word"


# --- the readers ----------------------------------------------------------------------------------


def _known(body: Json, names: str) -> None:
    unknown = body.keys() - set(names.split())
    _must(not unknown, f"unknown parameters: {sorted(unknown)}")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{text[:20]!r} is not base64") from None


def _data_url(url: str) -> bytes:
    _must(url.startswith("data:image/png;base64,"), f"{url[:30]!r} is no image")
    return _decoded(url.partition(",")[2])


def read_openai(path: str, headers: Mapping[str, str], body: Json) -> Asked:
    """`POST /chat/completions`."""
    _must(headers.get("authorization") == "Bearer sk-openai", "no key")
    _known(
        body,
        "model messages stream stream_options tools tool_choice parallel_tool_calls temperature"
        " top_p stop max_tokens max_completion_tokens response_format reasoning_effort user n seed"
        " store metadata verbosity service_tier prompt_cache_key safety_identifier",
    )
    _must(body.get("stream") or "stream_options" not in body, "stream_options without stream")
    asked = Asked(stream=body.get("stream", False))
    asked.thinks = body.get("reasoning_effort") not in (None, "none")
    for tool in body.get("tools") or ():
        _must(tool["type"] == "function", f"a tool of type {tool['type']!r}")
        asked.tools[tool["function"]["name"]] = tool["function"].get("parameters") or {}
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        asked.forced = choice["function"]["name"]
    elif choice == "required":
        asked.forced = next(iter(asked.tools))
    if (wanted := body.get("response_format") or {}).get("type") == "json_schema":
        _must(wanted["json_schema"].get("name"), "a schema without a name")
        asked.schema = wanted["json_schema"]["schema"]
    open_calls: set[str] = set()
    for message in body["messages"]:
        if message["role"] == "tool":
            _must(message["tool_call_id"] in open_calls, "a result without its call")
            open_calls.remove(message["tool_call_id"])
            given = asked.calls[message["tool_call_id"]]
            asked.results.append((given, _openai_text(message["content"])))
            continue
        _must(not open_calls, f"calls without their results: {open_calls}")
        if message["role"] == "user":
            _user(asked, _openai_text(message["content"]))
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    asked.images.append(_data_url(part["image_url"]["url"]))
        elif message["role"] == "assistant":
            asked.remembers |= message.get("reasoning_content") == "".join(THOUGHTS)
            for call in message.get("tool_calls") or ():
                asked.calls[call["id"]] = json.loads(call["function"]["arguments"])
                open_calls.add(call["id"])
        else:
            _must(message["role"] in ("system", "developer"), f"role {message['role']!r}")
    _must(not open_calls, f"calls without their results: {open_calls}")
    return asked


def _user(asked: Asked, text: str) -> None:
    asked.text, asked.results = text, []


def _openai_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    for part in content or ():
        _must(part["type"] in ("text", "image_url", "refusal"), f"a part {part['type']!r}")
    return "".join(part.get("text", "") for part in content or ())


def read_anthropic(path: str, headers: Mapping[str, str], body: Json) -> Asked:
    """`POST /messages`."""
    _must(headers.get("x-api-key") == "sk-anthropic", "no key")
    _must("anthropic-version" in headers, "anthropic-version: header is required")
    _known(
        body,
        "model messages max_tokens system stream tools tool_choice thinking output_config"
        " temperature top_p top_k stop_sequences metadata service_tier cache_control",
    )
    _must(isinstance(body.get("max_tokens"), int), "max_tokens: Field required")
    asked = Asked(stream=body.get("stream", False))
    thinking = body.get("thinking") or {}
    asked.thinks = thinking.get("type") in ("enabled", "adaptive")
    if thinking.get("type") == "enabled":
        _must(1024 <= thinking["budget_tokens"] < body["max_tokens"], "budget_tokens")
        _must(body.get("temperature") in (None, 1), "temperature with thinking")
    for tool in body.get("tools") or ():
        _must(tool["input_schema"].get("type") == "object", "input_schema.type")
        asked.tools[tool["name"]] = tool["input_schema"]
    choice = body.get("tool_choice") or {"type": "auto"}
    if choice["type"] in ("any", "tool"):
        asked.forced = choice.get("name") or next(iter(asked.tools))
    wanted = (body.get("output_config") or {}).get("format")
    if wanted is not None:
        _must(wanted["schema"].get("additionalProperties") is False, "additionalProperties")
        asked.schema = wanted["schema"]
    last_role, open_calls = "assistant", set[str]()
    for message in body["messages"]:
        role, content = message["role"], message["content"]
        _must(role in ("user", "assistant") and role != last_role, "roles must alternate")
        last_role = role
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        _must(blocks, "an empty message")
        if role == "assistant":
            open_calls = _anthropic_said(asked, blocks)
        else:
            _anthropic_asks(asked, blocks, open_calls)
    _must(last_role == "user", "the last message must be the user's")
    return asked


def _anthropic_said(asked: Asked, blocks: list[Json]) -> set[str]:
    calls: set[str] = set()
    for place, block in enumerate(blocks):
        match block["type"]:
            case "thinking":
                _must(place == 0, "thinking must come first")
                _must(block["signature"] == SIGNATURE, "Invalid `signature` in `thinking` block")
                asked.remembers |= block["thinking"] == "".join(THOUGHTS)
            case "text":
                _must(block["text"], "text content blocks must be non-empty")
            case "tool_use":
                asked.calls[block["id"]] = block["input"]
                calls.add(block["id"])
            case kind:
                raise Refused(f"an assistant's block {kind!r}")
    _must(not asked.thinks or not calls or asked.remembers, "Expected `thinking`")
    return calls


def _anthropic_asks(asked: Asked, blocks: list[Json], open_calls: set[str]) -> None:
    results = [block for block in blocks if block["type"] == "tool_result"]
    _must({r["tool_use_id"] for r in results} == open_calls, "tool_use without tool_result")
    _must(blocks[: len(results)] == results, "tool_result blocks must come first")
    _user(asked, "".join(block.get("text", "") for block in blocks))
    for block in results:
        asked.results.append((asked.calls[block["tool_use_id"]], _block_text(block["content"])))
    for block in blocks:
        if block["type"] == "image":
            source = block["source"]
            _must(source["media_type"] == "image/png", "media_type")
            asked.images.append(_decoded(source["data"]))
        else:
            _must(block["type"] in ("text", "tool_result"), f"a block {block['type']!r}")
            _must(block.get("text") != "", "text content blocks must be non-empty")


def _block_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def read_gemini(path: str, headers: Mapping[str, str], body: Json) -> Asked:
    """`POST /models/{model}:generateContent` and `:streamGenerateContent?alt=sse`."""
    _must(headers.get("x-goog-api-key") == "sk-gemini", "no key")
    _known(body, "contents systemInstruction tools toolConfig generationConfig safetySettings")
    asked = Asked(stream="streamGenerateContent" in path)
    _must(
        path.endswith(":streamGenerateContent?alt=sse" if asked.stream else ":generateContent"),
        path,
    )
    config = body.get("generationConfig") or {}
    asked.thinks = bool((config.get("thinkingConfig") or {}).get("includeThoughts"))
    asked.schema = config.get("responseJsonSchema") or config.get("responseSchema")
    _must(asked.schema is None or config.get("responseMimeType") == "application/json", "mime type")
    for tool in body.get("tools") or ():
        for function in tool["functionDeclarations"]:
            schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
            asked.tools[function["name"]] = schema
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if calling.get("mode") == "ANY":
        [asked.forced] = calling.get("allowedFunctionNames") or asked.tools
    open_calls: list[Json] = []
    for content in body["contents"]:
        _must(content["role"] in ("user", "model"), f"role {content['role']!r}")
        _must(content["parts"], "contents.parts must not be empty")
        if content["role"] == "model":
            open_calls = _gemini_said(asked, content["parts"])
        else:
            _gemini_asks(asked, content["parts"], open_calls)
            open_calls = []
    return asked


def _gemini_said(asked: Asked, parts: list[Json]) -> list[Json]:
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    signed = [part.get("thoughtSignature") for part in parts]
    if calls:
        first = next(part for part in parts if "functionCall" in part)
        _must(
            first.get("thoughtSignature"),
            "Function call is missing a thought_signature in functionCall parts.",
        )
    asked.remembers |= SIGNATURE in signed
    return calls


def _gemini_asks(asked: Asked, parts: list[Json], open_calls: list[Json]) -> None:
    results = [part["functionResponse"] for part in parts if "functionResponse" in part]
    _must(
        len(results) == len(open_calls),
        "the number of function response parts must be equal to that of function call parts",
    )
    _user(asked, "".join(part.get("text", "") for part in parts))
    for call, result in zip(open_calls, results, strict=True):
        _must(result["name"] == call["name"], "a response of another function")
        _must(isinstance(result["response"], dict), "response must be an object")
        asked.results.append((call["args"], str(next(iter(result["response"].values())))))
    for part in parts:
        if "inlineData" in part:
            _must(part["inlineData"]["mimeType"] == "image/png", "mimeType")
            asked.images.append(_decoded(part["inlineData"]["data"]))


def read_ollama(path: str, headers: Mapping[str, str], body: Json) -> Asked:
    """`POST /api/chat`."""
    _known(
        body,
        "model messages stream tools format options keep_alive think truncate shift logprobs"
        " top_logprobs",
    )
    asked = Asked(stream=body.get("stream", True), schema=body.get("format"))
    asked.thinks = bool(body.get("think"))
    for tool in body.get("tools") or ():
        asked.tools[tool["function"]["name"]] = tool["function"]["parameters"]
    pending: list[Json] = []
    for message in body["messages"]:
        _must(isinstance(message["content"], str), "content must be a string")
        match message["role"]:
            case "user":
                _user(asked, message["content"])
                asked.images += map(_decoded, message.get("images") or ())
            case "assistant":
                asked.remembers |= message.get("thinking") == "".join(THOUGHTS)
                pending = [call["function"] for call in message.get("tool_calls") or ()]
                _must(all(isinstance(c["arguments"], dict) for c in pending), "arguments")
            case "tool":
                call = pending.pop(0)
                _must(message.get("tool_name") == call["name"], "tool_name")
                asked.results.append((call["arguments"], message["content"]))
            case role:
                _must(role == "system", f"role {role!r}")
    return asked


# --- the server -----------------------------------------------------------------------------------

Reader = Callable[[str, Mapping[str, str], Json], Asked]
_DIALECTS: dict[str, tuple[str, Reader, Wire]] = {
    "openai": ("/v1", read_openai, wire_openai),
    "anthropic": ("/v1", read_anthropic, wire_anthropic),
    "gemini": ("/v1beta", read_gemini, wire_gemini),
    "ollama": ("", read_ollama, wire_ollama),
}
_ASIDE: dict[str, Json] = {
    "/api/ps": {"models": []},
    "/api/show": {
        "capabilities": ["completion", "tools", "vision", "thinking"],
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
    },
}
"""What is asked of Ollama beside the chat."""


class Providers:
    """All four on one port, each under its name. `refused` has every request that was at fault."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        outer = self

        class Connection(_Connection):
            providers = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def base_url(self, dialect: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{dialect}{_DIALECTS[dialect][0]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    providers: Providers

    def do_GET(self) -> None:
        self._say(_ASIDE["/api/ps"])

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        dialect, _, rest = self.path.removeprefix("/").partition("/")
        if f"/{rest}" in _ASIDE:
            self._say(_ASIDE[f"/{rest}"])
            return
        _, read, wire = _DIALECTS[dialect]
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            asked = read(rest, headers, json.loads(raw))
        except (Refused, KeyError, TypeError, IndexError) as error:
            why = f"{dialect}: {error!r}"
            self.providers.refused.append(f"{why} in {raw[:2000].decode()}")
            self._say({"error": {"type": "invalid_request_error", "message": why}}, 400)
            return
        said = answer(asked, dialect)
        if asked.stream:
            self._stream(wire.content_type, wire.stream(said))
        else:
            self._say(wire.whole(said))

    def _say(self, body: Json, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, kind: str, events: Iterable[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what went wrong is in `refused`."""
