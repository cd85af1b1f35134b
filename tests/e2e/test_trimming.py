"""Trimmed histories in the real product: what goes upstream, what is told, and what is billed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "x" * 8000},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "y" * 2000},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "And now?"},
]


@pytest.fixture(scope="module")
def tollway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1")
    config["models"]["short"] = {"targets": ["up/m1"], "history": {"max_tokens": 1000}}
    with serving(tmp_path_factory.mktemp("trimming"), config) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_old_messages_are_left_out_and_told(
    tollway: Tollway, upstream: Upstream, stream: bool
) -> None:
    body = {"model": "short", "messages": LONG, "stream": stream}
    dry = tollway.post("/v1/route", body).json()
    reply = tollway.post("/v1/chat/completions", body)
    assert reply.status_code == 200
    assert reply.headers["x-tollway-trimmed-messages"] == "4"
    assert upstream.calls[-1].body["messages"] == [LONG[0], LONG[-1]]
    assert dry["trimmed_messages"] == 4
    assert dry["decision"] == reply.headers["x-tollway-decision"]
    assert dry["input_tokens"] < 100


def test_what_is_held_is_for_what_is_sent(tollway: Tollway) -> None:
    tollway.post("/v1/chat/completions", {"model": "short", "messages": LONG, "max_tokens": 10})
    tollway.post("/v1/chat/completions", {"model": "auto", "messages": LONG, "max_tokens": 10})
    short, whole = tollway.rows(minimum=2)[-2:]
    assert short["hold_nanousd"] < whole["hold_nanousd"] / 5


def test_others_are_sent_whole(tollway: Tollway, upstream: Upstream) -> None:
    for model in ("auto", "up/m1"):
        reply = tollway.post("/v1/chat/completions", {"model": model, "messages": LONG})
        assert "x-tollway-trimmed-messages" not in reply.headers
        assert upstream.calls[-1].body["messages"] == LONG
    assert "x-tollway-trimmed-messages" not in tollway.chat("short").headers


def test_anthropics_messages_are_cut_too(tollway: Tollway, upstream: Upstream) -> None:
    messages = [
        {"role": "user", "content": "x" * 8000},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "And now?"},
    ]
    body = {"model": "short", "messages": messages, "max_tokens": 10}
    reply = tollway.post("/v1/messages", body, headers={"anthropic-version": "2023-06-01"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-tollway-trimmed-messages"] == "2"
    assert [each["content"] for each in upstream.calls[-1].body["messages"]] == ["And now?"]


def test_a_limit_that_says_nothing_is_an_error(tollway: Tollway) -> None:
    for history in ("{}", "{max_tokens: 0}", "{max_messages: 1}", "{tokens: 5}"):
        file = tollway.folder / "wrong.yaml"
        file.write_text(f"models:\n  auto:\n    targets: [tier:auto]\n    history: {history}\n")
        done = tollway.cli("check", str(file))
        assert done.returncode == 2
        assert "models.auto.history" in done.stderr
        assert len(done.stderr.splitlines()) == 1
