"""`/admin/v1`: keys, budgets and spend, for whoever holds the admin token.

Amounts of money are JSON numbers in USD, written exactly; nothing rounds them on our side.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy import auth
from proxy.errors import (
    ApiError,
    Conflict,
    Internal,
    InvalidRequest,
    LedgerDown,
    MissingKey,
    NotFound,
    WrongKey,
    WrongMethod,
)
from proxy.http import new_request_id
from proxy.ledger import reports
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import LedgerRefusal, LedgerUnavailable
from proxy.ledger.protocol import (
    AdminOp,
    Budgets,
    BudgetState,
    CreateBudget,
    CreateKey,
    KeyBudget,
    KeyChanged,
    KeyRecord,
    ListBudgets,
    Mode,
    UpdateBudget,
    UpdateKey,
    Window,
)
from proxy.moments import parse_moment
from proxy.pricing import parse_usd
from proxy.targets import TargetTable

PREFIX = "/admin/"
MAX_BODY = 1 << 20
# The largest number that the ledger gives out, and reads.
MAX_BUDGET_ID = 2**62 - 1

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class NewKey(_Body):
    """`POST /admin/v1/keys`."""

    name: str
    models: list[str] = []
    budget_usd: int | float | str | None = None
    """A hard budget that is made with the key."""
    budget_window: Window = "month"


class ChangedKey(_Body):
    """`PATCH /admin/v1/keys/{id}`."""

    name: str | None = None
    models: list[str] | None = None
    revoked: Literal[True] | None = None


class NewBudget(_Body):
    """`POST /admin/v1/budgets`."""

    scope: str
    limit_usd: int | float | str
    window: Window = "day"
    mode: Mode = "hard"
    timezone: str = "UTC"


class ChangedBudget(_Body):
    """`PATCH /admin/v1/budgets/{id}`."""

    limit_usd: int | float | str | None = None
    mode: Mode | None = None
    deleted: Literal[True] | None = None


class AdminApi:
    """The handlers. Writes go through the ledger process, reports read its file."""

    def __init__(
        self,
        *,
        token: str,
        secret: bytes,
        ledger: LedgerClient,
        database: Path,
        table: Callable[[], TargetTable],
    ) -> None:
        self._token = token.encode()
        self._secret = secret
        self._ledger = ledger
        self._database = database
        self._table = table

    def application(self) -> Starlette:
        """The routes, each behind the token."""

        def route(path: str, handler: Handler, *methods: str) -> Route:
            return Route(f"/admin/v1{path}", self._guarded(handler), methods=list(methods))

        application = Starlette(
            routes=[
                route("/keys", self.list_keys, "GET"),
                route("/keys", self.create_key, "POST"),
                route("/keys/{key_id}", self.update_key, "PATCH"),
                route("/budgets", self.list_budgets, "GET"),
                route("/budgets", self.create_budget, "POST"),
                route("/budgets/{budget_id:int}", self.update_budget, "PATCH"),
                route("/spend", self.spend, "GET"),
            ],
            exception_handlers={
                HTTPException: _on_http_error,
                ApiError: _on_api_error,
                Exception: _on_fault,
            },
        )
        # A trailing slash is another path, not a redirect without a body.
        application.router.redirect_slashes = False
        return application

    def check_token(self, authorization: str | None) -> None:
        """Raise unless the header holds the admin token."""
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise MissingKey("send the admin token: 'Authorization: Bearer <token>'")
        if not hmac.compare_digest(token.strip().encode(), self._token):
            raise WrongKey("this is not the admin token")

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            self.check_token(request.headers.get("authorization"))
            return await handler(request)

        return guarded

    async def list_keys(self, request: Request) -> Response:
        """Every key, revoked ones too."""
        keys = sorted(self._ledger.keys.values(), key=lambda key: key.created_at)
        return _json({"data": [_shown_key(key) for key in keys]})

    async def create_key(self, request: Request) -> Response:
        """Make a key. The key itself is in this one answer and nowhere else."""
        body = await _read(request, NewKey)
        budget = None
        if body.budget_usd is not None:
            budget = KeyBudget(body.budget_window, _amount(body.budget_usd, "budget_usd"))
        key = auth.new_key()
        changed = await self._call(
            CreateKey(
                0,
                digest=auth.digest(key, self._secret),
                name=body.name,
                hint=auth.hint(key),
                models=tuple(self._known_models(body.models)),
                budget=budget,
            ),
            KeyChanged,
        )
        return _json({**_shown_key(changed.key), "key": key}, 201)

    async def update_key(self, request: Request) -> Response:
        """Rename a key, change its models, or revoke it for good."""
        body = await _read(request, ChangedKey)
        models = None if body.models is None else tuple(self._known_models(body.models))
        changed = await self._call(
            UpdateKey(
                0,
                key_id=request.path_params["key_id"],
                name=body.name,
                models=models,
                revoked=bool(body.revoked),
            ),
            KeyChanged,
        )
        return _json(_shown_key(changed.key))

    async def list_budgets(self, request: Request) -> Response:
        """Every budget with the balance of its open window."""
        found = await self._call(ListBudgets(0), Budgets)
        return _json({"data": [shown_budget(budget) for budget in found.budgets]})

    async def create_budget(self, request: Request) -> Response:
        """Set a limit on a scope over a window."""
        body = await _read(request, NewBudget)
        problem = auth.scope_problem(body.scope, self._ledger.keys.values())
        if problem is not None:
            raise InvalidRequest(problem, param="scope")
        made = await self._call(
            CreateBudget(
                0,
                scope=body.scope,
                window=body.window,
                limit_nanousd=_amount(body.limit_usd, "limit_usd"),
                mode=body.mode,
                timezone=body.timezone,
            ),
            Budgets,
        )
        return _json(shown_budget(made.budgets[0]), 201)

    async def update_budget(self, request: Request) -> Response:
        """Change a limit or a mode, or end a budget."""
        body = await _read(request, ChangedBudget)
        budget_id: int = request.path_params["budget_id"]
        if budget_id > MAX_BUDGET_ID:
            raise NotFound(f"no budget {str(budget_id)[:40]}")
        limit = None if body.limit_usd is None else _amount(body.limit_usd, "limit_usd")
        changed = await self._call(
            UpdateBudget(
                0,
                budget_id=budget_id,
                limit_nanousd=limit,
                mode=body.mode,
                deleted=bool(body.deleted),
            ),
            Budgets,
        )
        return _json(shown_budget(changed.budgets[0]))

    async def spend(self, request: Request) -> Response:
        """What was spent, by `group_by` (comma-separated), `since` and `until` (date or `7d`)."""
        query = request.query_params
        unknown = set(query) - {"group_by", "since", "until"}
        if unknown:
            name = sorted(unknown)[0]
            raise InvalidRequest(f"unknown parameter {name!r}", param=name)
        groups = _dimensions(query.get("group_by", "day,target"))
        rows = await asyncio.to_thread(
            reports.spend,
            self._database,
            since=_moment(query.get("since"), "since") or 0,
            until=_moment(query.get("until"), "until"),
            group_by=groups,
        )
        return _json({"data": [_shown_spend(groups, row) for row in rows]})

    def _known_models(self, names: list[str]) -> list[str]:
        for name in names:
            if self._table().find(name) is None:
                raise InvalidRequest(f"there is no model {name[:100]!r}", param="models")
        return names

    async def _call(self, op: AdminOp, kind: type[T]) -> T:
        try:
            reply = await self._ledger.call(op)
        except LedgerUnavailable as error:
            raise LedgerDown(str(error), headers={"retry-after": "1"}) from None
        except LedgerRefusal as error:
            raise _failures[error.code](str(error)) from None
        assert isinstance(reply, kind)
        return reply


_failures: dict[str, type[ApiError]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "invalid": InvalidRequest,
}


def _dimensions(text: str) -> tuple[reports.Dimension, ...]:
    try:
        return msgspec.convert(text.split(",") if text else [], tuple[reports.Dimension, ...])
    except msgspec.ValidationError:
        known = ", ".join(get_args(reports.Dimension))
        raise InvalidRequest(
            f"cannot group by {text[:100]!r}; known: {known}", param="group_by"
        ) from None


def _moment(text: str | None, param: str) -> int | None:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param=param) from None


def usd(amount_nanousd: int) -> msgspec.Raw:
    """An amount as a JSON number in USD, exact to the nano-dollar."""
    sign = "-" if amount_nanousd < 0 else ""
    whole, rest = divmod(abs(amount_nanousd), 10**9)
    decimals = f"{rest:09d}".rstrip("0")
    return msgspec.Raw(f"{sign}{whole}.{decimals or '0'}".encode())


def shown_budget(budget: BudgetState) -> dict[str, Any]:
    """A budget as the API shows it."""
    return {
        "id": budget.budget_id,
        "scope": budget.scope,
        "window": budget.window,
        "timezone": budget.timezone,
        "mode": budget.mode,
        "managed": budget.managed,
        "limit_usd": usd(budget.limit_nanousd),
        "spent_usd": usd(budget.spent_nanousd),
        "held_usd": usd(budget.held_nanousd),
        "overrun_usd": usd(budget.overrun_nanousd),
        "remaining_usd": usd(budget.limit_nanousd - budget.spent_nanousd - budget.held_nanousd),
        "starts_at": _iso(budget.starts_at),
        "opens_at": _iso(budget.opens_at),
    }


def _shown_key(key: KeyRecord) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "hint": key.hint,
        "models": list(key.models),
        "created_at": _iso(key.created_at),
        "revoked_at": _iso(key.revoked_at),
    }


def _shown_spend(groups: Sequence[str], row: reports.SpendRow) -> dict[str, Any]:
    return {
        **dict(zip(groups, row.group, strict=True)),
        "requests": row.requests,
        "attempts": row.attempts,
        "input_tokens": row.input_tokens,
        "cached_tokens": row.cached_tokens,
        "output_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "cost_usd": usd(row.cost_nanousd),
        "estimated_usd": usd(row.estimated_nanousd),
        "overrun_usd": usd(row.overrun_nanousd),
    }


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _amount(value: int | float | str, param: str) -> int:
    try:
        return parse_usd(value)
    except ValueError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from None


async def _read(request: Request, kind: type[T]) -> T:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise InvalidRequest(f"the body is larger than {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        if "field `" in message:
            param = message.split("`")[1]
        raise InvalidRequest(message, param=param) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def _json(value: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(value),
        status,
        {"x-request-id": new_request_id(), "cache-control": "no-store"},
        media_type="application/json",
    )


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"x-request-id": new_request_id(), **error.headers}
    return Response(error.body(), error.status, headers, media_type="application/json")


async def _on_fault(request: Request, error: Exception) -> Response:
    """Our own fault; Starlette raises it again, so that the server logs it."""
    return await _on_api_error(request, Internal("something went wrong here; the log says what"))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        wrong = WrongMethod(
            f"{path!r} answers {allowed}, not {request.method!r}", headers={"allow": allowed}
        )
        return await _on_api_error(request, wrong)
    return await _on_api_error(request, NotFound(f"there is nothing at {path!r}"))
