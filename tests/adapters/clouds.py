"""What Amazon and Google do on their side: signatures checked, frames made, tokens given out."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

from tests.adapters.servers import Peer, Request, ScriptedServer

# --- Amazon's frames ------------------------------------------------------------------------------


def header(name: str, value: str) -> bytes:
    """A header that is text."""
    text = value.encode()
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(text)) + text


def message(headers: bytes, payload: bytes) -> bytes:
    """A message of an event stream, with its checksums."""
    lengths = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = lengths + struct.pack("!I", crc32(lengths)) + headers + payload
    return body + struct.pack("!I", crc32(body))


def event(name: str, payload: object) -> bytes:
    """An event with a JSON payload."""
    headers = header(":event-type", name) + header(":content-type", "application/json")
    return message(headers + header(":message-type", "event"), json.dumps(payload).encode())


def exception(name: str, text: str) -> bytes:
    """An error that ends a stream."""
    headers = header(":exception-type", name) + header(":message-type", "exception")
    return message(headers, json.dumps({"message": text}).encode())


def chunk(inner: object) -> bytes:
    """An event of Anthropic's in a message of Amazon's, which pads it."""
    wrapped = base64.b64encode(json.dumps(inner).encode()).decode()
    return event("chunk", {"bytes": wrapped, "p": "abcdefgh"})


# --- Amazon's signatures --------------------------------------------------------------------------


def signature(request: Request, secret: str) -> str:
    """Signature Version 4 of a request, from its own account of what it signed."""
    method, target, _ = request.line.split(" ")
    path, _, query = target.partition("?")
    assert not query
    fields = dict(
        field.split("=", 1)
        for field in request.headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    )
    names = fields["SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/~"),
            "",
            *(f"{name}:{request.headers[name]}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    _, *scope = fields["Credential"].split("/")
    to_sign = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            request.headers["x-amz-date"],
            "/".join(scope),
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for step in scope:
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def path_of(request: Request) -> str:
    """The path as it is meant."""
    return unquote(request.line.split(" ")[1])


# --- Google's tokens ------------------------------------------------------------------------------


@functools.cache
def private_key() -> str:
    """A key of a service account."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def service_account(folder: Path, token_uri: str) -> Path:
    """The key file of a service account."""
    account = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "1",
        "private_key": private_key(),
        "client_email": "tollway@my-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    file = folder / "key.json"
    file.write_text(json.dumps(account))
    return file


class TokenService:
    """Gives out `token-1-...`, `token-2-...`, which last `expires_in` seconds; an error for 0."""

    def __init__(self, expires_in: int = 3600) -> None:
        self.expires_in = expires_in
        self.given = 0
        self.asked: list[Request] = []

    def serve(self, peer: Peer) -> None:
        self.asked.append(peer.read_request())
        if not self.expires_in:
            peer.send(_answer(400, {"error": "invalid_grant", "error_description": "no"}))
            return
        self.given += 1
        token = f"token-{self.given}-0123456789"
        answer: dict[str, Any] = {"access_token": token, "token_type": "Bearer"}
        peer.send(_answer(200, {**answer, "expires_in": self.expires_in}))

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[Path]:
        """The key file of an account that it knows."""
        with ScriptedServer(self.serve) as server:
            yield service_account(folder, f"{server.url}/token")


def _answer(status: int, body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Because\r\ncontent-type: application/json\r\n"
    return f"{head}connection: close\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text
