"""The official SDK, in each major version that is in use, notices nothing."""

from __future__ import annotations

import pytest
import yaml

from tests.e2e.sdk_runs import run_sdk_checks
from tests.e2e.tollway import Tollway, serving

SCRIPT = {
    "models": ["talker"],
    "replies": [
        {
            "when": "weather",
            "tool_calls": [
                {"name": "get_weather", "arguments": {"city": "Paris"}},
                {"name": "get_weather", "arguments": {"city": "Rome"}},
            ],
        },
        {
            "when": "break",
            "text": "one two three",
            "fault": {"kind": "disconnect", "after_tokens": 1},
        },
        {"text": "Once upon a time."},
    ],
}
EMBED_SCRIPT = {"models": ["embedder"], "dimensions": 64, "replies": [{"text": "unused"}]}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "script.yaml").write_text(yaml.safe_dump(SCRIPT))
    (folder / "embed.yaml").write_text(yaml.safe_dump(EMBED_SCRIPT))
    price = {"input": 1, "output": 2}
    config = {
        "providers": {
            "script": {"adapter": "scripted", "script": str(folder / "script.yaml")},
            "vectors": {"adapter": "scripted", "script": str(folder / "embed.yaml")},
        },
        "targets": [
            {"target": "script/talker", "price": price, "max_output_tokens": 500},
            {"target": "vectors/embedder", "price": price, "capabilities": ["embeddings"]},
        ],
        "models": {
            **{name: {"targets": ["script/talker"]} for name in ("auto", "cheap", "best")},
            "embed": {"targets": ["vectors/embedder"]},
        },
    }
    with serving(folder, config) as running:
        yield running


@pytest.mark.parametrize("version", ["3", "2"])
def test_openai_sdk(scripted: Tollway, version: str) -> None:
    run_sdk_checks(scripted, "sdk_checks.py", version)
