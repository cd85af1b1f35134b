"""What text models do, through every real library there is, in real processes."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.children.child import (
    HELLO,
    LLAMA_CPP,
    MLX,
    PATIENCE_S,
    Child,
    joined,
    running,
)
from tests.adapters.children.child import start as start_child
from tests.models import make_gguf, make_mlx, tiny


@dataclass(frozen=True)
class Runtime:
    """A child, what it needs, and who makes it models; schemas that it is alone to refuse."""

    module: str
    library: str
    suffix: str
    canned: Callable[..., Path]
    babbling: Callable[..., Path]
    long: int
    """So many tokens take half a second or more to read."""
    cannot: tuple[dict[str, Any], ...] = ()

    def path(self, folder: Path) -> Path:
        return folder / f"model{self.suffix}"


RUNTIMES = {
    "llama_cpp": Runtime(
        LLAMA_CPP,
        "llama_cpp",
        ".gguf",
        make_gguf.canned,
        make_gguf.babbling,
        16_000,
        ({"type": "array", "minItems": 10**9},),
    ),
    "mlx": Runtime(
        MLX,
        "mlx_lm",
        "",
        make_mlx.canned,
        make_mlx.babbling,
        32_000,
        ({"type": "string", "format": "weird"},),
    ),
}


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found = RUNTIMES[request.param]
    if find_spec(found.library) is None:
        pytest.skip(f"{found.library} is not installed")
    return found


EMOJI = "😀".encode()
PIECES = [b"Hello", b" dear", b" friend", EMOJI[:2], EMOJI[2:], b" <b>", b"1", b", 2", b"!"]
SAID = b"".join(PIECES).decode()
NEVER_ENDS = {"logit_bias": {str(tiny.END): -100}}
ONE_THREAD = ("--threads", "1")
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def canned(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    model = runtime.canned(runtime.path(tmp_path_factory.mktemp("canned")), PIECES)
    with running(runtime.module, model, *ONE_THREAD) as child:
        yield child


@pytest.fixture(scope="module")
def babbling(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("babbling")
    context = runtime.long + 384
    model = runtime.babbling(runtime.path(folder), context=context)
    with running(runtime.module, model, "--context", str(context), *ONE_THREAD) as child:
        yield child


def test_tells_what_it_can_do(canned: Child) -> None:
    assert canned.about == {"context": 2048, "chat": True, "embeddings": False}


@pytest.mark.parametrize("temperature", [0, 1])
def test_says_what_the_model_says_and_counts_it(canned: Child, temperature: float) -> None:
    answer = canned.chat(temperature=temperature)
    assert answer["choices"][0]["message"]["content"] == SAID
    assert answer["choices"][0]["finish_reason"] == "stop"
    # The template around it, with a token for each byte, and one for each control token.
    prompt = len(b"user\nHello\nassistant\n") + 3
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, len(PIECES))


def test_streams_the_same_with_its_usage(canned: Child) -> None:
    *chunks, last = canned.chunks(stream_options={"include_usage": True})
    assert joined(chunks) == SAID
    assert last["usage"]["completion_tokens"] == len(PIECES)


def test_a_prompt_that_was_just_read_is_not_read_again(canned: Child) -> None:
    messages = [{"role": "user", "content": "the same once more"}]
    usages = [canned.chat(messages=messages)["usage"] for _ in range(2)]
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == usages[1]["prompt_tokens"] - 1


def test_a_stop_in_the_middle_of_a_token(canned: Child) -> None:
    answer = canned.chat(stop=["frie"])
    assert answer["choices"][0]["message"]["content"] == "Hello dear "
    assert answer["usage"]["completion_tokens"] == 3


def test_a_seed_repeats_an_answer(babbling: Child) -> None:
    asked = {"temperature": 1, "max_tokens": 40, **NEVER_ENDS}
    assert babbling.text(seed=1, **asked) == babbling.text(seed=1, **asked)
    assert babbling.text(seed=1, **asked) != babbling.text(seed=2, **asked)
    assert babbling.text(**asked) != babbling.text(**asked)


def test_choices_differ_and_repeat(babbling: Child) -> None:
    asked = {"temperature": 1, "max_tokens": 20, "n": 3, "seed": 5, **NEVER_ENDS}
    first, second = (
        [choice["message"]["content"] for choice in babbling.chat(**asked)["choices"]]
        for _ in range(2)
    )
    assert first == second and len(set(first)) == 3


def test_what_bends_the_drawing(babbling: Child) -> None:
    asked = {"max_tokens": 60, **NEVER_ENDS}
    plain = babbling.text(**asked)
    assert babbling.text(temperature=1, top_k=1, **asked) == plain
    assert babbling.text(temperature=1, top_p=0, **asked) == plain
    assert babbling.text(frequency_penalty=2, **asked) != plain
    assert babbling.text(presence_penalty=2, **asked) != plain
    assert babbling.text(repetition_penalty=2, **asked) != plain
    letter = 3 + ord("q")
    assert babbling.text(max_tokens=5, logit_bias={str(letter): 100}) == "qqqqq"


def test_logprobs_are_of_the_model(babbling: Child) -> None:
    choice = babbling.chat(logprobs=True, top_logprobs=20, max_tokens=3, **NEVER_ENDS)["choices"][0]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry in entries:
        others = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(others) == 20 and others == sorted(others, reverse=True)
        assert 0.2 < sum(map(math.exp, others)) <= 1.0001
        assert entry["logprob"] == max(o for o in others if o <= others[0])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_is_kept_to(babbling: Child, temperature: float) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    said = json.loads(babbling.text(response_format=wanted, temperature=temperature, seed=3))
    assert said["kind"] in ("red", "green") and isinstance(said["sure"], bool)
    assert set(said) == {"kind", "sure"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://x.example/s"},
        {"$ref": "#"},
        {"not": {}},
        {"type": "nonsense"},
        {"properties": 1},
        {"enum": []},
        {"type": "string", "pattern": "^("},
    ],
)
def test_what_no_grammar_can_be_made_of_is_refused(babbling: Child, schema: dict[str, Any]) -> None:
    assert _refuses(babbling, schema)


def test_what_one_cannot_do_is_refused_and_hurts_no_other(
    babbling: Child, runtime: Runtime
) -> None:
    refused = [
        schema
        for other in RUNTIMES.values()
        for schema in other.cannot
        if _refuses(babbling, schema)
    ]
    assert refused == list(runtime.cannot)


def _refuses(child: Child, schema: dict[str, Any]) -> bool:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = {"messages": HELLO, "max_tokens": 5, "response_format": wanted}
    answer = child.client.post("/v1/chat/completions", json=asked)
    assert child.text(max_tokens=1)
    if answer.status_code == 200:
        return False
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "response_format"
    return True


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ({"type": "string", "pattern": r"^\d{3}-[a-f]$"}, r"\d{3}-[a-f]"),
        ({"type": "string", "maxLength": 10**9, "enum": ["x", "y"]}, "x|y"),
        ({"type": "string", "maxLength": 3}, ".{0,3}"),
    ],
)
def test_texts_are_as_the_schema_says(
    babbling: Child, schema: dict[str, Any], pattern: str
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = json.loads(babbling.text(response_format=wanted, temperature=1, seed=4))
    assert re.fullmatch(pattern, said)


NUMBERS = st.one_of(
    st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
MEMBERS = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
OTHERS = ("repetition_penalty", "seed", "n", "top_logprobs", "max_tokens")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    asked=st.dictionaries(st.sampled_from([*MEMBERS, *OTHERS]), NUMBERS, max_size=4),
    bias=st.dictionaries(st.integers(-1, 300).map(str), st.floats(-100, 100), max_size=3),
)
def test_no_number_brings_the_model_down(
    babbling: Child, asked: dict[str, Any], bias: dict[str, float]
) -> None:
    if (asked.get("n") or 0) > 3:
        asked.pop("n")
    body = {"messages": HELLO, "max_tokens": 3, "logprobs": True, "logit_bias": bias, **asked}
    body["max_tokens"] = min(body["max_tokens"] or 3, 3)
    answer = babbling.client.post("/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code in (200, 400), answer.text


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


def test_a_function_is_called_when_it_must_be(babbling: Child) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "dye"}}):
        asked = {"tools": [_tool("paint"), _tool("dye")], "tool_choice": choice}
        answer = babbling.chat(temperature=1, **asked)["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] in (["paint", "dye"] if choice == "required" else ["dye"])
        assert json.loads(call["function"]["arguments"])["kind"] in ("red", "green")
        assert answer["finish_reason"] == "tool_calls"


def test_a_function_may_be_called(runtime: Runtime, tmp_path: Path) -> None:
    pieces = [b"<tool", b'_call>{"name": "paint", "arg', b'uments": {"kind": "red"}}</tool_call>']
    template = f"{tiny.TEMPLATE}{{{{ tools | tojson }}}}"
    # What is said of the functions may end in any byte: the chain begins after it.
    model = runtime.canned(runtime.path(tmp_path), pieces, template=template)
    with running(runtime.module, model, *ONE_THREAD) as child:
        message = child.chat(tools=[_tool("paint")])["choices"][0]["message"]
        (call,) = message["tool_calls"]
        assert call["function"] == {"name": "paint", "arguments": '{"kind": "red"}'}
        assert message["content"] is None


def test_a_template_may_refuse(runtime: Runtime, tmp_path: Path) -> None:
    template = "{{ raise_exception('users must not be impolite') }}"
    model = runtime.canned(runtime.path(tmp_path), [b"x"], template=template)
    with running(runtime.module, model, *ONE_THREAD) as child:
        status, error = child.refusal("chat/completions", messages=HELLO)
        assert (status, error["param"]) == (400, "messages")
        assert "impolite" in error["message"]


def test_a_context_of_ones_own(runtime: Runtime, tmp_path: Path) -> None:
    model = runtime.canned(runtime.path(tmp_path), PIECES)
    with running(runtime.module, model, "--context", "256", *ONE_THREAD) as child:
        assert child.about["context"] == 256
        long = [{"role": "user", "content": "x" * 300}]
        status, error = child.refusal("chat/completions", messages=long, stream=True)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        answer = child.chat(**NEVER_ENDS)
        assert answer["usage"]["total_tokens"] == 256
        assert answer["choices"][0]["finish_reason"] == "length"
        assert child.text() == SAID


def test_parallel_callers_get_their_own_answers(babbling: Child) -> None:
    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"Number {number % 4}"}]
        return babbling.text(messages=messages, max_tokens=20, **NEVER_ENDS)

    alone = [ask(number) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == alone * 4


@contextmanager
def _asking(child: Child, **asked: Any) -> Iterator[socket.socket]:
    """A client that asks for a stream, and leaves in the end."""
    body = json.dumps({"stream": True, **asked}).encode()
    with socket.create_connection(("127.0.0.1", child.port), PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        yield client


def _busy_s(child: Child) -> float:
    """Seconds the child has computed so far."""
    spent = psutil.Process(child.process.pid).cpu_times()
    return float(spent.user + spent.system)


def test_a_client_that_leaves_ends_the_answer(babbling: Child) -> None:
    before = babbling.text(max_tokens=20, **NEVER_ENDS)
    with _asking(babbling, messages=HELLO, max_tokens=16_000, **NEVER_ENDS) as client:
        received = b""
        while b'"content":"x' not in received:
            received += client.recv(4096)
    left = _busy_s(babbling)
    assert babbling.text(max_tokens=20, **NEVER_ENDS) == before
    # The whole answer takes several seconds.
    assert _busy_s(babbling) - left < 0.5


def test_a_client_that_leaves_ends_the_reading_of_its_prompt(
    runtime: Runtime, babbling: Child
) -> None:
    messages = [{"role": "user", "content": "x" * runtime.long}]
    before = babbling.text(max_tokens=20, **NEVER_ENDS)
    start = _busy_s(babbling)
    babbling.text(messages=messages, max_tokens=1)
    whole = _busy_s(babbling) - start
    assert babbling.text(max_tokens=20, **NEVER_ENDS) == before
    start = _busy_s(babbling)
    with _asking(babbling, messages=messages):
        while _busy_s(babbling) < start + whole / 5:
            babbling.client.get("/health")
    assert babbling.text(max_tokens=20, **NEVER_ENDS) == before
    assert _busy_s(babbling) - start < whole / 2


@pytest.fixture(scope="module")
def vectors(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    model = runtime.babbling(runtime.path(tmp_path_factory.mktemp("vectors")), context=128)
    with running(runtime.module, model, "--embeddings", *ONE_THREAD) as child:
        yield child


def test_vectors(vectors: Child) -> None:
    assert vectors.about == {
        "dimensions": 64,
        "context": 128,
        "chat": False,
        "embeddings": True,
    }
    answer = vectors.post("embeddings", input=["one", "another", "one"])
    one, another, again = (entry["embedding"] for entry in answer["data"])
    assert one == again != another
    assert math.fsum(number * number for number in one) == pytest.approx(1, abs=1e-5)
    assert answer["usage"] == {"prompt_tokens": 13, "total_tokens": 13}
    tokens = [3 + byte for byte in b"one"]
    assert vectors.post("embeddings", input=tokens)["data"][0]["embedding"] == one
    both = vectors.post("embeddings", input=[tokens, tokens])["data"]
    assert [entry["embedding"] for entry in both] == [one, one]


def test_a_vector_is_the_mean_of_its_tokens(runtime: Runtime, tmp_path: Path) -> None:
    model = runtime.canned(runtime.path(tmp_path), PIECES)
    first = len(tiny.CONTROLS) + 256
    with running(runtime.module, model, "--embeddings", *ONE_THREAD) as child:
        texts = [[first], [first + 1], [first, first + 1]]
        one, other, both = (e["embedding"] for e in child.post("embeddings", input=texts)["data"])
    # This model's state of a token depends on the token alone, and all are equally long.
    total = [a + b for a, b in zip(one, other, strict=True)]
    length = math.sqrt(math.fsum(number * number for number in total))
    assert both == pytest.approx([number / length for number in total], abs=1e-4)
    assert both != pytest.approx(one, abs=1e-2)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": "x" * 200}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["x", 1]}, "input"),
        ({"input": [10_000]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": {}}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "unheard_of": 1}, "unheard_of"),
    ],
)
def test_vectors_that_cannot_be_made(vectors: Child, asked: dict[str, Any], param: str) -> None:
    status, error = vectors.refusal("embeddings", **asked)
    assert (status, error["param"]) == (400, param)


def test_a_long_text_is_cut_where_that_is_asked_for(vectors: Child) -> None:
    answer = vectors.post("embeddings", input="x" * 200, truncate=True, dimensions=64)
    assert answer["usage"]["prompt_tokens"] == 128


@pytest.mark.parametrize("kind", ["nothing", "nonsense"])
def test_what_is_no_model_is_one_line(runtime: Runtime, tmp_path: Path, kind: str) -> None:
    model = runtime.path(tmp_path)
    if kind == "nonsense":
        runtime.canned(model, PIECES)
        (model if model.is_file() else model / "model.safetensors").write_bytes(b"GGUF nonsense")
    with start_child(runtime.module, "--model", str(model), "--name", "x") as process:
        assert process.stdout and process.stderr
        assert process.stdout.read() == ""
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 1 and last.startswith("cannot serve: ")


@pytest.mark.skipif(
    not all(find_spec(runtime.library) for runtime in RUNTIMES.values()), reason="not all are here"
)
def test_all_say_the_same_of_the_same_model(tmp_path: Path) -> None:
    said = set()
    for name, runtime in RUNTIMES.items():
        (tmp_path / name).mkdir()
        with running(runtime.module, runtime.babbling(runtime.path(tmp_path / name))) as child:
            said.add(child.text(max_tokens=200))
    assert len(said) == 1 and len(said.pop()) > 100
