"""`azure`: OpenAI's models at an operator's own Azure resource.

Source: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models API version lifecycle".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack
from urllib.parse import quote

from adapters.base import Call
from adapters.http.over_http import Account
from adapters.openai_compatible import OpenAICompatible
from adapters.presets import PRESETS

_CURRENT = "/openai/v1"


class Azure(OpenAICompatible):
    """A resource such as `https://NAME.openai.azure.com`, whose models are deployments.

    Without an `api_version` the current API is asked, which knows deployments by the request's
    `model`; the dated ones have them in the path, but for that of `responses`.
    """

    def __init__(self, *, api_version: str | None = None, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        url = account["base_url"].rstrip("/")
        account["base_url"] = url.removesuffix("/v1").removesuffix("/openai")
        self._version = quote(api_version, safe="") if api_version else None
        super().__init__(preset=PRESETS["azure"], **account)

    def credentials(self, api_key: str) -> Mapping[str, str]:
        """Azure's own header; a token of Entra ID goes into the operator's `headers`."""
        return {"api-key": api_key}

    def path_of(self, call: Call) -> str:
        """The path of the deployment, or of the current API."""
        path = super().path_of(call)
        if self._version is None:
            return _CURRENT + path
        if call.endpoint == "responses":
            return f"/openai{path}?api-version={self._version}"
        deployment = quote(call.model, safe="")
        return f"/openai/deployments/{deployment}{path}?api-version={self._version}"

    @property
    def models_path(self) -> str:
        """What lists the models of the resource; nothing lists its deployments."""
        if self._version is None:
            return f"{_CURRENT}/models"
        return f"/openai/models?api-version={self._version}"
