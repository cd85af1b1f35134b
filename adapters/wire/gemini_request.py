"""An OpenAI request -> Gemini's `generateContent` or `batchEmbedContents`: JSON to JSON alone.

Vertex AI takes the same, at other URLs. Source: Google's "Gemini API reference" (generateContent,
Caching: Content, Part, Schema; Embeddings), and its guides "Gemini thinking", "Thought signatures",
"Function calling", "Structured outputs", "File input methods" and "OpenAI compatibility".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from adapters.base import Call, Unsupported
from adapters.wire import chat_request, loose_json
from adapters.wire.chat_request import (
    ChatRequest,
    Effort,
    Message,
    Part,
    ToolCall,
    data_url,
)
from adapters.wire.losses import Losses, invalid

Json = dict[str, Any]

SIGNATURE_FORMAT = "google-gemini-v1"
"""What OpenRouter calls the thought signatures of Gemini among `reasoning_details`."""

# Google's word for a call whose signature is not to be had: another model made it.
_NO_SIGNATURE = "skip_thought_signature_validator"
_LEADING_ROLES = frozenset({"system", "developer"})
_MOST_SEED = 2**31

# Members that are carried, each where `_Request` says; anything else is refused.
_CARRIED = frozenset(
    {
        *("messages", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"),
        *("response_format", "max_tokens", "max_completion_tokens", "n", "stop", "temperature"),
        *("top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "logprobs"),
        *("top_logprobs", "reasoning_effort", "reasoning", "include_reasoning", "modalities"),
        *("audio", "service_tier", "google", "extra_body", "cached_content", "safety_settings"),
        *("thinking_config", "image_config", "speech_config", "media_resolution"),
    }
)
# Tools that Gemini has itself, by the type under which they may stand among `tools`.
_OWN_TOOLS = {
    "google_search": "googleSearch",
    "url_context": "urlContext",
    "code_execution": "codeExecution",
    "google_maps": "googleMaps",
}
_TIERS = frozenset({"flex", "priority", "standard"})
# "OpenAI compatibility", the table of `reasoning_effort`.
_BUDGETS: Mapping[Effort, int] = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
    "max": 24576,
}
_MODALITIES = frozenset({"text", "image", "audio"})

# Names that tell nothing are those of the newest models.
_older = re.compile(r"(?:^|/)(?:gemini-[12][.-]|gemma-|learnlm-)").search
_thinks_by_budget = re.compile(r"(?:^|/)gemini-2\.5-").search
_always_thinks = re.compile(r"(?:^|/)gemini-2\.5-pro").search
_film = re.compile(r"https://(?:[\w-]+\.)?(?:youtube\.com|youtu\.be)/", re.IGNORECASE).match
_own_file = re.compile(r"https://generativelanguage\.googleapis\.com/", re.IGNORECASE).match
_upper = re.compile(r"_([a-z])").sub


class _Google(msgspec.Struct, forbid_unknown_fields=True):
    """Google's own members, which its "OpenAI compatibility" has in `extra_body.google`."""

    cached_content: str | None = None
    safety_settings: list[Json] | None = None
    thinking_config: Json | None = None
    image_config: Json | None = None
    speech_config: Json | None = None
    media_resolution: str | None = None


class _ExtraBody(msgspec.Struct, forbid_unknown_fields=True):
    google: _Google | None = None


class _Extras(_Google, forbid_unknown_fields=False):
    google: _Google | None = None
    extra_body: _ExtraBody | None = None


_extras = msgspec.json.Decoder(_Extras)


@dataclass(frozen=True, slots=True)
class Translated:
    """A request in Gemini's dialect, and what it could not say."""

    body: bytes
    dropped: Sequence[str]


