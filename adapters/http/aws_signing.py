"""Signing requests to AWS (Signature Version 4) with the credentials that botocore finds.

It looks where Amazon's own tools look: the environment, the profiles and sign-ins of `~/.aws`, the
roles of containers and machines. Source: "Credentials" in Boto3's documentation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session

from adapters.base import UpstreamAuth
from adapters.http.renewed import Renewed, State

logger = logging.getLogger(__name__)

# Before a key expires so many seconds ahead, no request is signed with it.
_LEAST_S = 60


@dataclass(frozen=True, slots=True, repr=False)
class _Credentials:
    """What renews itself, and the keys it had last."""

    source: Any
    keys: Any


class Signer:
    """One region, and one profile or whatever else there is."""

    def __init__(self, *, region: str, profile: str | None = None) -> None:
        """Raises `ValueError` for a profile that is not there. Keys are looked for when needed."""
        self._region = region
        self._session = Session(profile=profile)
        # Whoever is asked for keys is asked there too.
        self._session.set_config_variable("region", region)
        if profile is not None:
            try:
                self._session.get_scoped_config()
            except BotoCoreError as error:
                raise ValueError(str(error)) from None
        self._credentials = Renewed(self._fetch, _state_of)

    async def headers(self, url: str, body: bytes, content_type: str) -> dict[str, str]:
        """What a POST request is sent with; raises `UpstreamAuth` without credentials."""
        keys = await self._keys()
        request = AWSRequest(
            method="POST", url=url, data=body, headers={"content-type": content_type}
        )
        SigV4Auth(keys, "bedrock", self._region).add_auth(request)
        return {name.lower(): value for name, value in request.headers.items()}

    async def _keys(self) -> Any:
        try:
            return (await self._credentials.get()).keys
        except (BotoCoreError, ClientError) as error:
            logger.warning("no AWS credentials: %s", error)
            raise UpstreamAuth("there are no credentials for Amazon Bedrock", status=401) from None

    def _fetch(self) -> _Credentials:
        source = self._session.get_credentials()
        if source is None:
            raise NoCredentialsError
        return _Credentials(source, source.get_frozen_credentials())

    async def aclose(self) -> None:
        """Let go of keys that are being fetched."""
        await self._credentials.aclose()


def _state_of(credentials: _Credentials) -> State:
    source = credentials.source
    if not isinstance(source, RefreshableCredentials) or not source.refresh_needed():
        return "fresh"
    return "stale" if source.refresh_needed(refresh_in=_LEAST_S) else "ageing"
