"""Every transport, on every loop; and a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.adapters.http.clients import HTTP1, HTTP1_UVLOOP, HTTPX, Client
from tests.adapters.servers import (
    make_certificate,
)


@pytest.fixture(params=[HTTP1, HTTP1_UVLOOP, HTTPX], ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    chosen = request.param
    assert isinstance(chosen, Client)
    return chosen


@pytest.fixture(params=[HTTP1, HTTP1_UVLOOP], ids=lambda client: client.name)
def small_client(request: pytest.FixtureRequest) -> Client:
    """What only our own client promises."""
    chosen = request.param
    assert isinstance(chosen, Client)
    return chosen


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    try:
        return make_certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("the openssl command is missing: nothing over TLS is tested")
