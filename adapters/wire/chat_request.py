"""A chat request read into types, for adapters whose providers speak another dialect.

Source: OpenAI's API reference, "Create chat completion"; OpenRouter's, "Parameters" and "Reasoning
Tokens", for what goes beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import msgspec

from adapters.base import BadRequest, Call
from adapters.wire import loose_json
from adapters.wire.losses import Losses, invalid

P = ParamSpec("P")
T = TypeVar("T")
# It is repeated with every result: no function is called by a longer one.
Name = Annotated[str, msgspec.Meta(max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Url(msgspec.Struct):
    """Where something is, or all of it as a `data:` URL."""

    url: str
    detail: str | None = None


class Audio(msgspec.Struct):
    """Sound in base64; `format` is such as `wav`."""

    data: str
    format: str = "wav"


class File(msgspec.Struct):
    """A document: its `data:` URL (or an address), or a provider's id of it."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Part(msgspec.Struct):
    """A part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    video_url: Url | str | None = None
    input_audio: Audio | None = None
    file: File | None = None

    def url(self) -> str | None:
        """The address of its image or video."""
        found = self.image_url if self.type == "image_url" else self.video_url
        return found.url if isinstance(found, Url) else found

    def detail(self) -> str | None:
        """How closely its image is to be looked at."""
        return self.image_url.detail if isinstance(self.image_url, Url) else None


class Function(msgspec.Struct):
    """The call of a function, its arguments as JSON text."""

    name: Name
    arguments: str = ""


class GoogleExtra(msgspec.Struct):
    """What Gemini adds to a tool call."""

    thought_signature: str | None = None


class Extra(msgspec.Struct):
    """What providers add to a tool call."""

    google: GoogleExtra | None = None


class ToolCall(msgspec.Struct):
    """A call that the model made."""

    id: str = ""
    type: str = "function"
    function: Function | None = None
    extra_content: Extra | None = None


class ReasoningDetail(msgspec.Struct):
    """An entry of `reasoning_details`."""

    type: str = ""
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    format: str | None = None
    id: str | None = None


class Image(msgspec.Struct):
    """An image that the model made."""

    image_url: Url


class Message(msgspec.Struct):
    """A message of any role."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    images: list[Image] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None

    def parts(self) -> list[Part]:
        """Its content as parts, whatever shape it has."""
        if isinstance(self.content, str):
            return [Part(type="text", text=self.content)]
        return self.content or []

    def calls(self) -> list[ToolCall]:
        """Its tool calls, and the one call of the older dialect."""
        if self.function_call is not None:
            return [ToolCall(id=self.function_call.name, function=self.function_call)]
        return self.tool_calls or []


class Declaration(msgspec.Struct):
    """A function that may be called; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool that may be used."""

    type: str = "function"
    function: Declaration | None = None


class Named(msgspec.Struct):
    """A function by its name."""

    name: str


class Allowed(msgspec.Struct):
    """The tools that may be called now."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[Tool] = []


class Choice(msgspec.Struct):
    """Which tool must be used."""

    type: str = "function"
    function: Named | None = None
    name: str | None = None
    allowed_tools: Allowed | None = None


class Schema(msgspec.Struct):
    """The schema that an answer must be of."""

    schema: dict[str, Any] | None = None


class Format(msgspec.Struct):
    """What an answer must look like."""

    type: str
    json_schema: Schema | None = None


class Reasoning(msgspec.Struct):
    """OpenRouter's `reasoning`."""

    effort: Effort | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class Voice(msgspec.Struct):
    """How an answer is spoken."""

    voice: str | None = None
    format: str | None = None


