"""Who decides for a command: a server that is asked, or the configuration alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from proxy import price_list, serve
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.errors import StartError
from proxy.figures import Figures
from proxy.routing import Router

UrlOption = Annotated[str | None, typer.Option(help="Ask this server: http://host:port")]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar="TOLLWAY_KEY", help="The API key to ask it with")
]

_TIMEOUT_S = 30.0


def served(
    url: str, key: str | None, path: str, body: Any, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a running server answers. Raises `StartError`."""
    sent = dict(headers or {})
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    try:
        reply = httpx2.post(f"{url.rstrip('/')}{path}", json=body, headers=sent, timeout=_TIMEOUT_S)
        answer: dict[str, Any] = reply.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise StartError(f"--url: {url}: {error}") from None
    if reply.status_code != 200:
        raise StartError(f"--url: {answer.get('error', {}).get('message', reply.status_code)}")
    return answer


def declared_router(config: str | None, data: str | None) -> Router:
    """What decides by the configuration alone: nothing is measured. Raises `StartError`."""
    loaded = serve.load_config(serve.Options(config=config, data=data), os.environ)
    book, _ = price_list.load(Path(loaded.server.data))
    tables = serve.resolve(loaded, os.environ, book).tables
    clock = SystemClock()
    return Router(
        table=tables,
        figures=Figures(clock),
        circuits=Circuits(loaded.circuit, clock),
        secret=b"",
        clock=clock,
    )
