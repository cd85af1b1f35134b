"""What is answered where something of ours fails."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from functools import partial
from typing import Any, cast

import pytest
from starlette.applications import Starlette

from proxy.app import App
from proxy.errors import Overloaded
from proxy.http import REFUSAL, Exchange
from proxy.models import Models
from proxy.telemetry import Metrics


async def _fail(exchange: Exchange) -> None:
    raise ZeroDivisionError("sk-canary")


async def _fail_late(exchange: Exchange) -> None:
    await exchange.start(200, b"text/plain", [])
    raise ZeroDivisionError("sk-canary")


class Held:
    """What a request has in memory."""


def _app() -> App:
    class NoModels:
        retrieve = staticmethod(_fail)

    return App(
        routes={"/early": {"POST": _fail}, "/late": {"POST": _fail_late}},
        models=cast(Models, NoModels()),
        prefixes={},
        rest=Starlette(),
        rest_prefixes=("/admin/",),
        metrics=Metrics(),
    )


def _ask(app: App, path: str, refusal: object = None) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "path": path, "method": "POST", "headers": [], REFUSAL: refusal}
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.negative(number=31)
def test_a_fault_is_an_error_with_a_number_that_the_log_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "tollway"):
        head, body = _ask(_app(), "/early")
    request_id = dict(head["headers"])[b"x-request-id"].decode()
    said = json.loads(body["body"])["error"]
    assert (head["status"], said["type"], said["code"]) == (500, "server_error", "internal_error")
    assert request_id in caplog.text
    for word in ("canary", "ZeroDivision", "Traceback", ".py"):
        assert word not in body["body"].decode()


@pytest.mark.negative(number=31)
def test_a_fault_behind_the_status_ends_the_reply_without_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (head,) = _ask(_app(), "/late")  # the server closes the connection on what is not complete
    assert head["status"] == 200
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("path", ["/held", "/held/and/failed"])
def test_what_a_request_held_is_let_go_of_when_it_has_ended(path: str) -> None:
    """Not when the collector comes by: bodies of megabytes would pile up until then."""
    held: list[weakref.ref[Held]] = []
    ended: list[str] = []

    async def hold(exchange: Exchange) -> None:
        thing = Held()
        held.append(weakref.ref(thing))

        async def before_end() -> None:
            assert thing is not exchange

        exchange.on_end = partial(lambda *it: ended.append(path), exchange, thing)
        exchange.before_end = before_end
        if path == "/held":
            await exchange.reply(200, b"")
        else:
            raise Overloaded("full")

    app = _app()
    app._routes = {path: {"POST": hold}}
    gc.disable()
    try:
        assert _ask(app, path)
        assert ended == [path]
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["/early", "/admin/v1/keys", "/v1/messages"])
def test_what_the_server_refuses_no_endpoint_sees(path: str) -> None:
    head, body = _ask(_app(), path, Overloaded("too much", headers={"retry-after": "1"}))
    assert head["status"] == 503
    assert (b"retry-after", b"1") in head["headers"]
    assert json.loads(body["body"])["error"]["message"] == "too much"
