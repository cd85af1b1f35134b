from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from adapters import registry
from proxy import catalog, discovery
from proxy.config import Config, Provider, Server, Target
from proxy.discovery import Found
from proxy.errors import StartError
from proxy.model_host.lookout import lookout
from tests.adapters.servers import Peer, ScriptedServer
from tests.adapters.wire import whole


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


def discover(
    config: Config,
    known: catalog.Catalog,
    environ: Mapping[str, str],
    local_servers: Mapping[str, int] = {},
) -> tuple[Config, tuple[Found, ...]]:
    """What the start of a server finds; as the configuration that it makes of it."""
    config, by_keys = discovery.discover(config, known, environ)
    looking = lookout(config, environ, local_servers=local_servers, folder=Path("no-such-folder"))
    config, _, found = discovery.with_found(config, looking.first())
    return config, (*by_keys, *found)


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
    assert openai.adapter == "openai"
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
    openai = found_config.providers["openai"]
    assert openai.base_url == "http://proxy/v1"
    assert openai.api_key == "sk-1"
    # Nobody knows who answers there: only the maximum goes by the name that it has at OpenAI.
    assert (openai.adapter, openai.max_tokens_field) == (
        "openai_compatible",
        "max_completion_tokens",
    )


def test_a_server_on_this_machine_is_asked_for_its_models(port: int) -> None:
    found_config, found = discover(_config(), catalog.load(), {}, {"lmstudio": port})
    assert found == (Found(provider="lmstudio", by=f"127.0.0.1:{port}"),)
    chat, embedding = found_config.targets
    assert (chat.target, chat.tiers, chat.price) == ("lmstudio/llama3", ["local"], "free")
    assert (embedding.target, embedding.tiers) == ("lmstudio/nomic-embed-text", [])


def test_ollama_is_spoken_to_as_it_speaks_itself() -> None:
    with ScriptedServer(listing({"models": [{"name": "llama3:latest"}]})) as server:
        found_config, _ = discover(_config(), catalog.load(), {}, {"ollama": server.port})
        url = server.url
    assert found_config.providers["ollama"].adapter == "ollama"
    assert found_config.providers["ollama"].base_url == url
    assert [target.target for target in found_config.targets] == ["ollama/llama3:latest"]


def test_nothing_found_is_nothing_changed() -> None:
    before = _config()
    assert discover(before, catalog.load(), {}, {"ollama": 1}) == (before, ())


def listing(body: object, status: int = 200) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole(body, status))

    return answer


def hanging(peer: Peer) -> None:
    peer.read_request()
    assert peer.is_gone()


def cutting(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


@pytest.mark.parametrize(
    "script",
    [
        listing(b"<html>It works!</html>"),
        listing({"detail": "Not Found"}, 404),
        listing({"error": {"message": "no key"}}, 401),
        listing({"data": []}),
        listing({"data": None}),
        listing({"data": [{"id": 5}]}),
        listing([]),
        cutting,
        hanging,
    ],
)
def test_whatever_else_listens_on_a_usual_port_is_left_alone(
    script: Callable[[Peer], None],
) -> None:
    before = _config()
    with ScriptedServer(script) as server:
        assert discover(before, catalog.load(), {}, {"lmstudio": server.port}) == (before, ())


def test_servers_that_hang_are_waited_for_together() -> None:
    with contextlib.ExitStack() as opened:
        servers = [opened.enter_context(ScriptedServer(hanging)) for _ in range(10)]
        good = opened.enter_context(ScriptedServer(listing({"data": [{"id": "m"}]})))
        ports = {str(n): server.port for n, server in enumerate([*servers, good])}
        began = time.perf_counter()
        _, found = discover(_config(), catalog.load(), {}, ports)
        assert time.perf_counter() - began < 15  # one after the other, 20 s at least
    assert [each.provider for each in found] == ["10"]


def test_names_that_mean_more_than_a_model_are_left_out() -> None:
    ids = ["*", "", "a\r\nb", "../b", "x" * 300, "hf.co/a/b:Q4", "hf.co/a/b:Q4", "bge-m3"]
    with ScriptedServer(listing({"data": [{"id": each} for each in ids]})) as server:
        found_config, _ = discover(_config(), catalog.load(), {}, {"lmstudio": server.port})
    assert registry.BUILT_IN[found_config.providers["lmstudio"].adapter].meterable
    assert [(target.target, target.tiers) for target in found_config.targets] == [
        ("lmstudio/hf.co/a/b:Q4", ["local"]),
        ("lmstudio/bge-m3", []),
    ]


def test_what_a_server_says_is_not_of_the_provider_that_is_called_alike() -> None:
    own = Provider(base_url="http://10.0.0.9:8080/v1")
    config = _config(providers={"mlx": own}, targets=[Target(target="mlx/*")])
    said = {"data": [{"id": "evil", "object": "model", "created": 1}]}
    with ScriptedServer(listing(said)) as server:
        assert discover(config, catalog.load(), {}, {"llama-server": server.port}) == (config, ())


def test_the_server_does_not_find_itself(port: int) -> None:
    before = _config(server=Server(port=port))
    assert discover(before, catalog.load(), {}, {"llama-server": port}) == (before, ())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
def test_a_base_url_that_points_clients_here_is_not_ours_to_use(host: str) -> None:
    environ = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": f"http://{host}:4000/v1"}
    found_config, _ = discover(_config(), catalog.load(), environ, {})
    assert found_config.providers["openai"].base_url == "https://api.openai.com/v1"
    environ["OPENAI_BASE_URL"] = f"http://{host}:4001/v1"
    found_config, _ = discover(_config(), catalog.load(), environ, {})
    assert found_config.providers["openai"].base_url == f"http://{host}:4001/v1"


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_a_variable_without_a_key_brings_nothing(value: str) -> None:
    before = _config()
    assert discover(before, catalog.load(), {"OPENAI_API_KEY": value}, {}) == (before, ())


@pytest.mark.parametrize("value", ["sk-\nx", "sk-é", "sk-\u2028x"])
def test_a_key_that_is_none_is_refused_by_the_name_of_its_variable(value: str) -> None:
    with pytest.raises(StartError, match="OPENAI_API_KEY") as caught:
        discover(_config(), catalog.load(), {"OPENAI_API_KEY": value}, {})
    assert "sk-" not in str(caught.value)


def test_what_was_found_stands_behind_what_was_written(port: int) -> None:
    own = Provider(base_url="http://mine/v1")
    before = _config(providers={"mine": own})
    environ = {"OPENAI_API_KEY": "sk-1"}
    found_config, _ = discover(before, catalog.load(), environ, {"lmstudio": port})
    assert list(found_config.providers) == ["mine", "openai", "lmstudio"]
