"""OpenAI's chat completion request -> Anthropic's Messages request, for any place that serves it.

Sources: Anthropic's API reference, "Create a Message"; "Thinking", "Effort", "Structured outputs",
"Tool use", "Service tiers" and the migration guides in its documentation; OpenRouter's "Reasoning
Tokens" for `reasoning` and the shares of a maximum that its efforts stand for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from adapters.base import BadRequest
from adapters.wire import loose_json
from adapters.wire.anthropic_models import EFFORTS, Model, model_of
from adapters.wire.anthropic_schema import closed
from adapters.wire.anthropic_turns import Message, turns_of
from adapters.wire.losses import Losses, invalid

T = TypeVar("T")

DEFAULT_MAX_TOKENS = 4096
_LEAST_BUDGET = 1024
# Below this a model that thinks refuses `top_p`.
_LEAST_TOP_P = 0.95
_OFF = "none"
_SHARES: Mapping[str, float] = {
    "minimal": 0.1,
    "low": 0.2,
    "medium": 0.5,
    "high": 0.8,
    "xhigh": 0.95,
    "max": 0.95,
}
"""Of the maximum of the answer, how much may be thought where a model is given a budget."""

_HINTS = frozenset(
    {
        *("model", "stream", "stream_options", "metadata", "usage"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    }
)
"""What changes nothing of the answer."""

_SAYS_NOTHING: Mapping[str, object] = {
    "n": 1,
    "store": False,
    "logprobs": False,
    "top_logprobs": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "verbosity": "medium",
}
"""What is the same as not being there; any other value of these has nothing to stand for it."""

# An Anthropic tool is called by the day on which its form was fixed: `bash_20250124`.
_OWN_TOOL = re.compile(r"_\d{8}$")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


class _Schema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _Reasoning(msgspec.Struct):
    """OpenRouter's `reasoning`."""

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    type: str
    function: _Named | None = None


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    cache_control: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[_Function] | None = None
    tool_choice: str | _Choice | None = None
    function_call: str | _Named | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    include_reasoning: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    # Anthropic's own, for who adds them to an OpenAI request.
    top_k: int | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None


_object = msgspec.json.Decoder(dict[str, Any])
_KNOWN = frozenset(_Request.__struct_fields__) | _HINTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Translated:
    """The members of a Messages request but for `model` and `stream`, and what it leaves out."""

    members: dict[str, Any]
    dropped: list[str]


def to_messages(
    body: bytes, *, model: str, default_max_tokens: int | None = None, drop_params: bool = False
) -> Translated:
    """The request for a model; raises `Unsupported` and `BadRequest`.

    Whatever the model is called where it is served, `model` is looked at for its generation.
    """
    value = _read(body)
    request = _convert(value, _Request)
    losses = Losses(drop_params=drop_params)
    for name, given in value.items():
        if name not in _KNOWN and given is not None and given != _SAYS_NOTHING.get(name):
            losses.refuse(name, "the Messages API has no such parameter")
    return Translated(
        members=_Translation(request, model_of(model), losses).members(default_max_tokens),
        dropped=losses.dropped,
    )


def _read(body: bytes) -> dict[str, Any]:
    try:
        return loose_json.decode_as(_object, body)
    except (ValueError, RecursionError):
        raise invalid("body", "it is no JSON object") from None


def _convert(value: object, kind: type[T], path: str = "") -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), path) from None
    except ValueError:  # a name with a surrogate that stands alone
        raise invalid(path or "body", "not all of it is text") from None


def _misfit(message: str, path: str) -> BadRequest:
    place = _PLACE.search(message)
    within = place[1] if place else ""
    param = f"{path}.{within}" if path and within else path or within
    return invalid(param or "body", message[: place.start()] if place else message)


