"""Starting: with nothing at all, with keys in the environment, and with something in the way."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from tests.e2e.tollway import Tollway, clean_environ, events, provider, run_cli, serving
from tests.e2e.upstream import Upstream


def _refused(folder: Path, *arguments: str, **environ: str) -> str:
    """The one line with which `tollway` refuses to start."""
    done = run_cli(*arguments, environ=clean_environ() | environ, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("tollway: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def _serve(folder: Path, *arguments: str, **environ: str) -> str:
    return _refused(folder, "serve", "--port", "0", *arguments, **environ)


def test_starts_with_no_configuration_at_all(tmp_path: Path) -> None:
    tollway = Tollway(tmp_path, {})
    tollway.config.unlink()
    for name in ("TOLLWAY_CONFIG", "TOLLWAY_ADMIN_TOKEN", "TOLLWAY_DATA"):
        del tollway.environ[name]
    tollway.start()
    try:
        for model in ("auto", "cheap", "best", "fast"):
            reply = tollway.chat(model, stream=True)
            assert reply.headers["x-tollway-demonstration"] == "true"
            assert events(reply.text)[-1] == "[DONE]"
        assert "demonstration" in tollway.chat("auto").json()["choices"][0]["message"]["content"]
        assert tollway.post("/v1/embeddings", {"model": "embed", "input": "x"}).status_code == 200
        local = tollway.chat("local")
        assert (local.status_code, local.json()["error"]["code"]) == (503, "no_target")
        printed = tollway.log()
        for said in ("auto", "tollway/demo", "ledger.db", "$10.00 per day", "curl -N"):
            assert said in printed
        (token,) = re.findall(r"Admin token .*:\n(\S+)", printed)
        secrets = [tmp_path / ".tollway" / name for name in ("admin-token", "hmac-secret")]
        assert secrets[0].read_text().strip() == token
        assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600, 0o600]
        assert stat.S_IMODE((tmp_path / ".tollway").stat().st_mode) == 0o700
    finally:
        assert tollway.stop() == 0
    tollway.start()
    assert "Admin token" not in tollway.log()  # it is shown once
    assert tollway.stop() == 0


def test_the_curl_line_that_is_printed_works(tmp_path: Path) -> None:
    with serving(tmp_path, {"models": {"auto": {"targets": ["tier:auto"]}}}) as tollway:
        (line,) = [line for line in tollway.log().splitlines() if line.startswith("curl ")]
        shown = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        assert shown.stdout.endswith("data: [DONE]\n\n")


def test_finds_providers_by_the_keys_in_the_environment(upstream: Upstream, tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "sk-env", "OPENAI_BASE_URL": upstream.base_url}
    tollway = Tollway(tmp_path, {}, **environ)
    tollway.config.unlink()
    del tollway.environ["TOLLWAY_CONFIG"]
    tollway.start()
    try:
        reply = tollway.chat("best", max_tokens=5)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-tollway-provider"] == "openai"
        assert float(reply.headers["x-tollway-cost-usd"]) > 0
        (call,) = upstream.calls
        assert call.headers["authorization"] == "Bearer sk-env"
        assert tollway.chat("gpt-4.1-mini", max_tokens=5).status_code == 200  # by openai/*
        listed = [model["id"] for model in tollway.get("/v1/models").json()["data"]]
        assert listed[:6] == ["auto", "cheap", "best", "fast", "local", "embed"]
        assert not [name for name in listed if name.startswith("tollway/")]
        entry = tollway.get(f"/v1/models/{reply.headers['x-tollway-model']}").json()
        assert entry["found_by"] == "OPENAI_API_KEY"
        assert "openai (OPENAI_API_KEY)" in tollway.log()
        assert "sk-env" not in tollway.log()
    finally:
        assert tollway.stop() == 0


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = _refused(tmp_path, "serve", "--port", port)
    assert port in said
    assert "--port" in said


def test_beyond_loopback_without_keys(tmp_path: Path) -> None:
    said = _serve(tmp_path, "--host", "0.0.0.0")
    assert "keys create" in said
    assert run_cli("keys", "create", "me", cwd=tmp_path).returncode == 0
    config = {"discover": False, "server": {"host": "0.0.0.0", "data": str(tmp_path / ".tollway")}}
    tollway = Tollway(tmp_path, config)
    del tollway.environ["TOLLWAY_DATA"]
    tollway.start()
    assert tollway.stop() == 0


@pytest.mark.negative(number=9)
@pytest.mark.parametrize("token", ["short", "changeme-changeme-changeme", ""])
def test_weak_admin_token(tmp_path: Path, token: str) -> None:
    if not token:
        (tmp_path / ".tollway").mkdir()
        (tmp_path / ".tollway" / "admin-token").write_text("\n")
        assert "admin-token" in _serve(tmp_path)
    else:
        assert "TOLLWAY_ADMIN_TOKEN" in _serve(tmp_path, TOLLWAY_ADMIN_TOKEN=token)


def test_broken_router_yaml_names_line_path_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text("models:\n  auto:\n    policy: chepest\n    targets: [tier:auto]\n")
    for command in (("check", "router.yaml"), ("serve", "--port", "0")):
        said = _refused(tmp_path, *command)
        assert "router.yaml:3: models.auto.policy:" in said
        assert "cheapest" in said
    file.write_text("models: {auto: [")
    assert ": is not valid YAML" in _refused(tmp_path, "check", "router.yaml")
    assert "cannot be read" in _refused(tmp_path, "check", "absent.yaml")
    assert not (tmp_path / ".tollway").exists()


def test_check_is_offline_and_shows_what_names_resolve_to(
    upstream: Upstream, tmp_path: Path
) -> None:
    tollway = Tollway(tmp_path, provider(upstream.base_url, "m1", "m2"))
    done = tollway.cli("check", "router.yaml")
    assert done.returncode == 0, done.stderr
    assert "up/m1 → up/m2" in done.stdout
    assert not upstream.calls
    assert not tollway.data.exists()


def test_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = _serve(tmp_path, "--data", str(tmp_path / "file"))
    assert str(tmp_path / "file") in said
    assert "--data" in said


def test_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    assert run_cli("budgets", "list", cwd=tmp_path).returncode == 0
    file = tmp_path / ".tollway" / "ledger.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99999")
    before = file.read_bytes()
    assert "newer" in _serve(tmp_path)
    assert file.read_bytes() == before


def test_ledger_held_by_another_server(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        said = _serve(tmp_path, TOLLWAY_CONFIG=str(tollway.config), TOLLWAY_DATA=str(tollway.data))
        assert "ledger.lock" in said
        assert tollway.chat().status_code == 200


def test_damaged_secret_is_not_replaced(tmp_path: Path) -> None:
    assert run_cli("keys", "create", "me", cwd=tmp_path).returncode == 0
    secret = tmp_path / ".tollway" / "hmac-secret"
    secret.write_text("nonsense")
    assert "hmac-secret" in _serve(tmp_path)
    assert secret.read_text() == "nonsense"


def test_says_what_can_be_asked_for_and_which_folder_is_not_there(tmp_path: Path) -> None:
    config = {
        "providers": {
            "here": {"adapter": "local", "folder": str(tmp_path / "absent")},
            "up": {"base_url": "http://127.0.0.1:9"},
        },
        "targets": [
            {"target": "here/*"},
            *({"target": f"up/embed-{n}"} for n in range(10)),
            {"target": "up/it's", "price": "free"},
        ],
        "models": {"vectors": {"targets": [f"up/embed-{n}" for n in range(10)]}},
    }
    tollway = Tollway(tmp_path, config).start()
    try:
        printed = tollway.log()
        assert f"providers.here.folder: there is no folder '{tmp_path}/absent'" in printed
        command = printed[printed.index("curl -N") :].splitlines()[0]
        (body,) = (json.loads(word) for word in shlex.split(command) if word.startswith("{"))
        assert body["model"] == "up/it's"
        assert "up/embed-7 → 2 more" in " ".join(printed.split())
        assert "up/embed-8" not in printed
    finally:
        assert tollway.stop() == 0
