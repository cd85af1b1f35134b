"""What can be wrong with what an operator asks for."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class Fault(Exception):
    """Why an op is not carried out, as `Failed` says it."""

    def __init__(self, code: Literal["not_found", "conflict", "invalid"], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def changed(settings: S, changes: dict[str, Any]) -> S:
    """The settings with some fields changed, checked against their types. Raises `Fault`."""
    if not changes:
        return settings
    merged = {**msgspec.to_builtins(settings), **changes}
    try:
        return msgspec.convert(merged, type(settings))
    except msgspec.ValidationError as error:
        raise Fault("invalid", str(error)) from None
