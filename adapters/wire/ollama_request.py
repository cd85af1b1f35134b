"""An OpenAI request -> Ollama's `/api/chat`, `/api/generate` or `/api/embed`: JSON to JSON alone.

Source: Ollama's "API" (docs/api.md), `api/types.go` for what that leaves out, and its own
translation of OpenAI's requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from adapters.base import Call, Unsupported
from adapters.wire import chat_request, loose_json
from adapters.wire.chat_request import ChatRequest, Declaration, Message, Part, data_url
from adapters.wire.losses import Losses, invalid

Json = dict[str, Any]

_CARRIED = frozenset(
    {
        *("messages", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"),
        *("response_format", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p"),
        *("top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("logprobs", "top_logprobs", "reasoning_effort", "reasoning", "include_reasoning"),
        *("options", "num_ctx", "keep_alive", "think", "truncate", "shift"),
    }
)
_COMPLETION_CARRIED = frozenset(
    {
        *("prompt", "suffix", "max_tokens", "stop", "temperature", "top_p", "top_k", "min_p"),
        *("seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs"),
        *("options", "num_ctx", "keep_alive", "think", "truncate", "shift"),
    }
)
_EMBEDDINGS_CARRIED = frozenset(
    {"input", "dimensions", "encoding_format", "options", "num_ctx", "keep_alive", "truncate"}
)
_ROLES = {"developer": "system", "function": "tool"}
# As Ollama reads OpenAI's word; its own are `low`, `medium`, `high` and `max`.
_THINK: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max"}

# To reckon how much context a request needs: tokens are seldom shorter than three bytes, an image
# takes some hundreds of them, an answer without a maximum seldom more than this. More than is
# reckoned for an answer need not fit: an answer that is cut says so.
_BYTES_PER_TOKEN = 3
_IMAGE_TOKENS = 1024
_ANSWER_TOKENS = 2048
_LONGEST_ANSWER_TOKENS = 8192
_TEMPLATE_TOKENS = 256


class Sampling(msgspec.Struct):
    """What goes into `options`, by OpenAI's names, and Ollama's own members."""

    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: chat_request.Count | None = None
    max_completion_tokens: chat_request.Count | None = None
    num_ctx: chat_request.Count | None = None
    options: Json | None = None
    keep_alive: str | int | float | None = None
    think: bool | str | None = None
    truncate: bool = False
    shift: bool = False

    @property
    def context(self) -> int | None:
        """The context length that the client asks for."""
        given = (self.options or {}).get("num_ctx")
        return self.num_ctx or (given if type(given) is int and given > 0 else None)

    def members(self) -> Json:
        """The members that are alike in chats and completions.

        Without `truncate: false` the oldest messages are left out in silence where the context is
        too short, and without `shift: false` the same happens while the answer grows.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        options = {
            "stop": stop or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repeat_penalty": self.repetition_penalty,
            **(self.options or {}),
            "num_ctx": self.context,
        }
        if (most := self.max_completion_tokens or self.max_tokens) is not None:
            options["num_predict"] = most  # what budgets hold
        members: Json = {"truncate": self.truncate, "shift": self.shift}
        members["options"] = {name: v for name, v in options.items() if v is not None}
        if self.keep_alive is not None:
            members["keep_alive"] = self.keep_alive
        return members


@dataclass(slots=True)
class Translated:
    """A request in Ollama's dialect, the context it may need, and what it could not say.

    `needs_context` is in tokens, and None where the client says how much there shall be.
    """

    members: Json
    needs_context: int | None
    dropped: list[str]

    @chat_request.bounded
    def body(self, context: int | None) -> bytes:
        """The JSON, with the context length that was chosen for it."""
        if context is not None:
            self.members["options"]["num_ctx"] = context
        return loose_json.encode(self.members)


_sampling = msgspec.json.Decoder(Sampling)


@chat_request.bounded
def to_chat(call: Call) -> Translated:
    """The body of `/api/chat`; raises `Unsupported` and `BadRequest`."""
    losses = chat_request.without_others(call, _CARRIED, "Ollama")
    asked = chat_request.read(call.body)
    sampling = chat_request.decode(_sampling, call.body)
    conversation = _Conversation(losses)
    conversation.add_all(asked.messages)
    members: Json = {
        "model": call.model,
        "messages": conversation.messages,
        "stream": call.stream,
        **sampling.members(),
        **_format(asked, losses),
        **_thinking(asked, sampling, losses),
    }
    if tools := [_tool(function) for function in _functions(asked, losses)]:
        members["tools"] = tools
    if asked.logprobs:
        members |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    text = conversation.text_bytes + (len(loose_json.encode(tools)) if tools else 0)
    needs = _needs(sampling, text, conversation.images)
    return Translated(members, needs, losses.dropped)


