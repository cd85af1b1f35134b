"""The admin API as one ASGI application: every operation behind the admin token."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.admin.books import Books
from proxy.admin.budgets import BudgetsApi
from proxy.admin.feedback import FeedbackOperations
from proxy.admin.groups import GroupsApi
from proxy.admin.keys import KeysApi
from proxy.admin.litellm import PREFIXES as LITELLM_PREFIXES
from proxy.admin.litellm import LiteLlmApi
from proxy.admin.models import ModelsApi
from proxy.admin.openapi import document
from proxy.admin.operations import Operation, json_response
from proxy.admin.reload import ReloadApi
from proxy.admin.spend import SpendApi
from proxy.admin.swaps import SwapsApi
from proxy.admin.targets import TargetsApi
from proxy.auth import digest
from proxy.errors import ApiError, Forbidden, Internal, MissingKey, NotFound, WrongKey, WrongMethod
from proxy.http import new_request_id
from proxy.swaps.moves import Moves

PREFIXES = ("/admin/", *LITELLM_PREFIXES)
OPENAPI_PATH = "/admin/v1/openapi.json"
# Source: Fetch standard, "X-Content-Type-Options"; W3C, "Content Security Policy Level 3".
_INERT = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class AdminApi:
    """All operations, and who may ask for them."""

    def __init__(
        self,
        books: Books,
        models: ModelsApi,
        targets: TargetsApi,
        moves: Moves,
        reload: ReloadApi,
        *,
        token: str,
    ) -> None:
        self._token = token.encode()
        self._books = books
        self._operations = all_operations(books, models, targets, moves, reload)

    def application(self) -> Starlette:
        """The routes, each behind the token; no browser takes an answer for a page."""
        application = Starlette(
            routes=[
                Route(OPENAPI_PATH, self._show_document, methods=["GET"]),
                *(self._route(path, methods) for path, methods in self._by_path().items()),
            ],
            middleware=[Middleware(_Inert)],
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
        token = token.strip()
        if not hmac.compare_digest(token.encode(), self._token):
            record = self._books.ledger.keys.get(digest(token, self._books.secret))
            if record is not None and record.revoked_at is None:
                raise Forbidden("this is a caller's key; send the admin token")
            raise WrongKey("this is not the admin token")

    def _by_path(self) -> dict[str, dict[str, Operation]]:
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self._operations:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        return by_path

    def _route(self, path: str, operations: Mapping[str, Operation]) -> Route:
        """One route for all that can be asked of a path, so that 405 names all of it."""

        async def answer(request: Request) -> Response:
            self._guard(request)
            method = "GET" if request.method == "HEAD" else request.method
            return await operations[method].answer(request)

        return Route(path, answer, methods=list(operations))

    def _guard(self, request: Request) -> None:
        self.check_token(request.headers.get("authorization"))

    async def _show_document(self, request: Request) -> Response:
        self._guard(request)
        return json_response(document(self._operations))


def all_operations(
    books: Books, models: ModelsApi, targets: TargetsApi, moves: Moves, reload: ReloadApi
) -> list[Operation]:
    """Every operation there is."""
    return [
        *KeysApi(books).operations(),
        *GroupsApi(books).operations(),
        *BudgetsApi(books).operations(),
        *SpendApi(books).operations(),
        *FeedbackOperations(books).operations(),
        *models.operations(),
        *targets.operations(),
        *SwapsApi(books, moves).operations(),
        *reload.operations(),
        *LiteLlmApi(books).operations(),
    ]


class _Inert:
    """Puts headers on answers that keep what operators have named from running in a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_inert(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_INERT)
            await send(message)

        await self._app(scope, receive, send_inert)


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