@chat_request.bounded
def to_generate(call: Call, *, on_vertex: bool = False) -> Translated:
    """The body of `generateContent` for a chat request.

    Vertex AI takes no ids of function calls, and no service tier in the body. Raises
    `Unsupported` and `BadRequest`.
    """
    losses = chat_request.without_others(call, _CARRIED, "Gemini")
    asked = chat_request.read(call.body)
    extras = _extras_of(chat_request.decode(_extras, call.body))
    body: Json = _Conversation(call.model, losses, has_ids=not on_vertex).body(asked.messages)
    body |= _tools(asked, losses)
    if config := _generation_config(asked, call.model, extras, losses):
        body["generationConfig"] = config
    if extras.safety_settings:
        body["safetySettings"] = [_camel(setting) for setting in extras.safety_settings]
    if extras.cached_content:
        body["cachedContent"] = extras.cached_content
    if asked.service_tier not in (None, "auto", "default"):
        if asked.service_tier in _TIERS and not on_vertex:
            body["serviceTier"] = asked.service_tier
        else:
            losses.refuse("service_tier", "Gemini has no such service tier")
    return Translated(loose_json.encode(body), tuple(losses.dropped))


def _extras_of(given: _Extras) -> _Google:
    """The members wherever they stand: at the top, in `google`, in `extra_body.google`."""
    inner = given.extra_body.google if given.extra_body else None
    found = _Google()
    for source in (given, given.google, inner):
        for name in _Google.__struct_fields__:
            value = getattr(source, name, None)
            if value is not None:
                setattr(found, name, value)
    return found


def _camel(members: Json) -> Json:
    """Google's members as its JSON spells them: clients write `thinking_budget` too."""
    return {
        _upper(lambda found: found[1].upper(), name): _camel(v) if isinstance(v, dict) else v
        for name, v in members.items()
    }


