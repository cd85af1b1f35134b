"""JSON schemas in the part of the language by which Anthropic constrains what Claude writes.

Source: Anthropic's documentation, "Structured outputs", "JSON Schema limitations".
"""

from __future__ import annotations

from typing import Any

from adapters.wire import loose_json
from adapters.wire.losses import Losses

Schema = dict[str, Any]

_UNSUPPORTED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "maxItems", "uniqueItems", "contains", "minContains"),
        *("maxContains", "prefixItems", "patternProperties", "propertyNames", "minProperties"),
        *("maxProperties", "dependentRequired", "unevaluatedProperties", "$schema", "$id"),
    }
)
_FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "uri"),
        *("ipv4", "ipv6", "uuid"),
    }
)
_OF_SCHEMAS = ("properties", "$defs", "definitions")
# An object that has none of these, and is not closed, may have any members.
_NAMES_MEMBERS = frozenset({"properties", "$ref", "anyOf", "allOf", "enum", "const"})
_LISTS_OF_SCHEMAS = ("anyOf", "allOf")


def closed(schema: Schema, path: str, losses: Losses) -> Schema:
    """The schema as Anthropic takes it: every object closed, and what it cannot hold Claude to
    moved into the description, which Claude reads.

    What was moved is told under `path`; objects with properties of any name cannot be had.
    """
    closing: Schema = _Closing(path, losses).close(schema)
    return closing


class _Closing:
    def __init__(self, path: str, losses: Losses) -> None:
        self._path = path
        self._losses = losses

    def close(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        kept: Schema = {}
        moved: Schema = {}
        for name, value in schema.items():
            if name in _UNSUPPORTED or not _can_hold(name, value):
                moved[name] = value
            elif name in _OF_SCHEMAS and isinstance(value, dict):
                kept[name] = {key: self.close(item) for key, item in value.items()}
            elif name in _LISTS_OF_SCHEMAS and isinstance(value, list):
                kept[name] = [self.close(item) for item in value]
            elif name == "oneOf" and isinstance(value, list):
                kept["anyOf"] = [self.close(item) for item in value]
            elif name == "items":
                kept[name] = self.close(value)
            else:
                kept[name] = value
        if _is_object(kept):
            self._close_object(kept)
        moved.pop("$schema", None)
        moved.pop("$id", None)
        if moved:
            self._losses.tell(self._path)
            note = loose_json.encode(moved).decode()
            said = kept.get("description")
            kept["description"] = f"{said}\n\n{note}" if isinstance(said, str) and said else note
        return kept

    def _close_object(self, schema: Schema) -> None:
        is_free = _NAMES_MEMBERS.isdisjoint(schema)
        if schema.get("additionalProperties", is_free) is not False:
            self._losses.refuse(self._path, "Claude's objects have properties of known names only")
        schema["additionalProperties"] = False


def _is_object(schema: Schema) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _can_hold(name: str, value: object) -> bool:
    match name:
        case "minItems":
            return value in (0, 1)
        case "format":
            return isinstance(value, str) and value in _FORMATS
        case _:
            return True
