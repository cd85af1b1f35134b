"""Which transport serves what, and httpx2's own errors."""

from __future__ import annotations

import importlib.util
import inspect
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from adapters.base import (
    AdapterError,
    ConnectFailed,
    ConnectionLost,
    MalformedAnswer,
    UpstreamTimeout,
)
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin
from adapters.http.httpx_transport import FOREIGN_ERRORS, HttpxTransport, translated
from adapters.http.transport import environment_proxy, open_transport
from tests.adapters.http.clients import BODY, HTTPX, LENGTH, answering, ask
from tests.adapters.servers import (
    Peer,
    Request,
    ScriptedServer,
)

# ---- which transport serves


def test_the_small_client_serves_where_it_can() -> None:
    assert isinstance(
        open_transport("https://api.example.com/v1", headers={}, environ={}), Http1Transport
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTPS_PROXY": "http://proxy.example:3128"},
        {"https_proxy": "proxy.example:3128"},
        {"all_proxy": "http://proxy.example:3128"},
    ],
)
def test_httpx_serves_behind_a_proxy(environ: dict[str, str]) -> None:
    transport = open_transport("https://api.example.com", headers={}, environ=environ)
    assert isinstance(transport, HttpxTransport)


def test_httpx_serves_with_certificates_of_its_own(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    ca, _ = certificate
    transport = open_transport("https://api.example.com", headers={}, ca_bundle=ca, environ={})
    assert isinstance(transport, HttpxTransport)


def test_a_missing_certificate_file_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_transport("https://h", headers={}, ca_bundle=tmp_path / "none.pem", environ={})


@pytest.mark.parametrize(
    ("package", "options"),
    [("h2", {"http2": True}), ("socksio", {"proxy": "socks5://127.0.0.1:1080"})],
)
def test_a_missing_optional_package_is_named(package: str, options: dict[str, object]) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"'{package}': pip install"):
        open_transport("https://h", headers={}, environ={}, **options)  # type: ignore[arg-type] # one of several keywords


