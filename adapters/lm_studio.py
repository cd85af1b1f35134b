"""`lm_studio`: LM Studio's server, which tells more of its models beside OpenAI's dialect.

Source: LM Studio docs, "REST API v0".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import msgspec

from adapters.base import Call, UpstreamError
from adapters.http.over_http import Account
from adapters.listing import Listed
from adapters.openai_compatible import OpenAICompatible
from adapters.presets import PRESETS

_OPENAI = "/v1"
_OWN_LIST = "/api/v0/models"
_KINDS = {
    "llm": frozenset({"chat", "json_schema"}),
    "vlm": frozenset({"chat", "json_schema", "vision"}),
    "embeddings": frozenset({"embeddings"}),
}


class LmStudio(OpenAICompatible):
    """One server, by the base URL of its OpenAI dialect."""

    def __init__(self, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        url = account["base_url"].rstrip("/")
        account["base_url"] = url.removesuffix(_OPENAI)
        self._within = _OPENAI if url.endswith(_OPENAI) else ""
        super().__init__(preset=PRESETS["lm_studio"], **account)

    def path_of(self, call: Call) -> str:
        """See `OpenAICompatible`."""
        return self._within + super().path_of(call)

    @property
    def models_path(self) -> str:
        """See `OpenAICompatible`."""
        return self._within + super().models_path

    async def listed(self) -> Sequence[Listed]:
        """What its own list tells; OpenAI's where it has none."""
        try:
            said = _list.decode(await self.get(_OWN_LIST))
        except (UpstreamError, ValueError, RecursionError):
            return await super().listed()
        return tuple(_listed(model) for model in said.data)


class _Model(msgspec.Struct):
    id: str
    type: str = ""
    arch: str = ""
    quantization: str = ""
    state: str = ""
    max_context_length: int | None = None
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None


class _List(msgspec.Struct):
    data: list[_Model]


_list = msgspec.json.Decoder(_List)


def _listed(model: _Model) -> Listed:
    can = _KINDS.get(model.type)
    # Older versions do not say which models use tools; they let any try.
    uses_tools = model.capabilities is None or "tool_use" in model.capabilities
    if can is not None and "chat" in can and uses_tools:
        can |= {"tools"}
    is_loaded = model.state == "loaded"
    length = model.loaded_context_length if is_loaded else None
    length = length or model.max_context_length
    return Listed(
        name=model.id,
        capabilities=can,
        context_length=length if length is not None and 0 < length < 1 << 31 else None,
        architecture=model.arch,
        quantisation=model.quantization,
        is_loaded=is_loaded if model.state else None,
    )
