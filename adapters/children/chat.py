"""`POST /v1/chat/completions` by a local model: what is asked, and its answer piece by piece.

Source: OpenAI's API reference, "Create chat completion".
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import msgspec

from adapters.base import BadRequest, ContextExceeded
from adapters.children.generating import Engine, Form, Likely, Prompt, Sampling, Token
from adapters.children.serving import EVENTS, Endpoint, Reply
from adapters.children.stops import Text
from adapters.children.thinking import Kind, Thoughts
from adapters.children.tool_calls import Delta, Forced, Free, declared, told
from adapters.children.turns import ModelThread
from adapters.wire import chat_request
from adapters.wire.chat_request import ChatRequest, Message
from adapters.wire.losses import invalid

# OpenAI's ranges where it has such a parameter; beyond them the numbers overflow.
_Heat = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Factor = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

# What OpenAI says for a token that is as good as impossible; JSON has no infinity.
_IMPOSSIBLE = -9999.0


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Format(msgspec.Struct):
    """`schema` beside `type` is what llama.cpp's own servers read."""

    type: str
    json_schema: chat_request.Schema | None = None
    schema: dict[str, Any] | None = None


class Asked(ChatRequest):
    """A request; members that OpenAI does not have are called as OpenRouter and vLLM do."""

    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None  # type: ignore[assignment]  # it reads one member more
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    temperature: _Heat | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    top_p: _Share | None = None
    min_p: _Share | None = None
    repetition_penalty: _Factor | None = None
    logit_bias: dict[int, _Bias] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


# Members that are read, besides hints.
CARRIED = frozenset(
    {
        *("messages", "tools", "tool_choice", "functions", "function_call", "response_format"),
        *("parallel_tool_calls", "max_tokens", "max_completion_tokens", "n", "stop", "seed"),
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "reasoning_effort"),
        "chat_template_kwargs",
    }
)

_asked = msgspec.json.Decoder(Asked)


def read(body: bytes) -> Asked:
    """The request in a body; raises `BadRequest` for all that cannot be done."""
    asked = chat_request.decode(_asked, body)
    for name in chat_request.names(body):
        if name not in CARRIED:
            raise invalid(name, "a local model has no such parameter")
    if not asked.messages:
        raise invalid("messages", "there is no message")
    if asked.top_logprobs and not asked.logprobs:
        raise invalid("top_logprobs", "it goes with 'logprobs'")
    return asked


def endpoint(engine: Engine, thread: ModelThread) -> Endpoint:
    """The endpoint of the model that `engine` runs in `thread`."""

    @asynccontextmanager
    async def answer(body: bytes) -> AsyncIterator[Reply]:
        asked = read(body)
        if asked.stream:
            async with thread.run(lambda: _stream(engine, asked)) as pieces:
                yield Reply(pieces=pieces, content_type=EVENTS)
        else:
            async with thread.run(lambda: _whole(engine, asked)) as pieces:
                yield Reply(pieces=pieces)

    return answer


def _stream(engine: Engine, asked: Asked) -> Iterator[bytes]:
    chunks = _Chunks(_head(asked, "chat.completion.chunk"))
    speaker = _Speaker(engine, asked)
    for index in range(asked.n or 1):
        role: Delta = {"role": "assistant", "content": ""}
        for said in speaker.speak(index):
            # Together with the first words: a piece of its own would keep those waiting.
            begun = chunks.of(index, role) if role else b""
            yield begun + chunks.of(index, said.delta, said.logprobs)
            role = {}
        yield chunks.of(index, role, finish=speaker.finish)
    if asked.stream_options and asked.stream_options.include_usage:
        yield chunks.of_usage(speaker.usage())
    yield b"data: [DONE]\n\n"


def _whole(engine: Engine, asked: Asked) -> Iterator[bytes]:
    speaker = _Speaker(engine, asked)
    choices = [_choice(speaker, index, asked) for index in range(asked.n or 1)]
    head = _head(asked, "chat.completion")
    yield msgspec.json.encode({**head, "choices": choices, "usage": speaker.usage()})


