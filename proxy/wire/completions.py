"""`POST /v1/completions`, the legacy endpoint: as it is where a target has it, otherwise as a chat.

Source: OpenAI's API reference, "Create completion (Legacy)".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from adapters.base import AdapterError, Endpoint, MalformedAnswer, Unsupported
from policies.base import Capability
from policies.base import Prompt as Excerpts
from proxy.errors import ApiError, InvalidRequest
from proxy.pricing import NO_UNITS, Units, Usage
from proxy.wire import answers, chat, chunks, failures
from proxy.wire import usage as wire_usage
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole
from proxy.wire.surrogates import encode, without_lone
from proxy.wire.tags import Change
from proxy.wire.tags import read as read_tags

Chunk = dict[str, Any]

# What a server may add to a prompt: the token that begins a text.
_PROMPT_TOKENS = 16
# Members that no chat has, and the values of theirs that say nothing.
_LOST = ("suffix", "echo", "logprobs", "best_of", "max_completion_tokens")
# Whether a server obeys the maximum of another endpoint, nobody knows here.
_UNBOUNDED = ("max_completion_tokens", *chat.UNBOUNDED)
_SAYS_NOTHING = (b"null", b"false", b'""')
# Members whose name or shape is another in a chat, or that are only for servers that have this.
_NOT_CHAT = frozenset({"prompt", *_LOST})

_Count = Annotated[int, msgspec.Meta(ge=1, le=128)]
_TokenId = Annotated[int, msgspec.Meta(ge=0)]
Prompt = str | list[str | _TokenId | list[_TokenId]] | None


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    prompt: msgspec.Raw = msgspec.Raw(b"null")
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=chat.MAX_OUTPUT_TOKENS)] | None = None
    n: _Count | None = None
    best_of: _Count | None = None
    stream: bool | None = None
    stream_options: dict[str, msgspec.Raw] | None = None
    service_tier: str | None = None
    user: str | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: Any = None
    index: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None


_fields = msgspec.json.Decoder(_Fields)
_prompt: msgspec.json.Decoder[Prompt] = msgspec.json.Decoder(Prompt)
_chunk = msgspec.json.Decoder(_Chunk)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionsRequest:
    """A request to complete some prompts; `n` answers are generated in all.

    `chat` is the same as a chat, or why it is none.
    """

    body: Body
    model: str
    stream: bool
    wants_usage: bool
    max_output_tokens: int | None
    n: int
    input_tokens: int
    token_bound: int
    text: str | None
    unbounded: str | None
    chat: chat.ChatRequest | Unsupported
    lost: tuple[str, ...]
    service_tier: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    withheld: Change = field(default_factory=dict)

    endpoint: Endpoint = "completions"
    capability: Capability = "chat"
    needs: frozenset[Capability] = frozenset({"chat"})
    images: int = 0
    units: Units = NO_UNITS

    @property
    def reasons(self) -> bool:
        """Whether the chat asks for reasoning."""
        return not isinstance(self.chat, Unsupported) and self.chat.reasons

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """What a text has no use for may ask a chat for something: tools, for one."""
        if self.endpoint in speaks or isinstance(self.chat, Unsupported):
            return self.unbounded
        return self.chat.unbounded

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, whichever way it is sent."""
        if isinstance(self.chat, Unsupported):
            return self.token_bound
        return max(self.token_bound, self.chat.input_bound(image_tokens))

    def texts(self) -> tuple[list[str], int]:
        """The prompt, where it is one text."""
        return ([], 0) if self.text is None else ([self.text], len(self.text.encode()))

    def prompt(self) -> Excerpts:
        """The prompt, where it is one text."""
        text = chat.excerpt(self.text or "")
        return Excerpts(text=text, opening=text)

    def preferences(self) -> None:
        """None: OpenRouter has them for chats."""

    def upstream(self, target: Upstream) -> Sent:
        """As it is where the target completes texts, otherwise as a chat."""
        if self.endpoint in target.speaks:
            return self._as_itself(target)
        if isinstance(self.chat, Unsupported):
            raise self.chat
        if self.lost and not target.drop_params:
            name = self.lost[0]
            raise Unsupported(f"{name!r} cannot be carried over a chat", param=name)
        clamp = self.max_output_tokens if target.clamp is None else target.clamp
        sent = self.chat.upstream(msgspec.structs.replace(target, clamp=clamp))
        return msgspec.structs.replace(sent, dropped=(*self.lost, *sent.dropped))

    def _as_itself(self, target: Upstream) -> Sent:
        changes: dict[str, bytes | None] = {
            "model": msgspec.json.encode(target.model),
            **self.withheld,
            **self.body.lacking(target.defaults),
        }
        if target.clamp is not None:
            changes["max_tokens"] = b"%d" % target.clamp
        elif target.default_max is not None and self.max_output_tokens is None:
            changes["max_tokens"] = b"%d" % target.default_max
        if not target.ask_usage:
            changes["stream_options"] = None
        elif self.stream and not self.wants_usage:
            asked = self.body.decode(_fields).stream_options or {}
            changes["stream_options"] = msgspec.json.encode({**asked, "include_usage": True})
        return Sent(endpoint="completions", body=self.body.join(changes))

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The completion, by its provider or made of a chat's answer."""
        if sent == "completions":
            return _read(body, reads_cost=reads_cost), Whole(body=body)
        facts = answers.read_chat(body, reads_cost=reads_cost)
        try:
            return facts, Whole(body=_of_chat(body, identity))
        except MalformedAnswer:
            return facts, None

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """The events of a completion, by its provider or made of a chat's."""
        if sent == "completions":
            return TextStream(
                wants_usage=self.wants_usage, identity=identity, reads_cost=reads_cost
            )
        writer = Writer(identity, wants_usage=self.wants_usage)
        return chunks.Stream(
            wants_usage=True, identity=identity, reads_cost=reads_cost, writer=writer
        )


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> CompletionsRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    prompt = _read_prompt(fields.prompt)
    prompts, tokens = _measure(prompt)
    named, withheld = read_tags(body)
    rest = len(raw) - len(memoryview(fields.prompt))
    options = fields.stream_options or {}
    unbounded = (n for n in _UNBOUNDED if not _says_nothing(body.members.get(n)))
    return CompletionsRequest(
        body=body,
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bytes(options.get("include_usage", b"")) == b"true",
        max_output_tokens=fields.max_tokens,
        n=prompts * max(fields.n or 1, fields.best_of or 1),
        input_tokens=tokens // (wire_usage.BYTES_PER_TOKEN if isinstance(prompt, str) else 1),
        # What stands beside the prompts may be a suffix, or a text that they must match.
        token_bound=tokens + rest + _PROMPT_TOKENS * prompts,
        text=prompt if isinstance(prompt, str) else None,
        unbounded=next(unbounded, None),
        chat=_as_chat(body, prompt, withheld),
        lost=_lost(body, fields),
        service_tier=fields.service_tier,
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


def _read_prompt(raw: msgspec.Raw) -> Prompt:
    try:
        return _prompt.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        raise InvalidRequest(
            "'prompt' must be a string, a list of strings, a list of token ids, "
            "or a list of lists of token ids",
            param="prompt",
        ) from None


def _measure(prompt: Prompt) -> tuple[int, int]:
    """How many prompts there are, and how many tokens they have at most."""
    if prompt is None:
        return 1, 0
    if isinstance(prompt, str):
        return 1, len(prompt.encode())
    if not prompt:
        raise InvalidRequest("'prompt' must not be empty", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return 1, len(prompt)
    return len(prompt), sum(_size(item) for item in prompt)


def _size(item: object) -> int:
    if isinstance(item, str):
        return len(item.encode())
    return len(item) if isinstance(item, list) else 1


def _as_chat(body: Body, prompt: Prompt, withheld: Change) -> chat.ChatRequest | Unsupported:
    """The prompt as what a user says; only a single text can be that."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        return Unsupported("only a single text can be completed by a chat", param="prompt")
    clean = _members.decode(body.text)
    members = {name: value for name, value in clean.items() if name not in _NOT_CHAT}
    # A maximum of 0 tokens is for prompts that are only to be measured.
    if bytes(members.get("max_tokens", b"")) == b"0":
        return Unsupported("a chat generates at least one token", param="max_tokens")
    messages = [{"role": "user", "content": prompt}]
    changes = {"messages": msgspec.json.encode(messages), "stream_options": None, **withheld}
    return chat.parse(Body(body.text, members).join(changes))


def _lost(body: Body, fields: _Fields) -> tuple[str, ...]:
    """What is asked for that no chat has."""
    asked = [name for name in _LOST if not _says_nothing(body.members.get(name))]
    if (fields.best_of or 1) <= (fields.n or 1) and "best_of" in asked:
        asked.remove("best_of")
    return tuple(asked)


def _says_nothing(value: msgspec.Raw | None) -> bool:
    return value is None or bytes(value) in _SAYS_NOTHING


def _read(body: bytes, *, reads_cost: bool) -> Facts:
    """What a completion says; raises `MalformedAnswer`, or `UpstreamError` for an error in it."""
    said = _decoded(body)
    if not said.choices:
        raise MalformedAnswer("the provider's answer has no choices")
    return Facts(
        usage=wire_usage.reported(said.usage),
        output_bytes=sum(len(choice.text.encode()) for choice in said.choices),
        service_tier=wire_usage.service_tier(said.service_tier, said.usage),
        cost=wire_usage.reported_cost(body) if reads_cost else None,
    )


def _decoded(payload: bytes) -> _Chunk:
    try:
        if not payload.isascii():
            payload.decode()  # what is skipped over is not checked by the decoder
        try:
            said = _chunk.decode(payload)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            said = _chunk.decode(without_lone(payload))
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
    if said.error:
        raise failures.reported(said.error)
    return said


def _of_chat(body: bytes, identity: Identity) -> bytes:
    """A chat's answer as a completion."""
    writer = Writer(identity, wants_usage=True)
    stream = chunks.Stream(wants_usage=True, identity=identity, writer=writer)
    try:
        stream.feed(answers.as_chunk(body))
    except AdapterError:
        raise MalformedAnswer("the provider's answer is no chat completion") from None
    return writer.whole(stream.usage)


class Writer:
    """A canonical chat stream as the chunks of a completion, which have no place for thoughts."""

    def __init__(self, identity: Identity, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._head: Chunk = {
            "id": f"cmpl-{identity.request_id}",
            "object": "text_completion",
            "created": identity.created,
            "model": identity.model,
        }
        self._choices: list[Chunk] = []

    def write(self, chunk: Chunk) -> bytes:
        """The event for a canonical chunk, if it says something."""
        self._head["model"] = chunk["model"]
        choices = [choice for choice in map(_as_text, chunk["choices"]) if choice is not None]
        if not choices:
            return b""
        self._choices = choices
        said = {**self._head, "choices": choices}
        if "tollway" in chunk:
            said["tollway"] = chunk["tollway"]
        return chunks.event(encode(said))

    def steady(self, chunk: Chunk) -> Callable[[bytes], bytes] | None:
        """What writes further texts."""
        choice = chunk["choices"][0]
        if not choice["delta"].get("content") and not choice["delta"].get("refusal"):
            return lambda text: b""
        rest = {"index": choice["index"], "logprobs": None, "finish_reason": None}
        head = encode({**self._head, "choices": [rest]}).removesuffix(b"}]}")

        def write(text: bytes) -> bytes:
            return b'data: %b,"text":"%b"}]}\n\n' % (head, text)

        return write

    def end(self, usage: Usage | None) -> bytes:
        """Usage if it was asked for, and the end mark."""
        if not self._wants_usage or usage is None:
            return chunks.DONE
        said = {**self._head, "choices": [], "usage": wire_usage.shown(usage)}
        return chunks.event(msgspec.json.encode(said)) + chunks.DONE

    def fail(self, error: ApiError) -> bytes:
        """The event that ends a stream which broke."""
        return chunks.event(error.body())

    def whole(self, usage: Usage | None) -> bytes:
        """The last chunk written as an answer in one piece."""
        said = {**self._head, "choices": self._choices}
        return encode(said if usage is None else {**said, "usage": wire_usage.shown(usage)})


def _as_text(choice: Chunk) -> Chunk | None:
    delta = choice["delta"]
    text = delta.get("content") or delta.get("refusal") or ""
    finish = choice["finish_reason"]
    if not text and not finish:
        return None
    finish = finish if finish in (None, "length", "content_filter") else "stop"
    index = choice["index"]
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


class TextStream:
    """A provider's stream of completion chunks: see `proxy.wire.dialect.Stream`."""

    def __init__(self, *, wants_usage: bool, identity: Identity, reads_cost: bool) -> None:
        self._wants_usage = wants_usage
        self._identity = identity
        self._reads_cost = reads_cost
        self._writer = Writer(identity, wants_usage=wants_usage)
        self._finished: dict[int, bool] = {}
        self._usage_event = b""
        self.usage: Usage | None = None
        self.cost: wire_usage.ReportedCost | None = None
        self.service_tier: str | None = None
        self.output_bytes = 0
        self.output_events = 0
        self.has_payload = False

    @property
    def is_finished(self) -> bool:
        """Every choice that began has its finish reason, and there is one."""
        return bool(self._finished) and all(self._finished.values())

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """What the client gets for some payloads, and the failure that cut them short, if any."""
        events: list[bytes] = []
        try:
            for payload in payloads:
                events.append(self._feed(payload))
        except AdapterError as error:
            return b"".join(events), error
        return b"".join(events), None

    def end(self) -> bytes:
        """Usage if it was asked for, and the end mark."""
        return self._usage_event + chunks.DONE

    def cap(self, reason: dict[str, Any], usage: Usage) -> bytes:
        """The last events of a stream that a budget cut: each choice that is open ends."""
        still_open = [index for index, done in self._finished.items() if not done] or [0]
        choices = [{"index": i, "delta": {}, "finish_reason": "length"} for i in still_open]
        chunk = {"model": self._identity.model, "choices": choices, "tollway": reason}
        return self._writer.write(chunk) + self._writer.end(usage)

    def fail(self, error: ApiError) -> bytes:
        """The event that ends a stream which broke."""
        return self._writer.fail(error)

    def _feed(self, payload: bytes) -> bytes:
        said = _decoded(payload)
        for choice in said.choices or ():
            self._finished[choice.index] = bool(
                choice.finish_reason or self._finished.get(choice.index)
            )
            if choice.text:
                self.output_events += 1
                self.output_bytes += len(choice.text.encode())
            self.has_payload |= bool(choice.text or choice.finish_reason)
        self.service_tier = (
            wire_usage.service_tier(said.service_tier, said.usage) or self.service_tier
        )
        if said.usage is None:
            return chunks.event(_one_line(payload)) if said.choices else b""
        return self._take_usage(payload, said)

    def _take_usage(self, payload: bytes, said: _Chunk) -> bytes:
        """Keep the usage, wherever it comes, for one event of its own at the end."""
        self.usage = wire_usage.reported(said.usage)
        if self._reads_cost:
            self.cost = wire_usage.reported_cost(payload) or self.cost
        members = _members.decode(without_lone(payload))
        if self._wants_usage:
            whole = {**members, "choices": msgspec.Raw(b"[]")}
            self._usage_event = chunks.event(msgspec.json.encode(whole))
        if not said.choices:
            return b""
        del members["usage"]
        return chunks.event(msgspec.json.encode(members))


def _one_line(payload: bytes) -> bytes:
    """A payload that may have come in several lines."""
    if b"\n" not in payload and b"\r" not in payload:
        return payload
    return msgspec.json.encode(_members.decode(without_lone(payload)))