class _Translation:
    """One request on its way into the other dialect."""

    def __init__(self, request: _Request, model: Model, losses: Losses) -> None:
        self._request = request
        self._model = model
        self._losses = losses

    def members(self, default_max_tokens: int | None) -> dict[str, Any]:
        request = self._request
        maximum = request.max_completion_tokens
        if maximum is None:
            maximum = request.max_tokens
        if maximum is None:
            maximum = default_max_tokens or DEFAULT_MAX_TOKENS
        system, turns = turns_of(request.messages, self._model, self._losses)
        tools = self._tools()
        choice = self._tool_choice() if tools else None
        thinking, effort = self._thinking(maximum, forces=_forces(choice))
        if thinking and thinking.get("type") == "enabled" and _continues_unthinking(turns):
            self._losses.tell(self._reasoning_param())
            thinking = None
        members = {
            "max_tokens": maximum,
            "system": system,
            "messages": turns,
            "tools": tools,
            "tool_choice": choice,
            "thinking": thinking,
            "output_config": self._output_config(effort),
            **self._sampling(thinks=_thinks(thinking)),
            "stop_sequences": self._stops(),
            "metadata": self._metadata(),
            "service_tier": self._service_tier(),
            "cache_control": request.cache_control,
            "context_management": request.context_management,
        }
        return {name: value for name, value in members.items() if value not in (None, [], {})}

    # --- tools ------------------------------------------------------------------------------------

    def _tools(self) -> list[dict[str, Any]]:
        tools = []
        for index, given in enumerate(self._request.tools or ()):
            path = f"tools[{index}]"
            kind = given.get("type", "function")
            if kind == "function":
                tool = _convert(given, _Tool, path)
                mark = tool.cache_control or tool.function.cache_control
                tools.append(self._tool(tool.function, mark, f"{path}.function"))
            elif isinstance(kind, str) and _OWN_TOOL.search(kind):
                tools.append(given)
            else:
                self._losses.refuse(f"{path}.type", "Claude calls functions only")
        for index, function in enumerate(self._request.functions or ()):
            tools.append(self._tool(function, function.cache_control, f"functions[{index}]"))
        return tools

    def _tool(self, function: _Function, mark: dict[str, Any] | None, path: str) -> dict[str, Any]:
        schema = dict(function.parameters or {"properties": {}})
        schema["type"] = schema.get("type") or "object"
        tool: dict[str, Any] = {"name": function.name}
        if function.description:
            tool["description"] = function.description
        if function.strict:
            schema = closed(schema, f"{path}.parameters", self._losses)
            tool["strict"] = True
        tool["input_schema"] = schema
        if mark:
            tool["cache_control"] = mark
        return tool

    def _tool_choice(self) -> dict[str, Any] | None:
        choice = self._chosen_tool()
        if _forces(choice) and not self._model.forces_tools:
            self._losses.refuse("tool_choice", "this model cannot be made to call a tool")
            choice = None
        if self._request.parallel_tool_calls is False and (choice or {}).get("type") != "none":
            choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
        return choice

    def _chosen_tool(self) -> dict[str, Any] | None:
        request = self._request
        given = request.function_call if request.tool_choice is None else request.tool_choice
        match given:
            case None | "auto":
                return None
            case "none":
                return {"type": "none"}
            case "required":
                return {"type": "any"}
            case _Named(name=name) | _Choice(type="function", function=_Named(name=name)):
                return {"type": "tool", "name": name}
            case _:
                self._losses.refuse("tool_choice", "Claude cannot be told this choice of tools")
                return None

    # --- thinking ---------------------------------------------------------------------------------

    def _reasoning_param(self) -> str:
        return "reasoning" if self._request.reasoning else "reasoning_effort"

    def _thinking(self, maximum: int, *, forces: bool) -> tuple[dict[str, Any] | None, str | None]:
        """How to think, and the effort; Anthropic's own `thinking` goes before all else."""
        request, reasoning = self._request, self._request.reasoning or _Reasoning()
        effort = reasoning.effort or request.reasoning_effort
        if request.thinking is not None:
            if effort or request.reasoning:
                self._losses.tell(self._reasoning_param())
            return request.thinking, None
        if effort is not None and effort != _OFF and effort not in _SHARES:
            raise invalid(self._reasoning_param(), f"{effort!r} is no effort")
        if effort == _OFF or reasoning.enabled is False:
            return self._thinking_off()
        if not (effort or reasoning.max_tokens or reasoning.enabled):
            return None, None
        if forces:
            why = "Claude does not think where it must call a tool"
            self._losses.refuse(self._reasoning_param(), why)
            return None, None
        thinking, effort = self._thinking_on(effort, reasoning.max_tokens, maximum)
        if thinking is not None:
            if reasoning.exclude or request.include_reasoning is False:
                thinking["display"] = "omitted"
            elif not self._model.shows_thinking:
                thinking["display"] = "summarized"
        return thinking, effort

    def _thinking_off(self) -> tuple[dict[str, Any] | None, str | None]:
        if self._model.off is None:
            self._losses.refuse(self._reasoning_param(), "this model always thinks")
            return None, EFFORTS[0]
        return ({"type": self._model.off} if self._model.thinks_unasked else None), None

    def _thinking_on(
        self, effort: str | None, budget: int | None, maximum: int
    ) -> tuple[dict[str, Any] | None, str | None]:
        model, param = self._model, self._reasoning_param()
        if budget is not None:
            if model.budgets:
                return self._budgeted(budget, maximum), None
            self._losses.refuse("reasoning.max_tokens", "this model thinks without a budget")
        if model.adapts:
            return {"type": "adaptive"}, self._nearest(effort) if effort else None
        if model.budgets:
            share = int(maximum * _SHARES[effort or "medium"])
            return self._budgeted(max(share, _LEAST_BUDGET), maximum), None
        self._losses.refuse(param, "this model does not think")
        return None, None

    def _budgeted(self, budget: int, maximum: int) -> dict[str, Any] | None:
        """A budget must leave something of the maximum, which is never raised: it is money."""
        param = self._reasoning_param()
        if maximum <= _LEAST_BUDGET:
            self._losses.refuse(param, f"thinking needs a maximum above {_LEAST_BUDGET} tokens")
            return None
        fitting = min(max(budget, _LEAST_BUDGET), maximum - 1)
        if fitting != budget:
            self._losses.tell(param)
        return {"type": "enabled", "budget_tokens": fitting}

    def _nearest(self, effort: str) -> str:
        """The greatest effort this model knows that is not above what is asked for."""
        if effort in self._model.efforts:
            return effort
        self._losses.tell(self._reasoning_param())
        order = list(_SHARES)
        lesser = [e for e in self._model.efforts if order.index(e) < order.index(effort)]
        return lesser[-1] if lesser else self._model.efforts[0]

    # --- everything else --------------------------------------------------------------------------

    def _output_config(self, effort: str | None) -> dict[str, Any]:
        config = dict(self._request.output_config or {})
        if effort:
            config.setdefault("effort", effort)
        asked = self._request.response_format
        if asked is None or asked.type == "text":
            return config
        if asked.type != "json_schema":
            # Every object would have to be empty in a schema that says no more than "an object".
            self._losses.refuse("response_format", "Claude writes JSON by a schema only")
        elif asked.json_schema is None or asked.json_schema.schema is None:
            raise invalid("response_format.json_schema.schema", "there is none")
        else:
            path = "response_format.json_schema.schema"
            schema = closed(asked.json_schema.schema, path, self._losses)
            config.setdefault("format", {"type": "json_schema", "schema": schema})
        return config

    def _sampling(self, *, thinks: bool) -> dict[str, Any]:
        """What is sampled from; 1 is the default of `temperature` and `top_p`, and not said."""
        request, model, losses = self._request, self._model, self._losses
        sampling: dict[str, Any] = {}
        temperature, top_p = request.temperature, request.top_p
        if temperature is not None and temperature > 1:
            losses.tell("temperature")
        elif temperature is not None and temperature != 1:
            sampling["temperature"] = temperature
        if top_p is not None and top_p != 1:
            sampling["top_p"] = top_p
        if request.top_k is not None:
            sampling["top_k"] = request.top_k
        if model.picks_one and "temperature" in sampling and "top_p" in sampling:
            losses.refuse("top_p", "this model takes it or `temperature`, not both")
            del sampling["top_p"]
        for name in list(sampling):
            fits = not thinks or (name == "top_p" and sampling[name] >= _LEAST_TOP_P)
            if not (model.samples and fits):
                losses.tell(name)  # it samples as it does, or while it thinks
                del sampling[name]
        return sampling

    def _stops(self) -> list[str]:
        stop = self._request.stop or []
        stops = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
        kept = [text for text in stops if not text.isspace()]
        if len(kept) < len(stops):
            self._losses.refuse("stop", "Claude does not stop at white space")
        return kept

    def _metadata(self) -> dict[str, str]:
        user = self._request.safety_identifier or self._request.user
        return {"user_id": user} if user else {}

    def _service_tier(self) -> str | None:
        match self._request.service_tier:
            case None | "auto":
                return None
            case "default" | "standard_only":
                return "standard_only"
            case _:
                self._losses.refuse("service_tier", "Anthropic has no such tier to ask for")
                return None


def _forces(choice: dict[str, Any] | None) -> bool:
    return choice is not None and choice["type"] in ("any", "tool")


def _thinks(thinking: dict[str, Any] | None) -> bool:
    return thinking is not None and thinking.get("type") in ("enabled", "adaptive")


def _continues_unthinking(turns: list[dict[str, Any]]) -> bool:
    """Whether results go back to an answer that did not begin with a thought.

    With a budget Anthropic refuses to think on then ("Preserving thinking blocks").
    """
    if len(turns) < 2 or turns[-1]["content"][0]["type"] != "tool_result":
        return False
    return turns[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")
