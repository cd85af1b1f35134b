"""What every child does, whatever its model: shown with one that recites."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.adapters.children.child import HELLO, PATIENCE_S, STAND_IN, running, start
from tests.adapters.children.conftest import Reciting, reciting


def test_says_it_is_ready_on_a_line_of_its_own(tmp_path: Path) -> None:
    with reciting(tmp_path) as child:
        assert child.about == {"context": 7}
        assert child.client.get("/health").json() == {"status": "ok"}
        (entry,) = child.client.get("/v1/models").json()["data"]
        assert (entry["id"], entry["object"]) == ("tiny", "model")


@pytest.mark.parametrize(
    ("child", "library", "extra"),
    [("llama_cpp", "jinja2", "llama"), ("minilm", "numpy", "embeddings")],
)
def test_a_library_that_is_missing_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, library: str, extra: str
) -> None:
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(name={library!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = tmp_path / "model"
    model.touch()
    with start(f"adapters.children.{child}", "--model", str(model), "--name", "x") as process:
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr
        said = process.stderr.read()
    assert f"{library} is missing: pip install 'tollway[{extra}]'" in said


def test_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    with reciting(tmp_path) as child:
        pass
    assert child.process.returncode == 0


def test_ends_with_its_parent_even_while_it_answers(tmp_path: Path) -> None:
    with reciting(tmp_path, [None]) as child, ThreadPoolExecutor() as pool:
        asked = pool.submit(child.client.post, "/v1/chat/completions", json={"messages": HELLO})
        assert child.client.get("/health").status_code == 200
        assert child.process.stdin
        child.process.stdin.close()
        assert child.process.wait(PATIENCE_S) == 0
        assert asked.exception(PATIENCE_S) is not None or asked.result().status_code >= 500


def test_ends_with_its_parent_even_while_it_loads(tmp_path: Path) -> None:
    never = tmp_path / "never"
    os.mkfifo(never)
    with start(STAND_IN, "--model", str(never), "--name", "x") as process:
        writing = never.open("wb")  # it is being read now
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
        writing.close()


def test_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with reciting(tmp_path) as child:
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


def test_control_c_is_for_its_parent(tmp_path: Path) -> None:
    with reciting(tmp_path, ["fine"]) as child:
        child.process.send_signal(signal.SIGINT)
        assert child.text() == "fine"


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    with start(STAND_IN, "--model", str(tmp_path / "none"), "--name", "x") as process:
        assert process.stdout and process.stderr
        assert process.stdout.read() == ""
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 1
    assert last.startswith("cannot serve: ") and "No such file" in last


def test_serves_on_the_port_that_is_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "recital.json").write_text('{"texts": []}')
    with running(STAND_IN, tmp_path / "recital.json", "--port", str(port)) as child:
        assert child.port == port


def test_another_models_request_is_refused(shared: Reciting) -> None:
    with shared() as child:
        status, error = child.refusal("chat/completions", model="other", messages=HELLO)
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405),
    ],
)
def test_what_it_does_not_have(shared: Reciting, method: str, path: str, status: int) -> None:
    with shared() as child:
        answer = child.client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "headers", [{"origin": "http://page.example"}, {"host": "page.example"}, {"host": ""}]
)
def test_web_pages_are_refused(shared: Reciting, headers: dict[str, str]) -> None:
    with shared() as child:
        assert child.client.get("/v1/models", headers=headers).status_code == 403


def test_only_who_has_the_key_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "secret")
    (tmp_path / "recital.json").write_text('{"texts": []}')
    with running(STAND_IN, tmp_path / "recital.json", "--port", "0") as child:
        get = child.client.get
        assert get("/health").status_code == 200
        assert get("/v1/models").status_code == 401
        assert get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": 1}', b'{"messages": "\xff"}', b"[" * 100_000]
)
def test_what_is_no_request(shared: Reciting, body: bytes) -> None:
    with shared() as child:
        answer = child.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, answer.text
        assert child.client.get("/health").status_code == 200


def test_one_request_after_the_other(shared: Reciting) -> None:
    with shared(*([str(number)] for number in range(20))) as child:
        with ThreadPoolExecutor(20) as pool:
            texts = list(pool.map(lambda _: child.text(), range(20)))
        assert sorted(texts) == sorted(map(str, range(20)))


@pytest.mark.parametrize("stream", [True, False])
def test_work_ends_when_its_client_leaves(tmp_path: Path, stream: bool) -> None:
    with reciting(tmp_path, ["one", None], ["two"]) as child:
        body = json.dumps({"messages": HELLO, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", child.port), PATIENCE_S) as leaving:
            leaving.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            while not (tmp_path / "lingering").exists():
                assert child.client.get("/health").status_code == 200
        assert child.text() == "two"
        assert (tmp_path / "abandoned").read_text() == "abandoned\n"


def test_one_that_leaves_while_it_waits_costs_nothing(tmp_path: Path) -> None:
    with reciting(tmp_path, ["one", None], ["two"]) as child:
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", child.port), PATIENCE_S) as first:
            first.sendall(head % len(body) + body)
            received = b""
            while b"one" not in received:
                received += first.recv(4096)
            with socket.create_connection(("127.0.0.1", child.port), PATIENCE_S) as second:
                second.sendall(head % len(body) + body)
                assert child.client.get("/health").status_code == 200
            assert child.client.get("/health").status_code == 200
        assert child.text() == "two"


def test_a_model_that_breaks_before_its_first_word_is_an_error(tmp_path: Path) -> None:
    with reciting(tmp_path, ["crash"], ["fine"]) as child:
        status, error = child.refusal("chat/completions", messages=HELLO, stream=True)
        assert (status, error["type"]) == (500, "server_error")
        assert "the model broke" in error["message"]
        assert child.text() == "fine"


def test_a_stream_that_breaks_does_not_look_finished(tmp_path: Path) -> None:
    with reciting(tmp_path, ["some", "crash"]) as child:
        answer = child.client.post("/v1/chat/completions", json={"messages": HELLO, "stream": True})
        *_, last, rest = answer.text.split("\n\n")
        assert answer.status_code == 200 and rest == ""
        assert "the model broke" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert "[DONE]" not in answer.text
