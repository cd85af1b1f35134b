from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from proxy import catalog
from proxy.config import Config, Provider
from proxy.discovery import Found, discover


class _ModelServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "llama3"}, {"id": "nomic-embed-text"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _ModelServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _config(**fields: object) -> Config:
    return Config(source="test", discover=True, **fields)  # type: ignore[arg-type]


def test_keys_in_the_environment_bring_their_provider() -> None:
    environ = {"OPENAI_API_KEY": "sk-1", "GROQ_API_KEY": "gsk-2", "OTHER": "x"}
    found_config, found = discover(_config(), catalog.load(), environ, {})
    assert found == (
        Found(provider="openai", by="OPENAI_API_KEY"),
        Found(provider="groq", by="GROQ_API_KEY"),
    )
    openai = found_config.providers["openai"]
    assert openai.api_key == "sk-1"
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.max_tokens_field == "max_completion_tokens"
    targets = [target.target for target in found_config.targets]
    assert "openai/*" in targets
    assert "groq/*" in targets


def test_the_operators_own_provider_wins() -> None:
    own = Provider(base_url="http://mine/v1")
    found_config, found = discover(
        _config(providers={"openai": own}), catalog.load(), {"OPENAI_API_KEY": "sk-1"}, {}
    )
    assert found == ()
    assert found_config.providers == {"openai": own}


def test_a_base_url_of_the_environment_is_used() -> None:
    environ = {"OPENAI_API_KEY": " sk-1 ", "OPENAI_BASE_URL": "http://proxy/v1/"}
    found_config, _ = discover(_config(), catalog.load(), environ, {})
    assert found_config.providers["openai"].base_url == "http://proxy/v1"
    assert found_config.providers["openai"].api_key == "sk-1"


def test_a_server_on_this_machine_is_asked_for_its_models(port: int) -> None:
    found_config, found = discover(_config(), catalog.load(), {}, {"ollama": port})
    assert found == (Found(provider="ollama", by=f"127.0.0.1:{port}"),)
    chat, embedding = found_config.targets
    assert (chat.target, chat.tiers, chat.price) == ("ollama/llama3", ["local"], "free")
    assert (embedding.target, embedding.tiers) == ("ollama/nomic-embed-text", [])


def test_nothing_found_is_nothing_changed() -> None:
    before = _config()
    assert discover(before, catalog.load(), {}, {"ollama": 1}) == (before, ())
