"""`anthropic`: Anthropic's Messages API, for chat and in its own dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack
from urllib.parse import quote

import msgspec

from adapters.base import Call, MalformedAnswer, UpstreamError
from adapters.http.over_http import Account, Dispatch, HttpAdapter
from adapters.wire import loose_json
from adapters.wire.anthropic_answer import ChatReader, MessagesReader
from adapters.wire.anthropic_failures import error_of
from adapters.wire.anthropic_request import to_messages

VERSION = "2023-06-01"
"""The version of the API that chat is translated to: the last that knows `temperature`."""

_PAGE = 1000
# Nobody has more models than this; a list without end is none.
_MOST_PAGES = 20


class Anthropic(HttpAdapter):
    """One base URL with one key; the URL ends in `/v1`, or is what Anthropic's SDKs add that to."""

    speaks = frozenset({"chat", "messages", "count_tokens"})

    def __init__(self, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        given = {name.lower(): value for name, value in (account.get("headers") or {}).items()}
        # The client may have its own of these two.
        self._version = given.pop("anthropic-version", VERSION)
        self._betas = given.pop("anthropic-beta", "")
        account["headers"] = given
        if "authorization" in given:  # takes the place of the key: Anthropic refuses both at once
            account["api_key"] = None
        super().__init__(**account)
        self._root = "" if account["base_url"].rstrip("/").endswith("/v1") else "/v1"

    def credentials(self, api_key: str) -> Mapping[str, str]:
        """Anthropic's own header."""
        return {"x-api-key": api_key}

    async def prepare(self, call: Call) -> Dispatch:
        """Chat is translated; what is in Anthropic's dialect already goes as it is."""
        headers, path = self._headers(call), f"{self._root}/messages"
        if call.endpoint == "count_tokens":
            path += "/count_tokens"
        if call.endpoint != "chat":
            return Dispatch(path=path, body=call.body, headers=headers, reader=MessagesReader())
        translated = to_messages(
            call.body,
            model=call.model,
            default_max_tokens=call.default_max_tokens,
            drop_params=call.drop_params,
        )
        request = {"model": call.model, **translated.members, "stream": call.stream}
        return Dispatch(
            path=path,
            body=loose_json.encode(request),
            headers={**headers, "anthropic-version": self._version},
            reader=ChatReader(call.model),
            dropped=translated.dropped,
        )

    def _headers(self, call: Call) -> dict[str, str]:
        """The client's, with the operator's betas beside its own."""
        headers = {"anthropic-version": self._version, **call.headers}
        betas = [beta for beta in (self._betas, call.headers.get("anthropic-beta")) if beta]
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        return headers

    def error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error that an answer with an error status stands for."""
        return error_of(status, headers, body)

    async def models(self) -> Sequence[str]:
        """The ids that `GET /models` lists, page after page."""
        found: list[str] = []
        path = first = f"{self._root}/models?limit={_PAGE}"
        for _ in range(_MOST_PAGES):
            page = _read_page(await self.get(path, {"anthropic-version": self._version}))
            found += [model.id for model in page.data]
            if not (page.has_more and page.last_id):
                return tuple(found)
            path = f"{first}&after_id={quote(page.last_id, safe='')}"
        raise MalformedAnswer("the provider's list of models has no end")


class _Model(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


_page = msgspec.json.Decoder(_Page)


def _read_page(body: bytes) -> _Page:
    try:
        return _page.decode(body)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's list of models is not what it should be") from None
