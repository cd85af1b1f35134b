"""Promise 1 over every endpoint: a budgeted key can reach nothing whose price is not known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast, get_args

import httpx2
import pytest

from policies.base import Capability
from proxy.assembly import inference_routes
from proxy.responses import Responses
from tests.e2e.tollway import Tollway, serving
from tests.e2e.upstream import Upstream

# A body for each endpoint: what it needs besides `model`, and what of it has no bound.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9},
    "/v1/responses": {"input": "Hello"},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
    "/v1/moderations": {"input": "Hello"},
    "/v1/images/generations": {"prompt": "a toll gate"},
    "/v1/audio/transcriptions": {},
    "/v1/audio/speech": {"input": "Hello", "voice": "alloy"},
    "/v1/rerank": {"query": "toll", "documents": ["a"]},
    "/v2/rerank": {"query": "toll", "documents": ["a"]},
}
FORMS = {"/v1/audio/transcriptions": {"file": ("talk.mp3", b"ID3")}}
_NONE = cast(Any, None)
_RESPONSES = Responses(auth=_NONE, engine=_NONE, store=_NONE, max_body=1)
PATHS = list(inference_routes(_NONE, _NONE, _RESPONSES, max_body=1))


@pytest.fixture(scope="module")
def unpriced(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = {
        "providers": {"up": {"base_url": upstream.base_url}},
        "targets": [
            {"target": "up/unpriced", "capabilities": list(get_args(Capability))},
            {
                "target": "up/endless",
                "price": {"input": 1, "output": 2},
                "capabilities": list(get_args(Capability)),
            },
        ],
        "models": {"virtual": {"targets": ["up/unpriced"]}},
    }
    with serving(tmp_path_factory.mktemp("unpriced"), config) as running:
        yield running


@pytest.fixture(scope="module")
def budgeted(unpriced: Tollway) -> str:
    key = unpriced.admin("POST", "/keys", {"name": "budgeted"})
    budget = {"scope": f"key:{key['id']}", "window": "lifetime", "limit_usd": 1000}
    unpriced.admin("POST", "/budgets", budget)
    return str(key["key"])


def _post(tollway: Tollway, path: str, model: str, key: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {**BODIES[path], "model": model}
    sent: dict[str, Any] = {"json": body}
    if path in FORMS:
        sent = {"data": body, "files": FORMS[path]}
    return httpx2.post(tollway.url + path, headers=headers, timeout=30, **sent)


def test_every_endpoint_has_a_body() -> None:
    assert set(PATHS) == set(BODIES)


@pytest.mark.negative(number=14)
@pytest.mark.parametrize("model", ["up/unpriced", "virtual"])
@pytest.mark.parametrize("path", PATHS)
def test_a_budgeted_key_reaches_nothing_unpriced(
    unpriced: Tollway, budgeted: str, upstream: Upstream, path: str, model: str
) -> None:
    answer = _post(unpriced, path, model, budgeted)
    assert answer.status_code == 403, answer.text
    assert "no price is known" in answer.text
    assert upstream.calls == []
    assert unpriced.query("SELECT * FROM attempts") == []


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/v1/audio/transcriptions", "/v1/audio/speech"]
)
def test_a_budgeted_key_reaches_no_answer_without_end(
    unpriced: Tollway, budgeted: str, upstream: Upstream, path: str
) -> None:
    answer = _post(unpriced, path, "up/endless", budgeted)
    assert answer.status_code == 403, answer.text
    assert "max_output_tokens" in answer.text
    assert upstream.calls == []
