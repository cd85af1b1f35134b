"""What is MLX's own; all else is in `test_engines`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.children.child import HELLO, MLX, Child, running, start
from tests.models import make_mlx, tiny

pytest.importorskip("mlx_lm", reason="the extra `mlx` is not installed")

PIECES = [b"Hello", b" dear", b"!"]


@pytest.fixture(scope="module")
def babbling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    model = make_mlx.babbling(tmp_path_factory.mktemp("babbling") / "model")
    with running(MLX, model, "--kept-prompts-mb", "2") as child:
        yield child


def _cached(child: Child, messages: list[dict[str, str]]) -> int:
    answer = child.chat(messages=messages, max_tokens=8)
    messages.append(answer["choices"][0]["message"])
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(cached, int)
    return cached


def test_conversations_that_take_turns_are_not_read_again(babbling: Child) -> None:
    talks = [[{"role": "user", "content": name * 200}] for name in ("x", "y")]
    for talk in talks:
        assert _cached(babbling, talk) < 100  # what all prompts begin with
    for talk in talks:
        talk.append({"role": "user", "content": "and then?"})
        # Nor is the answer, whose last token was read too.
        assert _cached(babbling, talk) > 200 + 8


def _kept_bytes(child: Child) -> int:
    kept = child.client.get("/health").json()["memory"]["kept_prompts_bytes"]
    assert isinstance(kept, int)
    return kept


def test_prompts_are_kept_up_to_a_limit(babbling: Child) -> None:
    for letter in "abcdefgh":
        _cached(babbling, [{"role": "user", "content": letter * 1000}])
        assert 0 < _kept_bytes(babbling) <= 2 << 20
    assert _cached(babbling, [{"role": "user", "content": "h" * 1000}]) > 1000
    assert _cached(babbling, [{"role": "user", "content": "a" * 1000}]) < 100


def test_without_room_for_prompts_none_is_kept(tmp_path: Path) -> None:
    model = make_mlx.canned(tmp_path / "model", PIECES)
    with running(MLX, model, "--kept-prompts-mb", "0") as child:
        usages = [child.chat()["usage"] for _ in range(2)]
        assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [0, 0]
        assert _kept_bytes(child) == 0


def test_health_tells_what_mlx_holds(babbling: Child) -> None:
    memory = babbling.client.get("/health").json()["memory"]
    weights = 4 * 2 * tiny.SIZE * (256 + len(tiny.CONTROLS))
    assert memory["peak_bytes"] >= memory["active_bytes"] > weights


@pytest.mark.parametrize(
    ("config", "is_certain"),
    [
        ({}, False),
        ({"do_sample": False, "temperature": 1}, True),
        ({"do_sample": True, "top_k": 1}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 1.0, "top_p": 1e-6}, True),
        ({"min_p": 1.0}, True),
    ],
)
def test_draws_as_its_makers_say(tmp_path: Path, config: dict[str, Any], is_certain: bool) -> None:
    model = make_mlx.babbling(tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps(config))
    with running(MLX, model) as child:
        said = {child.text(max_tokens=40, temperature=None) for _ in range(3)}
    assert (len(said) == 1) == is_certain


def test_bounds_of_numbers_are_kept_to(babbling: Child) -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 7}}
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {**schema, "minItems": 9, "maxItems": 9}},
    }
    said = json.loads(babbling.text(response_format=wanted, temperature=1))
    assert len(said) == 9 and all(3 <= number <= 7 for number in said)


@pytest.mark.parametrize("name", ["chat_template", "messages", "tokenize"])
def test_variables_of_a_template_are_no_way_around_it(babbling: Child, name: str) -> None:
    asked = {"messages": HELLO, "chat_template_kwargs": {name: "x"}}
    assert babbling.refusal("chat/completions", **asked)[0] == 400


def test_nothing_is_looked_up_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_mlx.canned(tmp_path / "model", PIECES)
    path = model / "tokenizer_config.json"
    told = {**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": "some/one--x.Y"}}
    path.write_text(json.dumps({**told, "tokenizer_class": "NobodysTokenizer"}))
    (model / "tokenizer.json").unlink()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert _last_words(model)
        assert _last_words(Path("some/one"))
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    model = make_mlx.canned(tmp_path / "model", PIECES)
    (model / name).write_text('{"temperature": "hot"}')
    assert str(model) in _last_words(model)


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens"])
def test_a_vector_that_is_not_ours_to_make(tmp_path: Path, mode: str) -> None:
    model = _pooling(tmp_path, mode)
    assert "1_Pooling" in _last_words(model, "--embeddings")


def test_the_last_state_where_the_model_wants_it(tmp_path: Path) -> None:
    with running(MLX, _pooling(tmp_path, "lasttoken"), "--embeddings") as child:
        first = 256 + len(tiny.CONTROLS)
        texts = [[first, first + 1], [first + 1]]
        both, last = (e["embedding"] for e in child.post("embeddings", input=texts)["data"])
    assert both == pytest.approx(last, abs=1e-5)


def _pooling(folder: Path, mode: str) -> Path:
    model = make_mlx.canned(folder / "model", PIECES)
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    return model


def _last_words(model: Path, *arguments: str) -> str:
    with start(MLX, "--model", str(model), "--name", "x", *arguments) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read() == ""
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 1 and last.startswith("cannot serve: ")
    return last
