"""A real upstream that nobody of us wrote: llama.cpp's `llama-server` on a tiny model.

Looked for in `LLAMA_SERVER` or on the PATH, and beside the checkout (`../*/bin/llama-server`,
`../*/models/*.gguf`); skipped where there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from tests.e2e.tollway import Tollway, events, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk
from tests.waiting import until

BESIDE = Path(__file__).parents[3]


def _find_binary() -> str | None:
    named = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    return named or next(map(str, BESIDE.glob("*/bin/llama-server")), None)


def _find_model() -> Path | None:
    return next(iter(sorted(BESIDE.glob("*/models/*trained.gguf"))), None)


BINARY, MODEL = _find_binary(), _find_model()
pytestmark = pytest.mark.skipif(
    BINARY is None or MODEL is None, reason="no llama-server with a tiny model at hand"
)


@pytest.fixture(scope="module")
def llama(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("llama")
    arguments = [
        "--model",
        str(MODEL),
        "--port",
        str(port),
        "--parallel",
        "2",
        "--ctx-size",
        "1024",
    ]
    with (folder / "llama.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BINARY), *arguments, "--threads", "1", "--embeddings", "--pooling", "mean"],
            stdout=log,
            stderr=log,
        )
    base_url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait_until_loaded(port, process, folder / "llama.log")
        config = {
            "providers": {
                "llama": {"base_url": base_url},
                "known": {"base_url": base_url, "adapter": "llama_server"},
                "up": {"base_url": upstream.base_url},
            },
            "targets": [
                {
                    "target": "llama/tiny",
                    "price": {"input": 1, "output": 2},
                    "tiers": ["local"],
                    "context_length": 512,
                    "max_output_tokens": 200,
                },
                {
                    "target": "llama/tiny-embed",
                    "model": "tiny",
                    "price": "free",
                    "capabilities": ["embeddings"],
                },
                *({"target": name, "price": "free"} for name in ("known/tiny", "up/m1")),
            ],
            "models": {
                "local": {"targets": ["tier:local"]},
                "novel": {"targets": ["up/m1", "known/tiny"], "continuation": True},
            },
        }
        with serving(folder, config) as running:
            yield running
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_loaded(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_loaded() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx2.TransportError:
            return False

    until(is_loaded, told=lambda: log.read_text()[-2000:])


def test_goes_on_where_another_broke(llama: Tollway, upstream: Upstream) -> None:
    # What it says by itself, at temperature 0, is what it must say after another said half of it.
    settings = {"temperature": 0, "seed": 1, "max_tokens": 40, "stream": True}
    alone = events(llama.chat("known/tiny", **settings).text)[:-1]
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in alone]
    half = next(i for i in range(10, len(pieces)) if not pieces[i - 1].endswith((" ", "\n")))

    async def break_off(call: Call, line: Line) -> None:
        await line.start_stream()
        for piece in pieces[:half]:
            await line.event(chunk({"content": piece}))
        await line.send(b"0\r\n\r\n")

    upstream.scripts["m1"] = break_off
    reply = llama.chat("novel", **settings)
    assert reply.text.endswith("data: [DONE]\n\n")
    deltas = [event["choices"][0]["delta"] for event in events(reply.text)[:-1]]
    said = "".join(delta.get("content") or "" for delta in deltas)
    assert len(said) > len("".join(pieces[:half]))
    assert "".join(pieces).startswith(said)
    assert llama.rows()[-1]["route_reason"] == "continuation"


def test_answers_and_counts(llama: Tollway) -> None:
    with OpenAI(base_url=f"{llama.url}/v1", api_key="x") as client:
        messages = [{"role": "user", "content": "Hello"}]
        answer = client.chat.completions.create(
            model="local", messages=messages, temperature=0, seed=1, max_tokens=20
        )
        text = answer.choices[0].message.content
        assert text
        streamed, usage = "", None
        for chunk in client.chat.completions.create(
            model="local",
            messages=messages,
            temperature=0,
            seed=1,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        ):
            streamed += chunk.choices[0].delta.content or "" if chunk.choices else ""
            usage = chunk.usage or usage
    assert streamed == text
    assert usage
    whole, stream = llama.rows()[-2:]
    assert whole["output_tokens"] == stream["output_tokens"] == usage.completion_tokens
    assert whole["input_tokens"] == usage.prompt_tokens
    assert stream["cost_nanousd"] == usage.prompt_tokens * 1000 + usage.completion_tokens * 2000
    assert whole["cost_nanousd"] <= whole["hold_nanousd"]
    assert not whole["estimated"]


def test_structured_output_and_logprobs(llama: Tollway) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    reply = llama.chat(
        "local",
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        logprobs=True,
        stream=True,
        max_tokens=40,
    )
    chunks = [e for e in events(reply.text) if e != "[DONE]"]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text.startswith("{")
    assert any(c["choices"][0].get("logprobs") for c in chunks)


def test_embeddings_in_both_formats(llama: Tollway) -> None:
    with OpenAI(base_url=f"{llama.url}/v1", api_key="x") as client:
        packed = client.embeddings.create(model="llama/tiny-embed", input=["one", "two"])
        floats = client.embeddings.create(
            model="llama/tiny-embed", input=["one", "two"], encoding_format="float"
        )
    for a, b in zip(packed.data, floats.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-5)


def test_parallel_callers(llama: Tollway) -> None:
    def ask(n: int) -> str:
        reply = llama.chat("local", stream=n % 2 == 0, max_tokens=10, temperature=0, seed=1)
        assert reply.status_code == 200, [row["error"] for row in llama.rows() if row["error"]]
        if n % 2:
            return str(reply.json()["choices"][0]["message"]["content"])
        chunks = [e for e in events(reply.text) if e != "[DONE]"]
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


def test_its_errors_become_openais(llama: Tollway) -> None:
    long = [{"role": "user", "content": "word " * 1500}]
    reply = llama.chat("llama/tiny", messages=long)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    bad = llama.chat("local", response_format={"type": "nonsense"})
    assert bad.status_code in (400, 502)  # it calls its own refusals 500 or 400
    assert set(json.loads(bad.text)["error"]) == {"message", "type", "param", "code"}


def test_leaving_stops_the_generation(llama: Tollway) -> None:
    with httpx2.stream(
        "POST",
        f"{llama.url}/v1/chat/completions",
        json={
            "model": "local",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 200,
            "ignore_eos": True,
        },
    ) as reply:
        assert next(reply.iter_bytes())
    row = llama.rows()[-1]
    assert row["outcome"] in ("client_gone", "ok")  # it is quick
    reply = llama.chat("local", max_tokens=2)
    assert reply.status_code == 200, reply.text
