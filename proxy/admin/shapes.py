"""How things look in JSON: amounts of money, moments, and bodies that are read strictly.

Amounts are JSON numbers in USD, written exactly; nothing rounds them on our side.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from proxy.errors import InvalidRequest
from proxy.pricing import parse_usd

T = TypeVar("T")

LAST_SECOND = 253_402_300_799
"""The end of the year 9999: no later moment can be written."""

LONGEST_OVERLAP_S = 366 * 86_400
"""How long an old key can be accepted beside a new one."""

Name = Annotated[str, msgspec.Meta(min_length=1)]
"""What people call something."""

Usd = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "number"})]
"""An amount that is written, as `usd` makes it."""

Amount = int | float | str
"""An amount that is read: a number of USD, or the same as text."""

Moment = int | str
"""A moment that is read: Unix seconds or ISO 8601. Written is always ISO 8601 in UTC."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is read from a request."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What is written into an answer."""


def usd(amount_nanousd: int) -> msgspec.Raw:
    """An amount as a JSON number in USD, exact to the nano-dollar."""
    sign = "-" if amount_nanousd < 0 else ""
    whole, rest = divmod(abs(amount_nanousd), 10**9)
    decimals = f"{rest:09d}".rstrip("0")
    return msgspec.Raw(f"{sign}{whole}.{decimals or '0'}".encode())


def usd_or_none(amount_nanousd: int | None) -> msgspec.Raw | None:
    """The same, for an amount that need not be there."""
    return None if amount_nanousd is None else usd(amount_nanousd)


def nanousd(value: Amount, param: str) -> int:
    """An amount that was read, as nano-USD; raises `InvalidRequest` that names `param`."""
    try:
        return parse_usd(value)
    except ValueError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from None


def iso(seconds: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC."""
    if seconds is None:
        return None
    # A later one shows as the last: one odd record must not keep all others from being listed.
    return datetime.fromtimestamp(min(seconds, LAST_SECOND), UTC).isoformat()


def moment(value: Moment, param: str) -> int:
    """A moment that was read, as Unix seconds; raises `InvalidRequest` that names `param`."""
    seconds = value if isinstance(value, int) else _seconds(value)
    if seconds is None or not 0 <= seconds <= LAST_SECOND:
        raise InvalidRequest(
            f"{param}: {str(value)[:40]!r} is no time from 1970 to 9999; "
            "write 2026-11-20T08:00:00Z or Unix seconds",
            param=param,
        )
    return seconds


def _seconds(text: str) -> int | None:
    try:
        when = datetime.fromisoformat(text)
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def read_json(body: bytes, kind: type[T]) -> T:
    """The body, checked; raises `InvalidRequest` that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(error, kind) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def read_object(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """A decoded object, checked; raises `InvalidRequest` that names the field.

    Not `strict`, texts are read as what they should be: for parameters of a URL.
    """
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _misfit(error, kind) from None


def _misfit(error: msgspec.ValidationError, kind: type) -> InvalidRequest:
    message, _, path = str(error).partition(" - at `$")
    param = path.rstrip("`").lstrip(".") or None
    if "field `" in message:
        param = message.split("`")[1]
    if message.startswith("Invalid enum value") and (choices := _choices(kind, param)):
        message = f"{message}; there are {', '.join(choices)}"
    return InvalidRequest(message, param=param)


def _choices(kind: type, field_name: str | None) -> list[str]:
    """The words that a field of a body may be; none where it may be anything else."""
    body = msgspec.inspect.type_info(kind)
    fields = body.fields if isinstance(body, msgspec.inspect.StructType) else ()
    for field in fields:
        if field.encode_name == field_name:
            whole = field.type
            kinds = whole.types if isinstance(whole, msgspec.inspect.UnionType) else (whole,)
            literals = (one for one in kinds if isinstance(one, msgspec.inspect.LiteralType))
            return [str(value) for literal in literals for value in literal.values]
    return []