def _choice(speaker: _Speaker, index: int, asked: Asked) -> Mapping[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    logprobs: list[Mapping[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for said in speaker.speak(index):
        texts.append(said.delta.get("content", ""))
        thoughts.append(said.delta.get("reasoning_content", ""))
        logprobs += said.logprobs
        for call in said.delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({name: value for name, value in call.items() if name != "index"})
            else:
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message |= {"content": text or None, "tool_calls": calls}
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": logprobs, "refusal": None} if asked.logprobs else None,
        "finish_reason": speaker.finish,
    }


def _head(asked: Asked, kind: str) -> Mapping[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.model,
    }


class _Chunks:
    """The events of a stream, which all begin the same."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._beginning = b"data: %b," % msgspec.json.encode(head).removesuffix(b"}")

    def of(
        self,
        index: int,
        delta: Delta,
        logprobs: list[Mapping[str, Any]] | None = None,
        finish: str | None = None,
    ) -> bytes:
        """A part of a choice."""
        told = {"content": logprobs, "refusal": None} if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}
        return b'%b"choices":[%b]}\n\n' % (self._beginning, msgspec.json.encode(choice))

    def of_usage(self, usage: Mapping[str, Any]) -> bytes:
        """What all choices took."""
        return b'%b"choices":[],"usage":%b}\n\n' % (self._beginning, msgspec.json.encode(usage))


@dataclass(frozen=True, slots=True)
class _Said:
    delta: Delta
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)


class _Plain:
    """Text that is nothing but text."""

    has_called = False

    def feed(self, text: str) -> Iterator[Delta]:
        if text:
            yield {"content": text}

    def end(self) -> Iterator[Delta]:
        return iter(())


class _Thoughtful:
    """Thoughts, and then what another reader makes of the rest."""

    def __init__(self, reader: _Plain | Free, *, is_thinking: bool) -> None:
        self._thoughts = Thoughts(is_thinking=is_thinking)
        self._reader = reader

    @property
    def has_called(self) -> bool:
        return self._reader.has_called

    def feed(self, text: str) -> Iterator[Delta]:
        for kind, part in self._thoughts.feed(text):
            yield from self._delta(kind, part)

    def end(self) -> Iterator[Delta]:
        for kind, part in self._thoughts.end():
            yield from self._delta(kind, part)
        yield from self._reader.end()

    def _delta(self, kind: Kind, part: str) -> Iterator[Delta]:
        return self._reader.feed(part) if kind == "content" else iter([{kind: part}])


class _Speaker:
    """Makes the choices of one request; to be used in the model's thread.

    `finish` is why the last choice ended.
    """

    def __init__(self, engine: Engine, asked: Asked) -> None:
        self._engine = engine
        self._asked = asked
        self._functions = _callable(asked)
        self._must_call = self._functions and asked.choice()[0] == "required"
        self._prompt = _prompt(engine, asked, self._functions)
        room = engine.context - len(self._prompt.tokens)
        self._limit = min(asked.most_tokens or room, room)
        self._sampling = self._sampling_of(asked)
        self._known = 0
        self._spoken = 0
        self.finish = "stop"

    def speak(self, index: int) -> Iterator[_Said]:
        """The next choice, piece by piece."""
        known = self._engine.read(self._prompt.tokens)
        if index == 0:
            self._known = known
        text = Text([stop for stop in self._asked.stops() if stop])
        reader = self._reader()
        logprobs = _Logprobs(self._asked)
        self.finish = "stop"
        count = 0
        for token in islice(self._tokens(index), self._limit):
            count += 1
            logprobs.add(token, text.decoded)
            for delta in reader.feed(text.feed(token.text)):
                yield _Said(delta, logprobs.until(text.given))
            if text.is_stopped:
                break
        else:
            if count == self._limit:
                self.finish = "length"
        self._spoken += count
        yield from self._last_words(text, reader, logprobs)
        if reader.has_called and self.finish == "stop":
            self.finish = "tool_calls"

    def _tokens(self, index: int) -> Iterator[Token]:
        try:
            return self._engine.generate(self._sampling_of_choice(index))
        except ValueError as error:
            raise self._unfit(error) from None

    def _unfit(self, error: ValueError) -> BadRequest:
        return invalid("tools" if self._must_call else "response_format", str(error))

    def _last_words(
        self, text: Text, reader: _Plain | Forced | _Thoughtful, logprobs: _Logprobs
    ) -> Iterator[_Said]:
        for delta in (*reader.feed(text.end()), *reader.end()):
            yield _Said(delta, logprobs.until(text.given))
        if not text.is_stopped and (rest := logprobs.until(text.given + 1)):
            yield _Said({}, rest)

    def usage(self) -> Mapping[str, Any]:
        """What all choices took; a prompt counts once."""
        read = len(self._prompt.tokens)
        return {
            "prompt_tokens": read,
            "completion_tokens": self._spoken,
            "total_tokens": read + self._spoken,
            "prompt_tokens_details": {"cached_tokens": self._known},
        }

    def _reader(self) -> _Plain | Forced | _Thoughtful:
        if self._must_call:
            return Forced(self._functions, self._engine.template)
        if self._sampling.grammar is not None:
            return _Plain()  # there is no thinking in a grammar
        reader = Free(self._functions) if self._functions else _Plain()
        return _Thoughtful(reader, is_thinking=self._prompt.is_thinking)

    def _sampling_of_choice(self, index: int) -> Sampling:
        if index == 0 or self._sampling.seed is None:
            return self._sampling
        return replace(self._sampling, seed=self._sampling.seed + index)

    def _sampling_of(self, asked: Asked) -> Sampling:
        bias = asked.logit_bias or {}
        if any(not 0 <= token < self._engine.vocabulary for token in bias):
            raise invalid("logit_bias", "this model has no such token")
        return Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            repetition_penalty=asked.repetition_penalty or 1.0,
            logit_bias=bias,
            seed=asked.seed,
            grammar=self._grammar(asked),
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            shows_control=bool(self._functions),
        )

    def _grammar(self, asked: Asked) -> str | None:
        wanted = asked.response_format
        schema = _schema(wanted) if wanted is not None else None
        if schema is not None and self._functions:
            raise invalid("response_format", "a local model cannot have it together with 'tools'")
        try:
            if self._must_call:
                calls = Forced(self._functions, self._engine.template).forms()
                return self._engine.grammar_of(calls)
            return None if schema is None else self._engine.grammar_of([Form(schema=schema)])
        except ValueError as error:
            raise self._unfit(error) from None


def _schema(wanted: _Format) -> Mapping[str, Any] | None:
    """The schema an answer must be of; None for text."""
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return wanted.schema or {"type": "object"}
    if wanted.type == "json_schema" and wanted.json_schema and wanted.json_schema.schema:
        return wanted.json_schema.schema
    raise invalid("response_format", "it is no format of ours, or has no schema")


def _callable(asked: Asked) -> list[chat_request.Declaration]:
    """The functions that may be called now."""
    for number, tool in enumerate(asked.tools or ()):
        if tool.type != "function" or tool.function is None:
            raise invalid(f"tools[{number}]", "a local model can call functions only")
    mode, named = asked.choice()
    functions = [] if mode == "none" else list(asked.declarations())
    if missing := set(named) - {function.name for function in functions}:
        raise invalid("tool_choice", f"there is no function {min(missing)!r}")
    if mode == "required" and not functions:
        raise invalid("tool_choice", "there is no function that could be called")
    return [function for function in functions if not named or function.name in named]


def _prompt(engine: Engine, asked: Asked, functions: list[chat_request.Declaration]) -> Prompt:
    """The prompt; raises `ContextExceeded` where none would be left for an answer."""
    messages = [_message(message, f"messages[{n}]") for n, message in enumerate(asked.messages)]
    variables = dict(asked.chat_template_kwargs or {})
    if asked.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", asked.reasoning_effort)
        variables.setdefault("enable_thinking", asked.reasoning_effort != "none")
    if functions and "tools" in engine.template:
        variables["tools"] = declared(functions)
    elif functions:
        messages = [{"role": "system", "content": told(functions)}, *messages]
    try:
        prompt = engine.render(messages, **variables)
    except ValueError as error:
        raise invalid("messages", str(error)) from None
    if len(prompt.tokens) >= engine.context:
        _refuse_long(len(prompt.tokens), engine.context)
    return prompt


def _refuse_long(length: int, context: int) -> NoReturn:
    raise ContextExceeded(
        f"This model's maximum context length is {context} tokens. However, your messages "
        f"resulted in {length} tokens. Please reduce the length of the messages.",
        status=400,
        type="invalid_request_error",
        param="messages",
        code="context_length_exceeded",
    )


def _message(message: Message, path: str) -> dict[str, Any]:
    """A message as templates want it: its content one text, the arguments of calls objects."""
    parts = message.parts()
    for number, part in enumerate(parts):
        if part.text is None and part.refusal is None:
            raise invalid(f"{path}.content[{number}]", f"a local model reads no {part.type!r}")
    text = "\n".join(part.text if part.text is not None else part.refusal or "" for part in parts)
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": text}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    if calls := message.calls():
        plain["tool_calls"] = [_past_call(call) for call in calls]
    return plain


def _past_call(call: chat_request.ToolCall) -> dict[str, Any]:
    if call.function is None:
        raise BadRequest("a tool call in 'messages' is no function's", status=400, param="messages")
    arguments = chat_request.json_object(call.function.arguments)
    said = arguments if arguments is not None else call.function.arguments
    function = {"name": call.function.name, "arguments": said}
    return {"id": call.id, "type": "function", "function": function}


class _Logprobs:
    """The probabilities of tokens, until their text is given out."""

    def __init__(self, asked: Asked) -> None:
        self._is_asked = bool(asked.logprobs)
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []

    def add(self, token: Token, start: int) -> None:
        """A token whose text starts after so many characters."""
        if self._is_asked and token.logprob is not None:
            others = [_likely(other) for other in token.others]
            drawn = _likely(Likely(token.text, token.logprob))
            self._waiting.append((start, {**drawn, "top_logprobs": others}))

    def until(self, end: int) -> list[Mapping[str, Any]]:
        """Those of tokens that start before so many characters."""
        told = [entry for start, entry in self._waiting if start < end]
        del self._waiting[: len(told)]
        return told


def _likely(token: Likely) -> Mapping[str, Any]:
    return {
        "token": token.text.decode(errors="replace"),
        "logprob": max(token.logprob, _IMPOSSIBLE),
        "bytes": list(token.text),
    }
