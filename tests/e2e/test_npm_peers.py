"""Peers that nobody of us wrote, from npm: aimock as the upstream, OpenAI's Node SDK as the client.

`make test` installs them where npm is to be had; skipped otherwise.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tollway import Tollway, serving

NPM = Path(__file__).with_name("npm")
MODULES = NPM / "node_modules"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not MODULES.exists(),
    reason="Node.js or the npm packages are not installed (make test does it where npm is)",
)

USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
FIXTURES = {
    "fixtures": [
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
}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures.json").write_text(json.dumps(FIXTURES))
    log = folder / "aimock.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["node", MODULES / ".bin" / "llmock", "-p", "0", "-f", folder / "fixtures.json"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 20
        while not (found := re.search(r"listening on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        price = {"input": 1, "output": 2}
        config = {
            "providers": {"mock": {"base_url": f"{found.group(1)}/v1", "api_key": "x"}},
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
    finally:
        process.terminate()
        process.wait(10)


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
