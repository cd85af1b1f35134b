"""`POST /v1/chat/completions`: the fields that routing and money need, and no others.

Field names and ranges: OpenAI's API reference, "Create chat completion".
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Annotated

import msgspec

from adapters.base import Endpoint
from policies.base import Capability, Prompt
from proxy.errors import InvalidRequest
from proxy.pricing import NO_UNITS, Units
from proxy.wire import answers, chunks, preferences, repairs
from proxy.wire import body as wire_body
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole
from proxy.wire.preferences import Preferences
from proxy.wire.prefilling import prefilled
from proxy.wire.tags import Change
from proxy.wire.tags import read as read_tags

MAX_OUTPUT_TOKENS = 10_000_000

# What a chat template may add around the text that a client sent: role markers for each message,
# and once a request a system prompt of its own (gpt-oss: about 100 tokens) or instructions for
# the use of tools (Claude: up to 800).
MESSAGE_TOKENS = 16
PROMPT_TOKENS = 256
TOOL_PROMPT_TOKENS = 1024
# Templates print tools, schemas and arguments anew, indented and escaped: three tokens to the
# byte cover a list of digits with a line for each, and text as `\uXXXX`.
PRINTED_TOKENS_PER_BYTE = 3

EXCERPT_CHARACTERS = 1000
"""Of either end of a message, for policies that read prompts."""
_INSTRUCTING = frozenset({"system", "developer"})

# A data URL says what it is of within so many bytes.
_LONGEST_URL_HEAD = 64
_IMAGE_URL = b'"data:image/'

_TEXT_PARTS = frozenset({"text", "refusal", "thinking"})
_FUNCTION_TOOLS = frozenset({"function", "custom"})
_BOUNDED_MODALITIES = frozenset({"text", "audio"})
# Parameters whose cost no length of the request bounds: searches and documents that are fetched
# and billed, predicted text that is billed as output though it was refused, other models.
UNBOUNDED = (
    "web_search_options",  # OpenAI
    "prediction",
    "search_parameters",  # xAI
    "enable_search",  # Qwen
    "plugins",  # OpenRouter
    "data_sources",  # Azure
    "compound_custom",  # Groq
    "image_config",  # images that are drawn, whatever the maximum of tokens
    "additionalModelRequestFields",  # Amazon's: any parameter of the model's own
    "guardrailConfig",
    "performanceConfig",
    "speed",  # Anthropic's fast mode, at several times the price
    "cached_content",  # Google's stored prompts, here and in what its other parameters are in
    "google",
    "extra_body",
    "models",  # OpenRouter; the last: where it is the only one, it may be heeded here
)

# What asks for reasoning: OpenAI's, OpenRouter's, Anthropic's.
_REASONING = ("reasoning_effort", "reasoning", "thinking")

_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_TOKENS)]
_ABSENT = msgspec.Raw(b"null")
_NOTHING = (b"null", b"false", b"[]")  # but `web_search_options: {}` is a search


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT
    audio: msgspec.Raw = _ABSENT
    images: msgspec.Raw = _ABSENT


class _Part(msgspec.Struct):
    type: str = ""
    image_url: msgspec.Raw = _ABSENT
    input_audio: msgspec.Raw = _ABSENT
    file: msgspec.Raw = _ABSENT


class _Url(msgspec.Struct):
    url: msgspec.Raw = _ABSENT


class _Tool(msgspec.Struct):
    type: str = "function"


class _Function(msgspec.Struct):
    name: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    tools: list[_Tool] | None = None
    functions: list[_Function] | None = None
    response_format: _ResponseFormat | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    service_tier: str | None = None
    user: str | None = None


# What every request may have. Whatever else is read may ask for more than an answer to text.
_ASKING_NO_MORE = {"model", "messages", "stream", "stream_options", "service_tier", "user"}
_ASKING_NO_MORE |= {"max_tokens", "max_completion_tokens"}
_ASKING_MORE = frozenset(
    {*_Fields.__struct_fields__, "context_management", *UNBOUNDED, *_REASONING} - _ASKING_NO_MORE
)


class _Said(msgspec.Struct):
    content: msgspec.Raw = _ABSENT


class _Texts(msgspec.Struct):
    messages: list[_Said]


class _Turn(msgspec.Struct):
    role: str
    content: msgspec.Raw = _ABSENT


class _Turns(msgspec.Struct):
    messages: list[_Turn]


class _TextPart(msgspec.Struct):
    text: msgspec.Raw = _ABSENT


_fields = msgspec.json.Decoder(_Fields)
_texts = msgspec.json.Decoder(_Texts)
_turns = msgspec.json.Decoder(_Turns)
_text_parts = msgspec.json.Decoder(list[_TextPart])
_parts = msgspec.json.Decoder(list[_Part])
_url = msgspec.json.Decoder(_Url)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A chat request: its body, and what we had to know of it.

    `text_bytes` is the size of the body without images and other media, `media` counts those, of
    which `images` are images, and `added_tokens` bounds what a template adds to the text.
    `unbounded` names the parameter, if any, whose cost has no upper bound that we could hold;
    whether the `service_tier` has one depends on the target's price.
    """

    body: Body
    model: str
    stream: bool
    wants_usage: bool
    needs: frozenset[Capability]
    text_bytes: int
    added_tokens: int
    media: int
    max_output_tokens: int | None
    n: int
    unbounded: str | None
    images: int = 0
    reasons: bool = False
    service_tier: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    withheld: Change = msgspec.field(default_factory=dict)
    """Members that are ours, and what is left of them for the provider."""
    begun: str = ""
    """The answer so far, which a target is to go on with."""

    endpoint: Endpoint = "chat"
    capability: Capability = "chat"
    units: Units = NO_UNITS

    @property
    def input_tokens(self) -> int:
        """Routing's estimate of the input: a quarter of the bytes. Never used for money."""
        return self.text_bytes // 4

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """The same at every target."""
        return self.unbounded

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, where one image is at most `image_tokens`.

        A token is at least one byte of text, and JSON is never shorter than the text it holds.
        """
        return self.text_bytes + self.added_tokens + self.media * image_tokens

    def preferences(self) -> tuple[Preferences, ChatRequest] | None:
        """How its body says that it wants to be routed, and the request without that."""
        if not preferences.are_in(self.body):
            return None
        unbounded = None if self.unbounded == "models" else self.unbounded
        withheld = {**self.withheld, **dict.fromkeys(preferences.MEMBERS)}
        request = msgspec.structs.replace(self, unbounded=unbounded, withheld=withheld)
        return preferences.read(self.body), request

    def texts(self) -> tuple[list[str], int]:
        """The texts of the messages, and how many of `text_bytes` they take.

        Where they are counted, their tokens can stand for those bytes in the bound.
        """
        texts: list[str] = []
        size = 0
        for message in self.body.decode(_texts).messages:
            for raw in _raw_texts(message.content):
                if memoryview(raw)[0] == ord('"'):
                    texts.append(msgspec.json.decode(raw, type=str))
                    size += len(memoryview(raw))
        return texts, size

    def prompt(self) -> Prompt:
        """The first and the last thing that the user says, and the instructions, cut short."""
        messages = self.body.decode(_turns).messages
        said = [message.content for message in messages if message.role == "user"]
        told = [message.content for message in messages if message.role in _INSTRUCTING]
        text = _excerpt(said[-1]) if said else ""
        return Prompt(
            text=text,
            opening=_excerpt(said[0]) if len(said) > 1 else text,
            system=_excerpt(told[0]) if told else "",
            turns=len(messages),
        )

    def upstream(self, target: Upstream) -> Sent:
        """The client's members with `model` and what money needs changed."""
        model = msgspec.json.encode(target.model)
        changes: dict[str, bytes | None] = {"model": model, **self.withheld}
        if target.defaults:
            changes |= self.body.lacking(target.defaults)
        if self.begun:
            changes |= prefilled(self.body, self.begun, target.prefill)
        field = target.max_tokens_field
        if target.clamp is not None:
            changes["max_tokens"] = changes["max_completion_tokens"] = None
            changes[field] = b"%d" % target.clamp
        elif target.default_max is not None and not self._sets_maximum(field):
            changes[field] = b"%d" % (self.max_output_tokens or target.default_max)
        if not target.ask_usage:
            changes["stream_options"] = None
        elif self.stream and not self.wants_usage:
            changes["stream_options"] = self._stream_options()
        return Sent(endpoint="chat", body=self.body.join(changes))

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer as it came, or put right."""
        facts = answers.read_chat(body, reads_cost=reads_cost)
        whole = repairs.repaired(body, identity)
        return facts, None if whole is None else Whole(body=whole)

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """The canonical stream."""
        return chunks.Stream(wants_usage=self.wants_usage, identity=identity, reads_cost=reads_cost)

    def _sets_maximum(self, field: str) -> bool:
        """Whether the request has a maximum that a provider which knows `field` obeys.

        `max_tokens` is the older of the two fields: who knows the newer knows it too, and refuses
        a request with both. Who does not know the newer ignores it.
        """
        get = self.body.members.get
        older = bytes(get("max_tokens", _ABSENT))
        return older != b"null" or bytes(get(field, _ABSENT)) != b"null"

    def _stream_options(self) -> bytes:
        asked = self.body.members.get("stream_options")
        if asked is None:
            return b'{"include_usage":true}'
        options = _options.decode(asked)
        return msgspec.json.encode({**(options or {}), "include_usage": True})


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> ChatRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    messages = fields.messages
    content = _scanned(messages)
    if content.is_text and _ASKING_MORE.isdisjoint(body.members):
        extras = _NO_EXTRAS
    else:
        extras = _extras(body, fields, content)
    named, withheld = read_tags(body)
    return ChatRequest(
        body=body,
        model=fields.model,
        stream=bool(fields.stream),
        wants_usage=bool(fields.stream_options and fields.stream_options.include_usage),
        needs=extras.needs,
        text_bytes=len(raw) - content.media_bytes,
        added_tokens=PROMPT_TOKENS + MESSAGE_TOKENS * len(messages) + extras.added_tokens,
        media=content.media,
        # Which of the two a provider obeys is its own affair: the larger one is held.
        max_output_tokens=max(fields.max_tokens or 0, fields.max_completion_tokens or 0) or None,
        n=fields.n or 1,
        unbounded=extras.unbounded,
        images=content.images,
        reasons=extras.reasons,
        service_tier=fields.service_tier,
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


class _Content(msgspec.Struct):
    """What the messages hold besides text; `is_text` where no message had to be looked into."""

    is_text: bool = True
    media: int = 0
    images: int = 0
    media_bytes: int = 0
    printed_bytes: int = 0
    kinds: set[Capability] = msgspec.field(default_factory=set)
    unbounded: str | None = None

    def scan(self, message: _Message, path: str) -> None:
        self.is_text = False
        self.printed_bytes += _size(message.tool_calls)
        if not _is_nothing(message.audio):  # an earlier answer, by its id
            self.unbounded = f"{path}.audio"
        if not _is_nothing(message.images):
            self.unbounded = f"{path}.images"
        match memoryview(message.content)[0]:
            case 0x5B:  # [
                self._scan_parts(message.content, f"{path}.content")
            case 0x22 | 0x6E:  # a string, null
                return
            case _:
                raise InvalidRequest(
                    f"invalid value for '{path}.content': expected a string or a list of parts",
                    param=f"{path}.content",
                )

    def _scan_parts(self, content: msgspec.Raw, path: str) -> None:
        try:
            parts = _parts.decode(content)
        except msgspec.ValidationError as error:
            raise wire_body.invalid(error, path) from None
        for index, part in enumerate(parts):
            self._scan_part(part, f"{path}[{index}]")

    def _scan_part(self, part: _Part, path: str) -> None:
        """Count a part; what it is is also told by what it holds, as some servers read it."""
        is_image = part.type == "image_url"
        if is_image or not _is_nothing(part.image_url):
            self.kinds.add("vision")
            self.media += 1
            self.images += 1
            self.media_bytes += _size(part.image_url)
            if not _may_be_image(part.image_url):
                self.unbounded = f"{path}.image_url"
        if part.type == "input_audio" or not _is_nothing(part.input_audio):
            self._hold_unbounded("audio", part.input_audio, f"{path}.input_audio")
        elif part.type == "file" or not _is_nothing(part.file):
            self._hold_unbounded("files", part.file, f"{path}.file")
        elif not is_image and part.type not in _TEXT_PARTS:
            self.unbounded = f"{path}.type"

    def _hold_unbounded(self, kind: Capability, payload: msgspec.Raw, path: str) -> None:
        """Seconds of sound and looks of pages are billed, and no number of bytes bounds them."""
        self.kinds.add(kind)
        self.media += 1
        self.media_bytes += _size(payload)
        self.unbounded = path


def _scanned(messages: list[_Message]) -> _Content:
    content = _Content()
    for index, message in enumerate(messages):
        # Nearly every message is a string alone, in which `scan` would find nothing.
        has_more = not (message.tool_calls is message.audio is message.images is _ABSENT)
        if has_more or memoryview(message.content)[0] != 0x22:
            content.scan(message, f"messages[{index}]")
    return content


_PLAIN: frozenset[Capability] = frozenset({"chat"})


class _Extras(msgspec.Struct):
    """What a request asks for besides an answer to text, and what that adds to its bounds."""

    needs: frozenset[Capability] = _PLAIN
    added_tokens: int = 0
    unbounded: str | None = None
    reasons: bool = False


_NO_EXTRAS = _Extras()


def _extras(body: Body, fields: _Fields, content: _Content) -> _Extras:
    return _Extras(
        needs=_needs(fields, content),
        added_tokens=_added_tokens(body, fields, content),
        unbounded=content.unbounded or _unbounded(body, fields),
        reasons=_first_asked(body, _REASONING) is not None,
    )


def _added_tokens(body: Body, fields: _Fields, content: _Content) -> int:
    """What a template adds for tools, and what it may print longer than it was sent."""
    tokens = 0
    printed = content.printed_bytes + _size(body.members.get("response_format", _ABSENT))
    if fields.tools or fields.functions:
        tokens += TOOL_PROMPT_TOKENS
        printed += sum(_size(body.members.get(name, _ABSENT)) for name in ("tools", "functions"))
    return tokens + (PRINTED_TOKENS_PER_BYTE - 1) * printed


def _needs(fields: _Fields, content: _Content) -> frozenset[Capability]:
    needs = content.kinds
    if fields.tools or fields.functions:
        needs.add("tools")
    if fields.modalities and "audio" in fields.modalities:
        needs.add("audio")
    if fields.response_format and fields.response_format.type == "json_schema":
        needs.add("json_schema")
    if fields.logprobs:
        needs.add("logprobs")
    if fields.n is not None and fields.n > 1:
        needs.add("n")
    return _PLAIN | needs if needs else _PLAIN


def _unbounded(body: Body, fields: _Fields) -> str | None:
    for index, tool in enumerate(fields.tools or ()):
        if tool.type not in _FUNCTION_TOOLS:
            return f"tools[{index}].type"
    if not _BOUNDED_MODALITIES.issuperset(fields.modalities or ()):
        return "modalities"
    if may_compact(body.members.get("context_management", _ABSENT)):
        return "context_management"
    return _first_asked(body, UNBOUNDED)


def _first_asked(body: Body, names: tuple[str, ...]) -> str | None:
    """The first of these parameters that a body asks for something with."""
    if body.members.keys().isdisjoint(names):  # nearly always, and at once
        return None
    return next((n for n in names if not _is_nothing(body.members.get(n, _ABSENT))), None)


def may_compact(raw: msgspec.Raw) -> bool:
    """Whether Anthropic may write a summary besides, which is billed and has no maximum."""
    given = bytes(raw)
    return b"compact" in given or b"\\" in given


def _may_be_image(raw: msgspec.Raw) -> bool:
    """Whether it costs no more than an image: some providers take books by data URLs as well."""
    try:
        url = raw if memoryview(raw)[0] == ord('"') else _url.decode(raw).url
    except msgspec.ValidationError:
        return raw is _ABSENT or _is_nothing(raw)
    head = bytes(memoryview(url)[:_LONGEST_URL_HEAD]).replace(b"\\/", b"/").lower()
    return b"\\" not in head and (not head.startswith(b'"data:') or head.startswith(_IMAGE_URL))


def _raw_texts(content: msgspec.Raw) -> list[msgspec.Raw]:
    if memoryview(content)[0] == ord("["):
        return [part.text for part in _text_parts.decode(content)]
    return [content]


def _excerpt(content: msgspec.Raw) -> str:
    """A message's text parts one after the other, of which the middle is left out if need be."""
    if memoryview(content)[0] not in b'["':
        return ""
    parts = (raw for raw in _raw_texts(content) if memoryview(raw)[0] == ord('"'))
    return excerpt("\n".join(msgspec.json.decode(raw, type=str) for raw in parts))


def excerpt(text: str) -> str:
    """Both ends of a text, and what is between if that is not much."""
    if len(text) <= 2 * EXCERPT_CHARACTERS:
        return text
    return f"{text[:EXCERPT_CHARACTERS]}\n{text[-EXCERPT_CHARACTERS:]}"


def _size(raw: msgspec.Raw) -> int:
    return 0 if raw is _ABSENT else len(memoryview(raw))


def _is_nothing(raw: msgspec.Raw) -> bool:
    return raw is _ABSENT or (len(memoryview(raw)) <= 5 and bytes(raw) in _NOTHING)
