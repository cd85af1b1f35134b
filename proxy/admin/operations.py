"""Operations of the admin API, described by the functions that carry them out.

An operation is a coroutine function whose parameters are those of its path, by name, `body` for
what is read from the body and `query` for what stands behind the `?`. Its annotations are all
there is to say about it: requests are checked against them, and the OpenAPI document is made from
them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proxy.admin.shapes import read_json, read_object
from proxy.errors import BodyTooLarge, BodyTooSlow, InvalidRequest, NotFound
from proxy.http import new_request_id

MAX_BODY = 1 << 20
# The largest number that the ledger gives out, and reads.
MAX_ID = 2**62 - 1

Method = Literal["GET", "POST", "PATCH", "DELETE"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing that can be asked of the API."""

    method: Method
    path: str
    """With `{name}` for each parameter."""
    carry_out: Callable[..., Awaitable[object]]
    name: str
    """Of the function: the operation's id, unique within its tag."""
    tag: str
    status: int
    path_types: dict[str, Any]
    body: type | None
    query: type | None
    reply: Any
    summary: str

    async def answer(self, request: Request) -> Response:
        """The answer to a request that may be made; raises `ApiError`."""
        arguments: dict[str, object] = {
            name: _path_value(request.path_params[name], kind)
            for name, kind in self.path_types.items()
        }
        if self.query is not None:
            arguments["query"] = _read_query(request, self.query)
        elif request.query_params:
            name = sorted(request.query_params)[0]
            raise InvalidRequest(f"unknown parameter {name!r}", param=name)
        if self.body is not None:
            arguments["body"] = _read(await _body(request), self.body)
        return json_response(await self.carry_out(**arguments), self.status)


def operation(
    method: Method,
    path: str,
    carry_out: Callable[..., Awaitable[object]],
    *,
    tag: str,
    status: int = 200,
) -> Operation:
    """The operation that a function's annotations describe."""
    hints = get_type_hints(carry_out, include_extras=True)
    path_names = re.findall(r"{(\w+)}", path)
    parameters = inspect.signature(carry_out).parameters
    assert set(parameters) <= {*path_names, "body", "query"}, carry_out
    return Operation(
        method=method,
        path=path,
        carry_out=carry_out,
        name=carry_out.__name__,
        tag=tag,
        status=status,
        path_types={name: hints[name] for name in path_names},
        body=hints.get("body"),
        query=hints.get("query"),
        reply=hints["return"],
        summary=(inspect.getdoc(carry_out) or "").partition("\n")[0],
    )


def json_response(value: object, status: int = 200) -> Response:
    """An answer that nothing in between may keep."""
    return Response(
        msgspec.json.encode(value),
        status,
        {"x-request-id": new_request_id(), "cache-control": "no-store"},
        media_type="application/json",
    )


def _path_value(text: str, kind: Any) -> object:
    if kind is str:
        return text
    # A number that no ledger gave out: there is nothing at that address.
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > MAX_ID:
        raise NotFound(f"there is nothing with the number {text[:40]!r}")
    return int(text)


def _read_query(request: Request, kind: type) -> object:
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    for name in values:
        if name not in kind.__struct_fields__:  # type: ignore[attr-defined]
            raise InvalidRequest(f"unknown parameter {name!r}", param=name)
    if len(values) < len(pairs):
        raise InvalidRequest("a parameter is given twice")
    return read_object(values, kind, strict=False)


def _read(body: bytes, kind: type) -> object:
    """The body, as its own type wants it read."""
    read = getattr(kind, "read", None)
    return read_json(body, kind) if read is None else read(body)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise BodyTooLarge(f"the body is larger than {MAX_BODY} bytes")
    except ClientDisconnect:
        raise BodyTooSlow("the body did not arrive whole") from None
    return body