# --- messages -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """A `Content` under way; `kind` keeps the results of functions apart from what users say.

    `order` has the place of the call that each part is a result of.
    """

    kind: Literal["user", "model", "results"]
    parts: list[Json] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def content(self) -> Json:
        """Results in the order of their calls: by that they are told apart without ids."""
        if self.kind == "results":
            places = sorted(range(len(self.parts)), key=self.order.__getitem__)
            return {"role": "user", "parts": [self.parts[place] for place in places]}
        return {"role": self.kind, "parts": self.parts}


class _Conversation:
    """Messages -> `contents` and `systemInstruction`."""

    def __init__(self, model: str, losses: Losses, *, has_ids: bool) -> None:
        self._is_older = _older(model) is not None
        self._losses = losses
        self._has_ids = has_ids
        self._system: list[Json] = []
        self._turns: list[_Turn] = []
        self._names: dict[str, str] = {}  # of the functions, by the ids of their calls
        self._order: dict[str, int] = {}  # of the calls, by their ids

    def body(self, messages: Iterable[Message]) -> Json:
        for place, message in enumerate(messages):
            self._add(message, f"messages[{place}]")
        turns = [turn for turn in self._turns if turn.parts]
        if not (turns or self._system):
            raise invalid("messages", "there is nothing in them to answer")
        if not turns:  # a request needs something to answer
            turns, self._system = [_Turn("user", self._system)], []
        body: Json = {"contents": [turn.content() for turn in turns]}
        if self._system:
            body["systemInstruction"] = {"parts": self._system}
        return body

    def _add(self, message: Message, path: str) -> None:
        role = message.role
        if message.name and role not in ("tool", "function"):
            self._losses.tell("messages[].name")
        if role in _LEADING_ROLES:
            if self._turns:
                self._losses.tell(f"{path}.role")  # it is told as if it had come first
            self._system += self._texts(message, path)
        elif role == "user":
            self._turn("user").parts += self._parts(message, path)
        elif role == "assistant":
            self._add_answer(message, path)
        elif role in ("tool", "function"):
            self._add_result(message, path)
        else:
            raise invalid(f"{path}.role", f"{role[:100]!r} is no role")

    def _turn(self, kind: Literal["user", "model", "results"]) -> _Turn:
        if not self._turns or self._turns[-1].kind != kind:
            self._turns.append(_Turn(kind))
        return self._turns[-1]

    def _texts(self, message: Message, path: str) -> list[Json]:
        texts = []
        for place, part in enumerate(message.parts()):
            if part.type == "text":
                texts += [{"text": part.text}] if part.text else []
            else:
                self._losses.refuse(
                    f"{path}.content[{place}]", "Gemini's instructions are text alone"
                )
        return texts

    def _parts(self, message: Message, path: str) -> list[Json]:
        found = []
        for place, part in enumerate(message.parts()):
            where = f"{path}.content[{place}]"
            made = self._part(part)
            if made is None:
                self._losses.refuse(where, _why_not(part))
            elif made.get("text") != "":  # which Vertex AI refuses
                found.append(made)
        return found

    def _part(self, part: Part) -> Json | None:
        if part.type in ("text", "refusal"):
            return {"text": (part.text if part.type == "text" else part.refusal) or ""}
        if part.type in ("image_url", "video_url"):
            if part.detail() not in (None, "auto"):
                self._losses.tell("messages[].content[].image_url.detail")
            made = None if (url := part.url()) is None else _media(url)
            return made if part.type == "video_url" or made is None else _as_image(made)
        if part.type == "input_audio" and part.input_audio is not None:
            kind = f"audio/{part.input_audio.format}"
            return {"inlineData": {"mimeType": kind, "data": part.input_audio.data}}
        if part.type == "file" and part.file is not None:
            url = part.file.file_data or part.file.file_id
            return None if url is None else _media(url)
        return None

    def _add_answer(self, message: Message, path: str) -> None:
        if message.audio is not None:
            self._losses.refuse(f"{path}.audio", "Gemini is told as text what was said before")
        parts = self._parts(message, path)
        if message.refusal:
            parts.append({"text": message.refusal})
        for place, image in enumerate(message.images or ()):
            if (media := _media(image.image_url.url)) is not None:
                parts.append(media)
            else:
                self._losses.refuse(f"{path}.images[{place}]", _WHAT_IS_TAKEN)
        signatures = self._signatures(message)
        if parts and (signature := signatures.pop("", None)):
            parts[-1]["thoughtSignature"] = signature
        self._turn("model").parts += parts + self._calls(message, signatures, path)

    def _signatures(self, message: Message) -> dict[str, str]:
        """The signatures that Gemini gave, by the id of the call they belong to ("": the text)."""
        found: dict[str, str] = {}
        for detail in message.reasoning_details or ():
            if detail.format == SIGNATURE_FORMAT and detail.data:
                found[detail.id or ""] = detail.data
            elif detail.data or detail.signature:
                self._losses.tell("messages[].reasoning_details")
        if message.reasoning_content or message.reasoning:
            self._losses.tell("messages[].reasoning_content")
        return found

    def _calls(self, message: Message, signatures: Mapping[str, str], path: str) -> list[Json]:
        parts: list[Json] = []
        for place, call in enumerate(message.calls()):
            if call.function is None:
                self._losses.refuse(f"{path}.tool_calls[{place}]", "Gemini calls functions alone")
                continue
            where = f"{path}.tool_calls[{place}].function.arguments"
            name = call.function.name
            args = chat_request.arguments(call.function.arguments, where, self._losses)
            self._names[call.id], self._order[call.id] = name, len(self._order)
            part: Json = {"functionCall": {**self._id(call.id), "name": name, "args": args}}
            signature = _signature(call) or signatures.get(call.id)
            if signature is None and not parts and not self._is_older:
                signature = _NO_SIGNATURE  # only the first of parallel calls must have one
            if signature is not None:
                part["thoughtSignature"] = signature
            parts.append(part)
        return parts

    def _id(self, given: str) -> Json:
        return {"id": given} if given and self._has_ids else {}

    def _add_result(self, message: Message, path: str) -> None:
        given = message.tool_call_id or message.name or ""
        name = self._names.get(given) or message.name
        if name is None:
            raise invalid(f"{path}.tool_call_id", f"no call has the id {given[:100]!r}")
        texts, media = [], []
        for part in self._parts(message, path):
            if "text" in part:
                texts.append(part["text"])
            else:
                media.append(part)
        response: Json = {**self._id(given), "name": name, "response": _result("".join(texts))}
        # Within a result newer models take bytes, older ones nothing.
        within = [] if self._is_older else [part for part in media if "inlineData" in part]
        if within:
            response["parts"] = within
        beside = [part for part in media if part not in within]
        parts: list[Json] = [{"functionResponse": response}, *beside]
        turn = self._turn("results")
        turn.parts += parts
        turn.order += [self._order.get(given, len(self._order))] * len(parts)


def _media(url: str) -> Json | None:
    """Bytes in the request, or what Google fetches.

    That is its own files, videos on YouTube, and, but for the models of version 2.0 and before,
    whatever is public ("File input methods").
    """
    if (data := data_url(url)) is not None:
        return {"inlineData": {"mimeType": data[0], "data": data[1]}}
    if url.startswith(("https://", "gs://")):
        return {"fileData": {"fileUri": url, **_media_type(url)}}
    return None


def _as_image(media: Json) -> Json | None:
    """None for what would cost more than an image: a film or a book, under whatever name.

    What the name of a file does not tell is said to be an image, or Google would find it out;
    of its own files it knows better.
    """
    (held,) = media.values()
    uri = held.get("fileUri", "")
    if _film(uri) or _own_file(uri):
        return None
    kind = held.setdefault("mimeType", "image/jpeg")
    return media if kind.lower().startswith("image/") else None


_WHAT_IS_TAKEN = "Gemini takes data in base64 and https URLs, and as images only such"


def _why_not(part: Part) -> str:
    if part.type in ("image_url", "video_url", "file"):
        return _WHAT_IS_TAKEN
    return f"Gemini has no parts of type {part.type[:100]!r}"


def _signature(call: ToolCall) -> str | None:
    google = call.extra_content.google if call.extra_content else None
    return google.thought_signature if google else None


def _result(text: str) -> Json:
    """What a function gave back, which Gemini wants to be an object."""
    found = chat_request.json_object(text) if text.lstrip().startswith("{") else None
    return {"output": text} if found is None else found


_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
    "txt": "text/plain",
}


def _media_type(url: str) -> Json:
    """The type that the name of a file tells; Google finds the others out."""
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    return {"mimeType": _MEDIA_TYPES[ending]} if ending in _MEDIA_TYPES else {}


# --- tools ----------------------------------------------------------------------------------------


def _tools(asked: ChatRequest, losses: Losses) -> Json:
    tools: list[Json] = []
    for place, tool in enumerate(asked.tools or ()):
        if tool.type in _OWN_TOOLS:
            if asked.choice()[0] != "none":
                tools.append({_OWN_TOOLS[tool.type]: {}})
        elif tool.type != "function" or tool.function is None:
            losses.refuse(f"tools[{place}]", f"Gemini has no tools of type {tool.type[:100]!r}")
    declarations = []
    for function in asked.declarations():
        declaration: Json = {"name": function.name, "description": function.description or ""}
        if function.parameters and _has_arguments(function.parameters):
            declaration["parametersJsonSchema"] = clean_schema(function.parameters)
        declarations.append(declaration)
    if declarations:
        tools.append({"functionDeclarations": declarations})
        if asked.parallel_tool_calls is False:
            losses.refuse("parallel_tool_calls", "Gemini may always make several calls")
    if not tools:
        return {}
    config = _calling_config(asked) if declarations else None
    return {"tools": tools, **({"toolConfig": {"functionCallingConfig": config}} if config else {})}


def _has_arguments(schema: Json) -> bool:
    """Whether there is anything to say of the arguments: an object without members may not be."""
    says_nothing = {"$schema", "type", "title", "description", "required", "properties", "strict"}
    others = {name: v for name, v in schema.items() if name not in says_nothing}
    return bool(schema.get("properties")) or any(others.values())


def _calling_config(asked: ChatRequest) -> Json | None:
    """When functions are called: `VALIDATED` is `AUTO` that keeps to the schemas."""
    mode, names = asked.choice()
    is_strict = any(function.strict for function in asked.declarations())
    if mode == "none":
        return {"mode": "NONE"}
    config: Json = {"mode": "ANY" if mode == "required" else "AUTO"}
    if mode != "required" and (is_strict or names):
        config["mode"] = "VALIDATED"
    if names:
        config["allowedFunctionNames"] = names
    return config if mode is not None or config["mode"] != "AUTO" else None


# Keywords whose value is a schema, a list of schemas, a mapping of names to schemas.
_SCHEMA = frozenset({"items", "additionalProperties", "not"})
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "patternProperties"})
_UNKNOWN = frozenset({"$schema", "$comment", "examples", "discriminator", "strict"})


def clean_schema(schema: Json) -> Json:
    """A JSON schema in the words that Gemini takes.

    Source: the reference of `responseJsonSchema`. It has no `const`, nothing beside a `$ref`, and
    no exclusive bounds; what it does not know it may refuse.
    """
    cleaned: Json = {}
    for keyword, value in schema.items():
        if keyword == "definitions":
            keyword = "$defs"
        if keyword in _UNKNOWN:
            continue
        if keyword == "const":
            cleaned["enum"] = [value]
        elif keyword == "exclusiveMinimum" and _is_number(value):
            cleaned.setdefault("minimum", value + 1 if _is_whole(schema) else value)
        elif keyword == "exclusiveMaximum" and _is_number(value):
            cleaned.setdefault("maximum", value - 1 if _is_whole(schema) else value)
        elif keyword == "$ref" and isinstance(value, str):
            cleaned["$ref"] = value.replace("#/definitions/", "#/$defs/", 1)
        else:
            cleaned[keyword] = _clean_value(keyword, value)
    reference = cleaned.get("$ref")
    stands_alone = all(name.startswith("$") for name in cleaned)
    if reference is not None and not stands_alone and "anyOf" not in cleaned:
        del cleaned["$ref"]
        cleaned["anyOf"] = [{"$ref": reference}]
    return cleaned


def _clean_value(keyword: str, value: Any) -> Any:
    if keyword in _SCHEMA and isinstance(value, dict):
        return clean_schema(value)
    if keyword in _SCHEMAS and isinstance(value, list):
        return [clean_schema(item) if isinstance(item, dict) else item for item in value]
    if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
        return {n: clean_schema(v) if isinstance(v, dict) else v for n, v in value.items()}
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(schema: Json) -> bool:
    return schema.get("type") == "integer"


# --- generationConfig -----------------------------------------------------------------------------


def _generation_config(asked: ChatRequest, model: str, extras: _Google, losses: Losses) -> Json:
    config: Json = {
        "maxOutputTokens": asked.most_tokens,
        "candidateCount": asked.n if asked.n != 1 else None,
        "stopSequences": asked.stops() or None,
        "temperature": asked.temperature,
        "topP": asked.top_p,
        "topK": asked.top_k,
        "seed": asked.seed,
        "presencePenalty": asked.presence_penalty or None,
        "frequencyPenalty": asked.frequency_penalty or None,
        "mediaResolution": extras.media_resolution,
    }
    if asked.seed is not None and not -_MOST_SEED <= asked.seed < _MOST_SEED:
        losses.refuse("seed", "Gemini's seed has 32 bits")
        config["seed"] = None
    if asked.logprobs:
        config["responseLogprobs"] = True
        config["logprobs"] = asked.top_logprobs or None
    config |= _format(asked, losses) | _modalities(asked, extras, losses)
    if thinking := _thinking(asked, model, extras, losses):
        config["thinkingConfig"] = thinking
    return {name: value for name, value in config.items() if value is not None}


def _format(asked: ChatRequest, losses: Losses) -> Json:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type not in ("json_object", "json_schema"):
        losses.refuse("response_format", "Gemini has no such format")
        return {}
    schema = wanted.json_schema.schema if wanted.json_schema else None
    return {
        "responseMimeType": "application/json",
        "responseJsonSchema": clean_schema(schema) if schema else None,
    }


def _modalities(asked: ChatRequest, extras: _Google, losses: Losses) -> Json:
    config: Json = {
        "imageConfig": _camel(extras.image_config) if extras.image_config else None,
        "speechConfig": _camel(extras.speech_config) if extras.speech_config else None,
    }
    wanted = asked.modalities or ["text"]
    if not _MODALITIES.issuperset(wanted):
        losses.refuse("modalities", "Gemini has no such modality")
        return config
    if wanted != ["text"]:
        config["responseModalities"] = [modality.upper() for modality in wanted]
    if asked.audio is None or "audio" not in wanted:
        return config
    if asked.audio.format not in (None, "pcm16"):
        losses.refuse("audio.format", "Gemini's speech comes as pcm16")
    if asked.audio.voice and not extras.speech_config:
        voice = {"prebuiltVoiceConfig": {"voiceName": asked.audio.voice}}
        config["speechConfig"] = {"voiceConfig": voice}
    return config


def _thinking(asked: ChatRequest, model: str, extras: _Google, losses: Losses) -> Json:
    """How much is thought, in the words of the model's generation, and whether it is shown."""
    if extras.thinking_config is not None:
        return _camel(extras.thinking_config)
    reasoning = asked.reasoning
    param = "reasoning" if reasoning else "reasoning_effort"
    effort, budget = asked.reasoning_effort, None
    if reasoning is not None:
        effort, budget = reasoning.effort or effort, reasoning.max_tokens
        if reasoning.enabled is False:
            effort = "none"
    wants = effort is not None or budget is not None or bool(reasoning and reasoning.enabled)
    if not wants and not asked.include_reasoning:
        return {}
    if _older(model) and not _thinks_by_budget(model):
        if effort != "none":
            losses.refuse(param, f"{model!r} does not think")
        return {}
    if effort == "none" and (_always_thinks(model) or not _thinks_by_budget(model)):
        losses.refuse(param, f"{model!r} always thinks")
        return {}
    shows = effort != "none" and not (reasoning and reasoning.exclude)
    config: Json = {"includeThoughts": True} if shows else {}
    if _thinks_by_budget(model):
        if budget is None and effort is not None:
            budget = _BUDGETS[effort]
            if effort in ("xhigh", "max"):
                losses.tell(param)
        return config | ({} if budget is None else {"thinkingBudget": budget})
    if effort is None and budget is not None:
        losses.tell("reasoning.max_tokens")  # only told by the level nearest to it
        effort = next((e for e in ("low", "medium") if budget <= _BUDGETS[e]), "high")
    level = effort
    if effort in ("xhigh", "max"):
        losses.tell(param)
        level = "high"
    return config | ({} if level is None else {"thinkingLevel": level.upper()})


# --- embeddings -----------------------------------------------------------------------------------


class _Embeddings(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: chat_request.Count | None = None
    task_type: str | None = None
    title: str | None = None


_embeddings = msgspec.json.Decoder(_Embeddings)
_EMBEDDINGS_CARRIED = frozenset({"input", "dimensions", "task_type", "title", "encoding_format"})


def to_batch_embed(call: Call, model: str) -> Translated:
    """The body of `batchEmbedContents`; `model` is its name with `models/` before it."""
    losses = chat_request.without_others(call, _EMBEDDINGS_CARRIED, "Gemini")
    asked = chat_request.decode(_embeddings, call.body)
    more: Json = {
        "outputDimensionality": asked.dimensions,
        "taskType": asked.task_type,
        "title": asked.title,
    }
    more = {name: value for name, value in more.items() if value is not None}
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    requests = []
    for text in texts:
        if not isinstance(text, str):
            # Without its input a request means nothing: `drop_params` cannot help.
            raise Unsupported("Gemini embeds text, and no token ids", param="input")
        requests.append({"model": model, "content": {"parts": [{"text": text}]}, **more})
    return Translated(loose_json.encode({"requests": requests}), tuple(losses.dropped))