@pytest.mark.parametrize("proxy", ["ftp://me:secret@proxy", "http://me:secret@proxy:99999999"])
def test_a_bad_proxy_is_refused_without_quoting_it(proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy must be") as caught:
        open_transport("https://h", headers={}, proxy=proxy, environ={})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "environ", "proxy"),
    [
        ("http://h", {}, None),
        ("http://h", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://h", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://h", {"HTTPS_PROXY": " "}, None),
        ("https://h", {"https_proxy": "http://low", "HTTPS_PROXY": "http://UP"}, "http://low"),
        ("https://h", {"ALL_PROXY": "socks5://p"}, "socks5://p"),
        ("http://h", {"ALL_PROXY": "http://all", "HTTP_PROXY": "http://p"}, "http://p"),
        ("https://h", {"ALL_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ("https://h", {"ALL_PROXY": "http://p", "no_proxy": "g, h"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": "h"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": ".H"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": "*.h"}, None),
        ("https://ah", {"ALL_PROXY": "http://p", "NO_PROXY": "h,.h, ,"}, "http://p"),
        ("https://h:8443", {"ALL_PROXY": "http://p", "NO_PROXY": "h:8443"}, None),
        ("https://h:8443", {"ALL_PROXY": "http://p", "NO_PROXY": "h:443"}, "http://p"),
        ("http://10.1.2.3", {"ALL_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://10.1.2.3", {"ALL_PROXY": "http://p", "NO_PROXY": "11.0.0.0/8"}, "http://p"),
        ("http://10.1.2.3:80", {"ALL_PROXY": "http://p", "NO_PROXY": "10.1.2.3:80"}, None),
        ("http://[fd00::1]", {"ALL_PROXY": "http://p", "NO_PROXY": "[fd00::1]"}, None),
        ("http://[fd00::1]", {"ALL_PROXY": "http://p", "NO_PROXY": "fd00::/8"}, None),
        ("http://localhost:1", {"ALL_PROXY": "http://p"}, None),
        ("http://me.localhost", {"ALL_PROXY": "http://p"}, None),
        ("http://127.9.9.9", {"ALL_PROXY": "http://p"}, None),
        ("http://[::1]", {"ALL_PROXY": "http://p"}, None),
        ("http://[::ffff:127.0.0.1]", {"ALL_PROXY": "http://p"}, None),
        ("http://localhost.example.com", {"ALL_PROXY": "http://p"}, "http://p"),
    ],
)
def test_the_environments_proxy(base_url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert environment_proxy(Origin.parse(base_url), environ) == proxy


def test_a_plain_request_goes_through_the_environments_proxy() -> None:
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(LENGTH)
        peer.is_gone()

    with ScriptedServer(script) as proxy:

        async def scenario() -> None:
            transport = open_transport(
                "http://provider.example:8080/v1",
                headers={"authorization": "Bearer sk-1"},
                environ={"HTTP_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}"},
            )
            assert await ask(transport) == BODY
            await transport.aclose()

        HTTPX.run(scenario())
    assert seen[0].line == "POST http://provider.example:8080/v1/chat/completions HTTP/1.1"
    assert seen[0].headers["host"] == "provider.example:8080"
    assert seen[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_a_secure_request_goes_through_a_tunnel(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    ca, tls = certificate
    tunnels: list[Request] = []

    with ScriptedServer(answering(LENGTH), tls) as server:

        def script(peer: Peer) -> None:
            tunnels.append(peer.read_head())
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            peer.join(server.port)

        with ScriptedServer(script) as proxy:

            async def scenario() -> None:
                transport = open_transport(
                    f"https://localhost:{server.port}",
                    headers={"authorization": "Bearer sk-1"},
                    proxy=proxy.url,
                    ca_bundle=ca,
                )
                assert await ask(transport) == BODY
                await transport.aclose()

            HTTPX.run(scenario())
    assert tunnels[0].line == f"CONNECT localhost:{server.port} HTTP/1.1"
    assert "authorization" not in tunnels[0].headers


def test_a_proxy_that_refuses_is_a_failed_connection() -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        peer.is_gone()

    with ScriptedServer(script) as proxy:

        async def scenario() -> None:
            transport = open_transport(
                "https://provider.example",
                headers={},
                proxy=f"http://me:secret@127.0.0.1:{proxy.port}",
            )
            with pytest.raises(ConnectFailed, match=r"provider\.example:443: 407") as caught:
                await ask(transport)
            assert "secret" not in caught.value.message
            assert not caught.value.dispatched
            await transport.aclose()

        HTTPX.run(scenario())


def test_httpx_is_not_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, adapters.http.transport as t;"
        "t.open_transport('https://h', headers={}, environ={});"
        "assert 'httpx2' not in sys.modules"
    )
    root = Path(inspect.getfile(AdapterError)).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


# ---- httpx2's errors


def every_httpx_error() -> list[type[Exception]]:
    public = (getattr(httpx2, name) for name in dir(httpx2))
    return [kind for kind in public if isinstance(kind, type) and issubclass(kind, Exception)]


def an_error(kind: type[Exception]) -> Exception:
    request = httpx2.Request("GET", "http://h")
    known = {"message": "text", "request": request, "response": httpx2.Response(500)}
    parameters = inspect.signature(kind).parameters
    return kind(**{name: known[name] for name in parameters if name in known})


@pytest.mark.parametrize("kind", every_httpx_error(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("is_in_body", [False, True])
def test_every_httpx_error_is_caught_and_translated(
    kind: type[Exception], is_in_body: bool
) -> None:
    assert issubclass(kind, FOREIGN_ERRORS)
    error = translated(an_error(kind), "h:80", is_in_body=is_in_body)
    assert isinstance(error, AdapterError)
    assert "h:80" in error.message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (httpx2.ConnectError, ConnectFailed),
        (httpx2.ProxyError, ConnectFailed),
        (httpx2.UnsupportedProtocol, ConnectFailed),
        (httpx2.InvalidURL, ConnectFailed),
        (httpx2.ConnectTimeout, UpstreamTimeout),
        (httpx2.PoolTimeout, UpstreamTimeout),
        (httpx2.ReadTimeout, UpstreamTimeout),
        (httpx2.WriteTimeout, UpstreamTimeout),
        (httpx2.ReadError, ConnectionLost),
        (httpx2.WriteError, ConnectionLost),
        (httpx2.CloseError, ConnectionLost),
        (httpx2.LocalProtocolError, ConnectionLost),
        (httpx2.StreamClosed, ConnectionLost),
        (httpx2.RemoteProtocolError, MalformedAnswer),
        (httpx2.DecodingError, MalformedAnswer),
        (httpx2.TooManyRedirects, MalformedAnswer),
    ],
)
def test_httpx_errors_keep_their_meaning(
    kind: type[Exception], expected: type[AdapterError]
) -> None:
    assert type(translated(an_error(kind), "h:80", is_in_body=False)) is expected


@pytest.mark.parametrize("kind", [httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ConnectError])
def test_what_never_left_cannot_be_billed(kind: type[Exception]) -> None:
    assert not translated(an_error(kind), "h:80", is_in_body=False).dispatched
