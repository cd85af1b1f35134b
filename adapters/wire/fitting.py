"""A request in OpenAI's dialect, fitted to what one provider takes of it.

Members that need no change go on as the bytes they came in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from adapters.base import BadRequest, Call
from adapters.wire import loose_json
from adapters.wire.chat_request import says_something
from adapters.wire.losses import Losses

Members = dict[str, msgspec.Raw]

# A thought in the history has one of these names.
_THOUGHT = ("reasoning_content", "reasoning")
# Without these a message still means the same.
_EXTRAS = frozenset({"annotations", "extra_content", "reasoning_details", *_THOUGHT})
_ANYWHERE = frozenset({"cache_control", "extra_content"})
OPTIONAL = frozenset({"audio", "function_call", "name", "refusal"}) | _ANYWHERE | _EXTRAS
"""The members of messages, some of their parts and tools too, that not every provider takes."""

_NULL = msgspec.Raw(b"null")

_members = msgspec.json.Decoder(Members)
_list = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a provider takes of the requests to one endpoint.

    `knows` are all the parameters of a provider that refuses any other, and None where it takes
    others; `refuses` are those it refuses, or ignores though they matter. `renames` gives its names
    for OpenAI's. `takes` are those of the `OPTIONAL` members it understands. `spares` are
    parameters that only some of its models refuse, and without which a request means the same.
    """

    knows: frozenset[str] | None = None
    refuses: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)
    takes: frozenset[str] = OPTIONAL
    spares: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    takes_schemas: bool = True
    takes_developers: bool = True

    @cached_property
    def thought(self) -> str | None:
        """What this provider calls a thought in the history."""
        return next((name for name in _THOUGHT if name in self.takes), None)

    @cached_property
    def signs(self) -> re.Pattern[bytes] | None:
        """What stands in every body that needs a change; None where none does."""
        names = {*self.refuses, *self.renames, *self.spares, *(OPTIONAL - self.takes)}
        if not self.takes_schemas:
            names.add("json_schema")
        if not self.takes_developers:
            names.add("developer")
        listed = "|".join(re.escape(name) for name in sorted(names))
        return re.compile(f'"(?:{listed})"'.encode()) if names else None

    def may_touch(self, body: bytes) -> bool:
        """Whether a body might need a change; False is certain."""
        return self.knows is not None or bool(self.signs and self.signs.search(body))


def fit(call: Call, rules: Rules) -> tuple[bytes, Sequence[str]]:
    """The body of a call as this provider takes it, and the paths of what it is not told.

    Raises `Unsupported` for what it does not have, unless such is to be dropped, and `BadRequest`
    where the body is no JSON object.
    """
    if not rules.may_touch(call.body):
        return call.body, ()
    losses = Losses(drop_params=call.drop_params)
    return _Fitting(rules, losses, call.model).fitted(call.body), tuple(losses.dropped)


class _Fitting:
    """One request on its way to a provider."""

    def __init__(self, rules: Rules, losses: Losses, model: str) -> None:
        self._rules = rules
        self._spared = {name for name, models in rules.spares.items() if models.search(model)}
        self._losses = losses

    def fitted(self, body: bytes) -> bytes:
        """The body to send; the very one that came where nothing needs a change."""
        members = _members_of(body)
        if members is None:
            raise BadRequest("the request is no JSON object", status=400)
        fitted: Members = {}
        for name, raw in members.items():
            own = self._rules.renames.get(name, name)
            # Of two names for the same the provider's own counts, unless it says nothing.
            if own in fitted if own == name else bytes(members.get(own, _NULL)) != b"null":
                continue
            if name in self._spared:
                if bytes(raw) != b"null":
                    self._losses.tell(name)
            elif self._is_unknown(own, raw):
                self._refuse(name, name, raw)
            elif name in ("messages", "tools"):
                fitted[name] = self._fit_list(raw, name)
            else:
                fitted[own] = raw
        return body if _is_same(members, fitted) else join(fitted)

    def _is_unknown(self, name: str, raw: msgspec.Raw) -> bool:
        rules = self._rules
        if name in rules.refuses or (rules.knows is not None and name not in rules.knows):
            return True
        return (
            name == "response_format" and not rules.takes_schemas and b'"json_schema"' in bytes(raw)
        )

    def _leave_out(self, name: str, path: str, raw: msgspec.Raw) -> None:
        if name in _EXTRAS and says_something(name, bytes(raw)):
            self._losses.tell(path)
        else:
            self._refuse(name, path, raw)

    def _refuse(self, name: str, path: str, raw: msgspec.Raw) -> None:
        if says_something(name, bytes(raw)):
            self._losses.refuse(path, "this provider has no such parameter")

    def _fit_list(self, raw: msgspec.Raw, path: str) -> msgspec.Raw:
        """A list of messages, tools, tool calls or content parts; itself if all may stay."""
        if not (self._rules.signs and self._rules.signs.search(raw)):
            return raw
        items = _items_of(raw)
        if items is None:
            return raw  # a text, or what the provider itself will not take for a list
        fitted = [self._fit_item(item, f"{path}[{i}]") for i, item in enumerate(items)]
        if all(now is then for now, then in zip(fitted, items, strict=True)):
            return raw
        return msgspec.Raw(b"[%b]" % b",".join(bytes(item) for item in fitted))

    def _fit_item(self, raw: msgspec.Raw, path: str) -> msgspec.Raw:
        members = _members_of(raw)
        if members is None:
            return raw
        rules = self._rules
        fitted: Members = {}
        for name, value in members.items():
            if name == "role" and not rules.takes_developers and bytes(value) == b'"developer"':
                fitted[name] = msgspec.Raw(b'"system"')
            elif name in ("content", "tool_calls"):
                fitted[name] = self._fit_list(value, f"{path}.{name}")
            elif name in rules.takes or name not in (OPTIONAL if "role" in members else _ANYWHERE):
                fitted[name] = value
            elif name in _THOUGHT and rules.thought is not None:
                fitted.setdefault(rules.thought, members.get(rules.thought, value))
            elif name == "name" and "tool_call_id" in members:
                continue  # the id says it
            else:
                self._leave_out(name, f"{path}.{name}", value)
        return raw if _is_same(members, fitted) else msgspec.Raw(join(fitted))


def _is_same(before: Members, after: Members) -> bool:
    return before.keys() == after.keys() and all(after[n] is raw for n, raw in before.items())


def join(members: Members) -> bytes:
    """The JSON object with these members."""
    return b"{%b}" % b",".join(
        b"%b:%b" % (loose_json.encode(key), raw) for key, raw in members.items()
    )


def _members_of(raw: bytes | msgspec.Raw) -> Members | None:
    try:
        return _members.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        value = _with_lone_surrogates(raw)
    return {key: _raw(each) for key, each in value.items()} if isinstance(value, dict) else None


def _items_of(raw: msgspec.Raw) -> list[msgspec.Raw] | None:
    try:
        return _list.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        value = _with_lone_surrogates(raw)
    return [_raw(each) for each in value] if isinstance(value, list) else None


def _with_lone_surrogates(raw: bytes | msgspec.Raw) -> Any:
    try:
        return loose_json.decode(bytes(raw))
    except (ValueError, RecursionError):
        return None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(loose_json.encode(value))
