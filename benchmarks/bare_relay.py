"""The least a relay can do on the same server and the same upstream client: bytes in, bytes out.

What Tollway costs beyond this is what it does: keys, policy, budgets, ledger, checks, metrics.
Run as `python -m benchmarks.bare_relay PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from adapters.base import Deadlines
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin
from benchmarks.workloads import PROVIDER_KEY


class BareRelay:
    """An ASGI application that forwards every request to one origin."""

    def __init__(self, upstream: Http1Transport) -> None:
        self._upstream = upstream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        response = await self._upstream.post(scope["path"], {}, body, Deadlines())
        try:
            headers = [
                (name.encode(), response.headers[name].encode())
                for name in ("content-type", "content-length")
                if name in response.headers
            ]
            status = response.status
            await send({"type": "http.response.start", "status": status, "headers": headers})
            while data := await response.read():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            response.close()


def _main(port: int, upstream_port: int) -> None:
    origin = Origin.parse(f"http://127.0.0.1:{upstream_port}")
    headers = {"content-type": "application/json", "authorization": f"Bearer {PROVIDER_KEY}"}
    app = BareRelay(Http1Transport(origin, headers=headers))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