class ChatRequest(msgspec.Struct):
    """The members of a request that adapters read; None where it has none."""

    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    functions: list[Declaration] | None = None
    function_call: Literal["none", "auto"] | Named | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    modalities: list[str] | None = None
    audio: Voice | None = None
    service_tier: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that is asked for."""
        return self.max_completion_tokens or self.max_tokens

    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def declarations(self) -> Iterator[Declaration]:
        """The functions that may be called, in the newer dialect and the older."""
        for tool in self.tools or ():
            if tool.type == "function" and tool.function is not None:
                yield tool.function
        yield from self.functions or ()

    def choice(self) -> tuple[Literal["none", "auto", "required"] | None, list[str]]:
        """Whether a function must be called, and which ones may be (all, if none is named)."""
        chosen = self.tool_choice if self.tool_choice is not None else self.function_call
        if chosen is None or isinstance(chosen, str):
            return chosen, []
        if isinstance(chosen, Named):
            return "required", [chosen.name]
        if chosen.allowed_tools is not None:
            allowed = (tool.function for tool in chosen.allowed_tools.tools)
            return chosen.allowed_tools.mode, [f.name for f in allowed if f is not None]
        name = chosen.function.name if chosen.function else chosen.name
        if chosen.type != "function" or name is None:
            raise invalid("tool_choice", "what is chosen is no function")
        return "required", [name]


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_chat = msgspec.json.Decoder(ChatRequest)
_object = msgspec.json.Decoder(dict[str, Any])

# The media type of a `data:` URL ends within so many characters.
_LONGEST_HEAD = 256
# Members that change nothing of the answer, and values that are as good as none.
_HINTS = frozenset(
    {
        *("model", "stream", "stream_options", "user", "safety_identifier", "metadata", "usage"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "cache_control"),
        "encoding_format",  # of vectors: whoever asked for another is given it all the same
    }
)
_AS_GOOD_AS_NONE: Mapping[str, tuple[bytes, ...]] = {
    "store": (b"false",),
    "logit_bias": (b"{}",),
    "verbosity": (b'"medium"',),
    "service_tier": (b'"auto"', b'"default"'),
    "parallel_tool_calls": (b"true",),
    "n": (b"1",),
    "best_of": (b"1",),
    "echo": (b"false",),
    "logprobs": (b"false",),
    "top_logprobs": (b"0",),
    "modalities": (b'["text"]',),
    "presence_penalty": (b"0", b"0.0"),
    "frequency_penalty": (b"0", b"0.0"),
    "repetition_penalty": (b"1", b"1.0"),
    "tools": (b"[]",),
    "functions": (b"[]",),
    "stop": (b"[]",),
    "annotations": (b"[]",),
}


def read(body: bytes) -> ChatRequest:
    """The request in a body; raises `BadRequest` that names the parameter of a wrong type."""
    return decode(_chat, body)


def without_others(call: Call, carried: Set[str], provider: str) -> Losses:
    """Refuse, or leave out, every member of a call that says something and is not carried."""
    losses = Losses(drop_params=call.drop_params)
    for name in names(call.body):
        if name not in carried:
            losses.refuse(name, f"{provider} has no such parameter")
    return losses


def names(body: bytes) -> list[str]:
    """The members of a body that say something which a provider must be told."""
    try:
        found: Mapping[str, bytes | msgspec.Raw] = _members.decode(body)
    except msgspec.DecodeError:
        found = {name: loose_json.encode(v) for name, v in decode(_object, body).items()}
    return [name for name, text in found.items() if says_something(name, bytes(text))]


def says_something(name: str, text: bytes) -> bool:
    """Whether a member's value must be told: it is neither a hint nor what happens anyway."""
    if name in _HINTS or text == b"null":
        return False
    return text not in _AS_GOOD_AS_NONE.get(name, ())


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Read a body; raises `BadRequest`."""
    try:
        return loose_json.decode_as(decoder, body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        if param := path.rstrip("`").lstrip("."):
            raise invalid(param, message) from None
        raise BadRequest(f"invalid request: {message}", status=400) from None
    except (ValueError, RecursionError):
        raise BadRequest("the request is not the JSON it should be", status=400) from None


def bounded(translate: Callable[P, T]) -> Callable[P, T]:
    """A translation that raises `BadRequest` for what is nested too deeply for it."""

    @wraps(translate)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return translate(*args, **kwargs)
        except RecursionError:
            raise BadRequest("the request is nested too deeply", status=400) from None

    return run


def arguments(text: str, path: str, losses: Losses) -> dict[str, Any]:
    """The arguments of a call as the object that other dialects have.

    What is none, such as one that was cut off, goes back to the model within one, and is told.
    """
    found = {} if not text or text.isspace() else json_object(text)
    if found is None:
        losses.tell(path)
        return {"arguments": text}
    return found


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text holds; None where it holds none."""
    try:
        return loose_json.decode_as(_object, text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def data_url(url: str) -> tuple[str, str] | None:
    """The media type and the base64 of a `data:` URL; None for any other URL."""
    comma = url.find(",", 0, _LONGEST_HEAD) if url.startswith("data:") else -1
    kind, *options = url[5:comma].split(";")
    if comma < 0 or "base64" not in options:
        return None
    return kind or "application/octet-stream", url[comma + 1 :]
