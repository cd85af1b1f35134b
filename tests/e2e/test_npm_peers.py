"""Peers that nobody of us wrote, from npm: aimock as the upstream, OpenAI's Node SDK as the client.

`make test` installs them where npm is to be had; skipped otherwise.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import stand_ins
from tests.e2e.stand_ins import NPM
from tests.e2e.tollway import Tollway, serving

pytestmark = pytest.mark.skipif(
    not stand_ins.has_npm_peers(),
    reason="Node.js or the npm packages are not installed (make test does it where npm is)",
)

USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
FIXTURES: list[dict[str, Any]] = [
    {
        "match": {"userMessage": "hello"},
        "response": {"content": "Hello! How can I help you today?", "usage": USAGE},
    },
    {
        "match": {"userMessage": "weather"},
        "response": {
            "toolCalls": [{"name": "get_weather", "arguments": {"location": "Paris"}}],
            "usage": USAGE,
        },
    },
    {
        "match": {"userMessage": "cut"},
        "response": {"content": "This will be cut in the middle of it, and must show"},
        "truncateAfterChunks": 3,
    },
    {
        "match": {"userMessage": "slow down"},
        "response": {
            "error": {"message": "Slow down", "type": "rate_limit_error"},
            "status": 429,
        },
    },
    {"match": {"inputText": "a"}, "response": {"embedding": [0.5] * 8}},
    {"match": {"endpoint": "embedding"}, "response": {"embedding": [0.25] * 8}},
]


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("aimock")
    price = {"input": 1, "output": 2}
    with stand_ins.aimock(folder, FIXTURES) as url:
        config = {
            "providers": {"mock": {"base_url": f"{url}/v1", "api_key": "x"}},
            "targets": [
                {"target": "mock/gpt-4o", "price": price, "max_output_tokens": 100},
                {"target": "mock/text-embedding-3-small", "price": price},
            ],
            "models": {
                "auto": {"targets": ["mock/gpt-4o"]},
                "vectors": {"targets": ["mock/text-embedding-3-small"]},
            },
        }
        with serving(folder, config) as running:
            yield running


def test_openai_node(aimock: Tollway) -> None:
    done = subprocess.run(
        ["node", NPM / "check.mjs", f"{aimock.url}/v1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + aimock.log()
    rows = aimock.rows()
    assert rows[0]["cost_nanousd"] == 9 * 1000 + 8 * 2000
    assert rows[-1]["outcome"] == "broken"


def test_a_truncated_stream_shows(aimock: Tollway) -> None:
    reply = aimock.chat("auto", messages=[{"role": "user", "content": "cut"}], stream=True)
    # It resets the connection, which may overtake the first chunks: then there is a status.
    assert "[DONE]" not in reply.text
    assert '"error":' in reply.text
    assert reply.status_code == (200 if reply.text.startswith("data:") else 502)


def test_its_rate_limit_is_ours(aimock: Tollway) -> None:
    reply = aimock.chat("auto", messages=[{"role": "user", "content": "slow down"}])
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert aimock.rows()[-1]["cost_nanousd"] == 0