def _needs(sampling: Sampling, text_bytes: int, images: int = 0) -> int | None:
    """The tokens that prompt and answer take, rather too many than too few."""
    if sampling.context is not None:
        return None
    answer = sampling.max_completion_tokens or sampling.max_tokens or _ANSWER_TOKENS
    prompt = text_bytes // _BYTES_PER_TOKEN + images * _IMAGE_TOKENS + _TEMPLATE_TOKENS
    return prompt + min(answer, _LONGEST_ANSWER_TOKENS)


# --- messages -------------------------------------------------------------------------------------


class _Conversation:
    """Messages as Ollama has them: text, and beside it the bytes of images and sounds."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        # Of the functions, by the ids of their calls, in the order of these.
        self._names: dict[str, str] = {}
        self._places: dict[str, int] = {}
        self.messages: list[Json] = []
        self.text_bytes = 0
        self.images = 0

    def add_all(self, messages: Iterable[Message]) -> None:
        """Results in the order of their calls: most models are not told whose they are."""
        for is_results, run in groupby(enumerate(messages), lambda pair: pair[1].role == "tool"):
            for place, message in sorted(run, key=self._order) if is_results else run:
                self._add(message, f"messages[{place}]")

    def _order(self, result: tuple[int, Message]) -> int:
        return self._places.get(result[1].tool_call_id or "", len(self._places))

    def _add(self, message: Message, path: str) -> None:
        role = _ROLES.get(message.role, message.role)
        if role not in ("system", "user", "assistant", "tool"):
            raise invalid(f"{path}.role", f"{message.role[:100]!r} is no role")
        made: Json = {"role": role, **self._content(message, path)}
        if role == "assistant":
            made |= self._answer(message, path)
        elif role == "tool":
            given = message.tool_call_id or ""
            name = self._names.get(given) or message.name
            made |= {"tool_name": name} if name else {}
            made |= {"tool_call_id": given} if given else {}
        elif message.name:
            self._losses.tell("messages[].name")
        self.text_bytes += len(made["content"].encode("utf-8", "replace"))
        self.messages.append(made)

    def _content(self, message: Message, path: str) -> Json:
        texts, images = [], []
        for place, part in enumerate(message.parts()):
            if part.detail() not in (None, "auto"):
                self._losses.tell("messages[].content[].image_url.detail")
            if part.type in ("text", "refusal"):
                texts.append((part.text if part.type == "text" else part.refusal) or "")
            elif (data := _bytes_of(part)) is not None:
                images.append(data)
            else:
                self._losses.refuse(f"{path}.content[{place}]", _why_not(part))
        for place, image in enumerate(message.images or ()):
            if (found := data_url(image.image_url.url)) is not None:
                images.append(found[1])
            else:
                self._losses.refuse(f"{path}.images[{place}]", _NO_URLS)
        if message.refusal:
            texts.append(message.refusal)
        self.images += len(images)
        return {"content": "\n".join(texts), **({"images": images} if images else {})}

    def _answer(self, message: Message, path: str) -> Json:
        made: Json = {}
        if message.audio is not None:
            self._losses.refuse(f"{path}.audio", "Ollama is told as text what was said before")
        if thinking := message.reasoning_content or message.reasoning:
            made["thinking"] = thinking
            self.text_bytes += len(thinking.encode("utf-8", "replace"))
        if any(detail.data or detail.signature for detail in message.reasoning_details or ()):
            self._losses.tell("messages[].reasoning_details")
        calls = []
        for place, call in enumerate(message.calls()):
            if call.function is None:
                self._losses.refuse(f"{path}.tool_calls[{place}]", "Ollama calls functions alone")
                continue
            name, text = call.function.name, call.function.arguments
            self._names[call.id] = name
            self._places.setdefault(call.id, len(self._places))
            self.text_bytes += len(text.encode("utf-8", "replace"))
            where = f"{path}.tool_calls[{place}].function.arguments"
            arguments = chat_request.arguments(text, where, self._losses)
            function = {"index": place, "name": name, "arguments": arguments}
            calls.append({**({"id": call.id} if call.id else {}), "function": function})
        return made | ({"tool_calls": calls} if calls else {})


def _bytes_of(part: Part) -> str | None:
    """An image or a sound in base64; Ollama takes both as `images`."""
    if part.type == "input_audio" and part.input_audio is not None:
        return part.input_audio.data
    url = part.url() if part.type == "image_url" else None
    found = data_url(url) if url else None
    return found[1] if found else None


_NO_URLS = "Ollama takes images in base64, and fetches none"


def _why_not(part: Part) -> str:
    if part.type == "image_url":
        return _NO_URLS
    return f"Ollama has no parts of type {part.type[:100]!r}"


# --- parameters -----------------------------------------------------------------------------------


def _functions(asked: ChatRequest, losses: Losses) -> list[Declaration]:
    """The functions that may be called now; Ollama leaves it to the model whether one is."""
    for place, tool in enumerate(asked.tools or ()):
        if tool.type != "function" or tool.function is None:
            losses.refuse(f"tools[{place}]", f"Ollama has no tools of type {tool.type[:100]!r}")
    functions = list(asked.declarations())
    mode, names = asked.choice()
    if not functions or mode == "none":
        return []
    if mode == "required":
        losses.refuse("tool_choice", "Ollama leaves it to the model whether it calls one")
    if asked.parallel_tool_calls is False:
        losses.refuse("parallel_tool_calls", "Ollama may always make several calls")
    if any(function.strict for function in functions):
        losses.tell("tools[].function.strict")
    allowed = set(names)
    return [function for function in functions if not allowed or function.name in allowed]


def _tool(function: Declaration) -> Json:
    made: Json = {"name": function.name, "description": function.description or ""}
    made["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": made}


def _format(asked: ChatRequest, losses: Losses) -> Json:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_schema" and wanted.json_schema and wanted.json_schema.schema:
        return {"format": wanted.json_schema.schema}
    if wanted.type not in ("json_object", "json_schema"):
        losses.refuse("response_format", "Ollama has no such format")
        return {}
    return {"format": "json"}


def _thinking(asked: ChatRequest, sampling: Sampling, losses: Losses) -> Json:
    if sampling.think is not None:
        return {"think": sampling.think}
    effort, reasoning = asked.reasoning_effort, asked.reasoning
    if asked.include_reasoning is False:
        losses.tell("include_reasoning")
    if reasoning is not None:
        effort = reasoning.effort or effort
        if reasoning.enabled is False:
            effort = "none"
        if reasoning.max_tokens:
            losses.tell("reasoning.max_tokens")
        if reasoning.exclude:
            losses.tell("reasoning.exclude")
        if effort is None and (reasoning.enabled or reasoning.max_tokens):
            return {"think": True}
    return {} if effort is None else {"think": _THINK.get(effort, effort)}


# --- completions and embeddings -------------------------------------------------------------------


class _Completion(msgspec.Struct):
    prompt: str | list[str | int | list[int]] = ""
    suffix: str | None = None
    logprobs: int | bool | None = None


_completion = msgspec.json.Decoder(_Completion)


@chat_request.bounded
def to_generate(call: Call) -> Translated:
    """The body of `/api/generate` for a completion; raises `Unsupported` and `BadRequest`."""
    losses = chat_request.without_others(call, _COMPLETION_CARRIED, "Ollama")
    asked = chat_request.decode(_completion, call.body)
    sampling = chat_request.decode(_sampling, call.body)
    prompts = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
    prompt = prompts[0] if len(prompts) == 1 else None
    if not isinstance(prompt, str):
        raise Unsupported("Ollama completes one text", param="prompt")
    members: Json = {
        "model": call.model,
        "prompt": prompt,
        "stream": call.stream,
        **sampling.members(),
    }
    if asked.suffix:
        members["suffix"] = asked.suffix
    if sampling.think is not None:
        members["think"] = sampling.think
    if asked.logprobs is not None and asked.logprobs is not False:
        members |= {"logprobs": True, "top_logprobs": int(asked.logprobs)}
    size = len(prompt.encode("utf-8", "replace")) + len((asked.suffix or "").encode())
    return Translated(members, _needs(sampling, size), losses.dropped)


class _Embeddings(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: chat_request.Count | None = None


_embeddings = msgspec.json.Decoder(_Embeddings)


def to_embed(call: Call) -> Translated:
    """The body of `/api/embed`; raises `Unsupported` and `BadRequest`."""
    losses = chat_request.without_others(call, _EMBEDDINGS_CARRIED, "Ollama")
    asked = chat_request.decode(_embeddings, call.body)
    sampling = chat_request.decode(_sampling, call.body)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    longest = 0
    for text in texts:
        if not isinstance(text, str):
            raise Unsupported("Ollama embeds text, and no token ids", param="input")
        longest = max(longest, len(text.encode("utf-8", "replace")))
    members: Json = {"model": call.model, "input": texts, **sampling.members()}
    del members["shift"]
    if asked.dimensions is not None:
        members["dimensions"] = asked.dimensions
    needs = None if sampling.context else longest // _BYTES_PER_TOKEN + _TEMPLATE_TOKENS
    return Translated(members, needs, losses.dropped)
