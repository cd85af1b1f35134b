"""Servers on real sockets that do exactly what a test tells them, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a client sent: `line` without its end, headers by lower-case name, the body."""

    line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def read_request(self) -> Request:
        head = self.read_head()
        while len(self._received) < int(head.headers.get("content-length", "0")):
            self._receive()
        size = int(head.headers.get("content-length", "0"))
        body, self._received = self._received[:size], self._received[size:]
        return Request(line=head.line, headers=head.headers, body=body)

    def read_head(self) -> Request:
        """The head alone; its body, if it has one, is left where it is."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        return Request(line=line, headers={name.lower(): value for name, value in pairs}, body=b"")

    def _receive(self) -> None:
        data = self._connection.recv(1 << 20)
        if not data:
            raise ConnectionError("the client closed the connection in the middle of a request")
        self._received += data

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def send_until_stuck(self, piece: bytes, limit: int) -> int:
        """Send `piece` again and again; how many bytes went out before nobody took more."""
        sent = 0
        self._connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent < limit:
                sent += self._connection.send(piece[: limit - sent])
        self._connection.settimeout(PATIENCE_S)
        return sent

    def finish(self) -> None:
        """End our side with a FIN, and keep on receiving."""
        self._connection.shutdown(socket.SHUT_WR)

    def say_goodbye(self) -> None:
        """End a TLS connection as the protocol wants it."""
        assert isinstance(self._connection, ssl.SSLSocket)
        self._connection.unwrap()

    def close(self) -> None:
        self._connection.close()

    def reset(self) -> None:
        """End the connection with an RST."""
        linger = struct.pack("ii", 1, 0)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._connection.close()

    def join(self, port: int) -> None:
        """Be a tunnel to a local port until both ends are closed."""
        with socket.create_connection(("127.0.0.1", port)) as other:
            back = threading.Thread(target=_pump, args=(other, self._connection))
            back.start()
            _pump(self._connection, other)
            back.join(PATIENCE_S)

    def is_gone(self, within_s: float = PATIENCE_S) -> bool:
        """True when the client closes its side in time; what it still sends is dropped."""
        self._connection.settimeout(within_s)
        try:
            while self._connection.recv(1 << 20):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self._connection.settimeout(PATIENCE_S)
        return True


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class ScriptedServer:
    """Runs `script` for every connection, each in a thread.

    What a script raises fails the test when the server is left, except a client's hanging up.
    """

    def __init__(self, script: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._is_stopping = False
        self.connections = 0

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self._tls is None else "localhost"
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    def __enter__(self) -> ScriptedServer:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping = True
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a server script does not end"
        self._listener.close()
        if self._failures:
            raise self._failures[0]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._is_stopping:
                connection.close()
                return
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as opened:
            opened.callback(connection.close)
            try:
                if self._tls is not None:
                    connection.settimeout(PATIENCE_S)
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    opened.callback(connection.close)
                self._script(Peer(connection))
            except (ConnectionError, ssl.SSLError):
                pass
            except BaseException as failure:
                self._failures.append(failure)


@contextlib.asynccontextmanager
async def serving_parts(*answers: Sequence[bytes]) -> AsyncIterator[str]:
    """Answer one request after the other, each in the given parts, then close; yields the URL.

    The server lives in the client's own event loop and lets it turn between two parts, so that
    the client reads them one by one.
    """
    waiting = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for parts in waiting:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
                for part in parts:
                    writer.write(part)
                    await let_loop_turn()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def let_loop_turn() -> None:
    """Let everything happen that is ready to: what one turn writes, the next one reads."""
    for _ in range(5):
        await asyncio.sleep(0)


@contextlib.contextmanager
def deaf_listener() -> Iterator[int]:
    """A port where connecting never ends: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for localhost: its PEM file, and a server context that has it.

    Raises `FileNotFoundError` where there is no `openssl` command.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context
