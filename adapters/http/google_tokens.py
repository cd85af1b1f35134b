"""Access tokens for Google Cloud: of a service account, or of whatever google-auth finds.

Source: Google Cloud's documentation, "How Application Default Credentials works".
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import google.auth
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from adapters.base import ConnectFailed, UpstreamAuth
from adapters.http.renewed import Renewed, State

logger = logging.getLogger(__name__)

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
# So many seconds before it expires a token is renewed, and is no longer used.
_AGEING_S, _STALE_S = 300.0, 30.0


@dataclass(frozen=True, slots=True, repr=False)
class _Token:
    text: str
    expires_at: float


class Tokens:
    """One service account, or the application default credentials."""

    def __init__(self, credentials_file: Path | None = None) -> None:
        """Raises `OSError` and `ValueError` for a file that is no service account's key."""
        self._credentials: Any = None
        if credentials_file is not None:
            self._credentials = _service_account(credentials_file)
        self._tokens = Renewed(self._fetch, _state_of)

    async def token(self) -> str:
        """A token that is valid now; raises `UpstreamAuth`, and `ConnectFailed` for the network."""
        try:
            return (await self._tokens.get()).text
        except TransportError as error:
            logger.warning("no access token for Google Cloud: %s", error)
            raise ConnectFailed("Google's token service cannot be reached") from None
        except GoogleAuthError as error:
            logger.warning("no access token for Google Cloud: %s", error)
            raise UpstreamAuth("there are no credentials for Vertex AI", status=401) from None

    def _fetch(self) -> _Token:
        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=_SCOPES)
        self._credentials.refresh(Request())
        expiry = self._credentials.expiry  # in UTC, though it has no zone
        expires_at = math.inf if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return _Token(self._credentials.token, expires_at)

    async def aclose(self) -> None:
        """Let go of a token that is being fetched."""
        await self._tokens.aclose()


def _state_of(token: _Token) -> State:
    left_s = token.expires_at - time.time()
    if left_s > _AGEING_S:
        return "fresh"
    return "ageing" if left_s > _STALE_S else "stale"


def _service_account(file: Path) -> Any:
    try:
        load: Any = service_account.Credentials.from_service_account_file  # it has no types
        return load(str(file), scopes=_SCOPES)
    except ValueError:
        # Its own message may quote the file.
        raise ValueError(f"{str(file)!r} is no key file of a service account") from None
