"""One webhook: where it is, how a message to it is signed, and one try to deliver one.

Messages follow Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): `webhook-id` stays the
same however often a message is repeated, `webhook-timestamp` is that of the try, and
`webhook-signature` is `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from adapters.base import AdapterError, Deadlines
from adapters.http.http_rules import Origin
from adapters.http.transport import open_transport
from proxy import retry_after

TIMEOUT_S = 10.0
"""For one try, from the first packet to the head of the answer."""

LEAST_KEY_BYTES = 24
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with


class NotTaken(Exception):
    """A try failed. `retry_after_s` is what the receiver asks for; `is_final`: never try again."""

    def __init__(
        self, reason: str, *, retry_after_s: float | None = None, is_final: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_final = is_final


class Webhook:
    """A receiver. For one event loop; `aclose` it at the end.

    Messages about it name its host and never its URL, whose path is often a secret.
    """

    def __init__(
        self,
        url: str,
        *,
        key: bytes | None,
        timeout_s: float = TIMEOUT_S,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises `ValueError` for a URL that cannot be used. Without a key nothing is signed.

        `environ` names the proxy, if there is one.
        """
        origin, self._path = _split(url)
        self._key = key
        self._timeout_s = timeout_s
        # The time limit is one on the whole try; the transport's own are only not to be shorter.
        longest_s = 2 * timeout_s
        self._deadlines = Deadlines(connect_s=longest_s, first_byte_s=longest_s, idle_s=longest_s)
        self._transport = open_transport(
            origin, headers={"user-agent": "tollway", "accept": "*/*"}, environ=environ
        )
        self.host = Origin.parse(origin).host

    async def post(self, message_id: str, body: bytes, now: int) -> None:
        """Send a JSON text once. Raises `NotTaken` unless it was answered with a 2xx in time.

        `now` is the Unix time. Redirects are not followed, and the answer's body is not read.
        """
        headers = {"content-type": "application/json", "webhook-id": message_id}
        if self._key is not None:
            headers["webhook-timestamp"] = str(now)
            headers["webhook-signature"] = signature(self._key, message_id, now, body)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.post(self._path, headers, body, self._deadlines)
        except TimeoutError:
            raise NotTaken(f"it did not answer within {self._timeout_s:g} s") from None
        except AdapterError as error:
            raise NotTaken(str(error)) from None
        status, asked = response.status, response.headers.get("retry-after", "")
        response.close()
        if not 200 <= status < 300:
            raise NotTaken(
                f"it answered with status {status}",
                retry_after_s=retry_after.seconds(asked, now),
                is_final=status == HTTPStatus.GONE,
            )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signing_key(secret: str) -> bytes:
    """The key that a secret stands for: base64 after `whsec_`, otherwise the text itself.

    Raises `ValueError`, without quoting it, for one that is shorter than the standard allows.
    """
    encoded = secret.removeprefix(_SECRET_PREFIX)
    if encoded == secret:
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raise ValueError(f"what follows {_SECRET_PREFIX} is not base64") from None
    if len(key) < LEAST_KEY_BYTES:
        raise ValueError(
            f"is a key of {len(key)} bytes, and must have {LEAST_KEY_BYTES}; "
            "make one with 'openssl rand -base64 32'"
        )
    return key


def url_problem(url: str) -> str | None:
    """What is wrong with a webhook's URL, without quoting it; None where there is nothing."""
    try:
        origin, path = _split(url)
        Origin.parse(origin).target(path)
    except ValueError:
        return (
            "is no URL that can be posted to; expected http(s)://host/path, %-encoded, "
            "without a user or a fragment"
        )
    return None


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError("a webhook's URL has no fragment")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}", (parts.path or "/") + query
