"""Secrets are planted wherever one can be, and every kind of output is searched for them.

The provider is hostile: in every way that an answer can fail it quotes the headers it was sent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import yaml

from adapters import registry
from proxy import config_file
from tests.adapters import clouds
from tests.e2e.raw import connect, post
from tests.e2e.tollway import Tollway, clean_environ, run_cli

# Adapters that ask an account over HTTP with a key, but for the two that renew theirs.
KEYED = [name for name in registry.names() if name not in ("local", "scripted", "vertex")]
EMBEDS = ("voyage", "jina")
HAS_CLOUDS = all(importlib.util.find_spec(name) for name in ("botocore", "google", "cryptography"))


def canary(name: str) -> str:
    """A secret that is nothing else, and looks like a key."""
    return f"sk-canary-{re.sub('[ _]', '-', name)}-5Zq8Wv"


# What the environment holds, and `router.yaml` names.
ENVIRON = {
    **{f"KEY_{name.upper()}": canary(name) for name in KEYED},
    "FIRST_KEY": canary("first of two keys"),
    "SECOND_KEY": canary("second of two keys"),
    "PORTAL_HEADER": canary("portal header"),
    "PLAIN_HEADER": canary("plain header"),
    "PROXY_PASSWORD": canary("proxy password"),
    "HOOK_URL": canary("hook url"),
    "HOOK_SECRET": canary("hook secret"),
    "SLACK_URL": canary("slack url"),
    "AWS_ACCESS_KEY_ID": canary("aws id"),
    "AWS_SECRET_ACCESS_KEY": canary("aws secret"),
    "AWS_SESSION_TOKEN": canary("aws session"),
    "TOLLWAY_ADMIN_TOKEN": canary("admin token"),
}
# What clients send, right or wrong.
SENT = {
    name: canary(name)
    for name in ("unknown bearer", "x-api-key", "api-key", "query", "cookie", "prompt", "basic")
}


# --- the provider --------------------------------------------------------------------------


class Hostile(BaseHTTPRequestHandler):
    """Answers in the way that the request's text names, and always with what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        mode = re.search(rb"mode:([a-z_]+)", body)
        quoted = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        getattr(self, mode[1].decode() if mode else "refusal")(
            quoted, self.headers.get("authorization", "")
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _send(self, status: int, body: str, kind: str = "application/json", **more: str) -> None:
        self.send_response(status)
        headers = {"content-type": kind, "content-length": str(len(body.encode())), **more}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def refusal(self, quoted: str, key: str) -> None:
        said = {"message": quoted, "type": key, "code": key, "param": key}
        self._send(422, json.dumps({"error": said, "message": quoted, "detail": quoted}))

    def wrong_key(self, quoted: str, key: str) -> None:
        self._send(401, json.dumps({"error": {"message": f"Incorrect API key: {quoted}"}}))

    def escaped(self, quoted: str, key: str) -> None:
        spelled = "".join(f"\\u{ord(c):04x}" for c in quoted)
        self._send(400, f'{{"error": {{"message": "{spelled}", "code": "{spelled}"}}}}')

    def page(self, quoted: str, key: str) -> None:
        self._send(500, f"<html><pre>{quoted}</pre></html>", "text/html")

    def limited(self, quoted: str, key: str) -> None:
        word = key.rpartition(" ")[2] or "x"
        self._send(
            429,
            json.dumps({"error": {"message": quoted}}),
            **{"retry-after": "1", "x-ratelimit-limit-requests": word},
            **{"openai-organization": word, "x-request-id": word, "set-cookie": word},
        )

    def error_with_ok(self, quoted: str, key: str) -> None:
        self._send(200, json.dumps({"error": {"message": quoted, "code": key}}))

    def garbage(self, quoted: str, key: str) -> None:
        self._send(200, quoted, "text/plain")

    def truncated(self, quoted: str, key: str) -> None:
        self.send_response(200, quoted[:100])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "100000")
        self.end_headers()
        self.wfile.write(b'{"error": "' + quoted.encode())
        self.close_connection = True

    def broken_stream(self, quoted: str, key: str) -> None:
        choice = {"index": 0, "delta": {"role": "assistant", "content": "word"}}
        first = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
        failed = {"error": {"message": quoted, "type": key, "code": key}}
        events = "".join(f"data: {json.dumps(event)}\n\n" for event in (first, failed))
        self._send(200, events, "text/event-stream")

    def redirect(self, quoted: str, key: str) -> None:
        self._send(302, "", location=f"http://127.0.0.1:1/{quote(quoted)}")


MODES = [
    name
    for name, value in vars(Hostile).items()
    if callable(value) and not name.startswith(("_", "do_", "log_"))
]


STREAMS = {"broken_stream": (True,), "refusal": (False, True), "garbage": (False, True)}


@contextlib.contextmanager
def hostile_provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- what is planted and what is said -------------------------------------------------------


def configuration(url: str, google_key: Path | None) -> dict[str, Any]:
    providers: dict[str, Any] = {}
    for name in KEYED:
        providers[name] = {"adapter": name, "base_url": url, "api_key": f"${{KEY_{name.upper()}}}"}
    providers["azure"]["api_version"] = "2024-10-21"
    providers["bedrock"]["region"] = "us-east-1"
    providers["http"]["endpoints"] = {
        "chat": {
            "path": "/generate",
            "request": {"inputs": "{{prompt}}", "most": "{{max_tokens}}", "live": "{{stream}}"},
            "response": {"text": "outputs.0.text"},
            "stream": {"framing": "sse", "text": "token.text"},
        }
    }
    providers["several"] = {"base_url": url, "api_keys": ["${FIRST_KEY}", "${SECOND_KEY}"]}
    providers["headed"] = {
        "base_url": url,
        "headers": {"x-portal-secret": "${PORTAL_HEADER}", "x-team": "${PLAIN_HEADER}"},
    }
    providers["proxied"] = {
        "base_url": "http://nowhere.invalid/v1",
        "proxy": "http://user:${PROXY_PASSWORD}@127.0.0.1:1",
    }
    if google_key is None:
        del providers["bedrock"]
    else:
        providers["signed"] = {"adapter": "bedrock", "base_url": url, "region": "us-east-1"}
        providers["vertex"] = {
            **{"adapter": "vertex", "base_url": url, "region": "global", "project": "p"},
            "credentials_file": str(google_key),
        }
    models = {"bedrock": "amazon.nova-pro-v1:0", "signed": "amazon.nova-pro-v1:0"}
    targets: list[dict[str, Any]] = [
        {
            "target": f"{name}/{models.get(name, 'gemini-3-pro-preview')}",
            "price": {"input": 1, "output": 1},
            "max_output_tokens": 100,
            "alias": [name],
            **({"capabilities": ["embeddings"]} if name in EMBEDS else {}),
        }
        for name in providers
    ]
    return {
        "discover": False,
        "server": {"access_log": True, "data": "./data"},
        "providers": providers,
        "targets": targets,
        "models": {"auto": {"targets": ["headed"]}},
        "budgets": [{"limit_usd": 0.05, "name": "all"}],
        "alerts": {
            "percents": [1],
            "webhooks": [
                {"url": "http://127.0.0.1:1/${HOOK_URL}", "secret": "${HOOK_SECRET}"},
                {"url": "http://127.0.0.1:1/services/${SLACK_URL}", "format": "slack"},
            ],
        },
    }


@dataclass
class Said:
    """Everything that came out, by where."""

    texts: dict[str, str] = field(default_factory=dict)

    def reply(self, where: str, reply: httpx2.Response) -> None:
        self.texts[where] = f"{reply.status_code} {reply.headers.multi_items()} {reply.text}"

    def holding(self, secret: str) -> list[str]:
        """Where a secret is, as it is or spelled as URLs do."""
        return [
            f"{where}: …{text[max(0, text.find(secret) - 80) :][:200]}"
            for where, text in self.texts.items()
            if secret in text or quote(secret, safe="") in text
        ]


def _ask(tollway: Tollway, said: Said, name: str, mode: str, *, stream: bool) -> None:
    text = f"mode:{mode} {SENT['prompt']}"
    if name in EMBEDS:
        reply = tollway.post("/v1/embeddings", {"model": name, "input": text})
    else:
        messages = [{"role": "user", "content": text}]
        reply = tollway.chat(name, messages=messages, stream=stream, max_tokens=5)
    assert reply.status_code != 404, reply.text
    said.reply(f"{name} {mode} stream={stream}", reply)


def _ask_wrongly(tollway: Tollway, said: Said) -> None:
    """What clients send in vain, and where."""
    bearer = f"Bearer {SENT['unknown bearer']}"
    variants: list[dict[str, str]] = [
        {"authorization": bearer},
        {"authorization": f"Basic {SENT['basic']}"},
        {"x-api-key": SENT["x-api-key"]},
        {"api-key": SENT["api-key"]},
        {"authorization": bearer, "x-api-key": SENT["x-api-key"]},
        {"cookie": SENT["cookie"], "authorization": bearer, "content-type": "x"},
    ]
    for i, headers in enumerate(variants):
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/admin/v1/keys"):
            path_and_query = f"{path}?key={SENT['query']}"
            reply = httpx2.post(tollway.url + path_and_query, content=b"{", headers=headers)
            said.reply(f"wrong {i} {path}", reply)
        said.reply(f"wrong {i} /metrics", tollway.get("/metrics", headers=headers))
        said.reply(f"wrong {i} 404", tollway.get(f"/nothing?key={SENT['query']}", headers=headers))
    secret = bearer.encode()
    for i, data in enumerate(
        (
            post(b"", b"authorization: " + secret, b"authorization: " + secret),
            post(b"", b"authorization : " + secret),
            post(b"", b"authorization: " + secret + b"\0"),
            b"GET " + secret + b" HTTP/1.1\r\n\r\n",
        )
    ):
        with connect(tollway) as client:
            client.send(data)
            said.texts[f"malformed {i}"] = str(client.replies())


def _administrate(tollway: Tollway, said: Said) -> str:
    """Every answer of the admin API; the key that was made in the course of it."""
    bearer = {"authorization": f"Bearer {ENVIRON['TOLLWAY_ADMIN_TOKEN']}"}
    made = httpx2.post(f"{tollway.url}/admin/v1/keys", json={"name": "k"}, headers=bearer)
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    document = tollway.get("/admin/v1/openapi.json", headers=bearer)
    said.reply("openapi", document)
    for path, methods in document.json()["paths"].items():
        if "get" in methods:
            filled = re.sub(r"{\w*id}|{\w+}", made.json()["id"], path)
            said.reply(f"admin {path}", tollway.get(filled, headers=bearer))
    said.reply("metrics", tollway.get("/metrics", headers=bearer))
    with_key = {"authorization": f"Bearer {key}"}
    said.reply("models", tollway.get("/v1/models", headers=with_key))
    said.reply("own key", tollway.get("/api/v1/key", headers=with_key))
    reply = tollway.chat("auto", headers=with_key)
    said.reply("with key", reply)
    return key


COMMANDS = [
    *(["check"], ["prices"], ["spend"], ["spend", "--by", "model", "--json"], ["alerts"]),
    *(["keys", "list"], ["budgets", "list"], ["teams", "list"], ["audit"], ["models"]),
    ["export"],
]


def _look_around(tollway: Tollway, said: Said) -> None:
    """What lies in files and in the process table."""
    for command in COMMANDS:
        done = tollway.cli(*command)
        said.texts[f"tollway {' '.join(command)}"] = done.stdout + done.stderr
    for child in tollway.children():
        said.texts[f"process {child.pid}"] = f"{child.name()} {child.cmdline()}"
    said.texts["log"] = tollway.log()
    for file in tollway.data.rglob("*"):
        if file.is_file() and file.name not in ("admin-token", "hmac-secret"):
            said.texts[f"file {file.name}"] = file.read_bytes().decode("latin-1")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, Mapping[str, str]]]:
    """All that was said, and the secrets that were made on the way."""
    folder = tmp_path_factory.mktemp("canaries")
    said = Said()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(hostile_provider())
        google = stack.enter_context(clouds.TokenService().running(folder)) if HAS_CLOUDS else None
        config = configuration(url, google)
        tollway = Tollway(folder, config, **ENVIRON).start()
        try:
            for name in config["providers"]:
                for mode in MODES:
                    for stream in STREAMS.get(mode, (False,)):
                        _ask(tollway, said, name, mode, stream=stream)
            _ask_wrongly(tollway, said)
            made = {"virtual key": _administrate(tollway, said)}
            # A crash, and what is said of it.
            tollway.ledger().kill()
            _ask(tollway, said, "openai", "refusal", stream=False)
            for worker in tollway.children()[-1:]:
                worker.kill()
            _look_around(tollway, said)
        finally:
            tollway.stop()
        said.texts["log at the end"] = tollway.log()
        made["hmac secret"] = (tollway.data / "hmac-secret").read_text().strip()
        if google is not None:
            made["google key"] = clouds.private_key().splitlines()[5]
            made["google token"] = "token-1-0123456789"
        yield said, made


@pytest.mark.negative(number=30)
def test_no_secret_is_in_any_output(said: tuple[Said, Mapping[str, str]]) -> None:
    outputs, made = said
    planted = {**ENVIRON, **{k: v for k, v in SENT.items() if k != "prompt"}, **made}
    assert len(planted) >= 40
    found = {name: outputs.holding(secret) for name, secret in planted.items()}
    assert not {name: places[:3] for name, places in found.items() if places}


def test_the_provider_did_quote(said: tuple[Said, Mapping[str, str]]) -> None:
    """Else there was nothing to find."""
    outputs, _ = said
    quoting = [where for where, text in outputs.texts.items() if "[redacted]" in text]
    assert {where.split()[0] for where in quoting} >= {*KEYED, "headed"} - {"bedrock"}


@pytest.mark.negative(number=33)
def test_prompts_are_kept_nowhere(said: tuple[Said, Mapping[str, str]]) -> None:
    outputs, _ = said
    assert not outputs.holding(SENT["prompt"])


@pytest.mark.negative(number=32)
@pytest.mark.negative(number=30)
def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    google = clouds.service_account(tmp_path, "http://127.0.0.1:1") if HAS_CLOUDS else None
    file.write_text(yaml.safe_dump(configuration("http://127.0.0.1:1", google)))
    config = config_file.load(file, ENVIRON)
    shown = [repr(config), str(config), repr(config_file.YamlFile.read(file))]
    for name, provider in config.providers.items():
        given = {key: getattr(provider, key) for key in ("base_url", "api_key", "headers", "proxy")}
        settings = registry.Settings(name=name, **given)
        shown += [repr(settings), f"{provider}", f"{settings!s}"]
    assert not [secret for secret in ENVIRON.values() if any(secret in text for text in shown)]


@pytest.mark.negative(number=30)
@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "http://user:CANARY@127.0.0.1"},
        {"base_url": "http://127.0.0.1/?key=CANARY"},
        {"base_url": "CANARY"},
        {"base_url": "http://h", "proxy": "ftp://user:CANARY@127.0.0.1"},
        {"base_url": "http://h", "proxy": "CANARY"},
        {"base_url": "http://h", "api_key": "CANARY\n"},
        {"base_url": "http://h", "api_key": ["CANARY"]},
        {"base_url": "http://h", "api_key": {"CANARY": 1}},
        {"base_url": "http://h", "api_key": "${CANARY"},
        {"base_url": "http://h", "api_key": "x", "api_keys": ["CANARY"]},
        {"base_url": "http://h", "api_keys": "CANARY"},
        {"base_url": "http://h", "api_keys": ["CANARY", "CANARY"]},
        {"base_url": "http://h", "api_keys": ["CANARY\n"]},
        {"base_url": "http://h", "api_keys": [["CANARY"]]},
        {"base_url": "http://h", "api_keys": [{"CANARY": 1}]},
        {"base_url": "http://h", "api_keys": ["${CANARY"]},
        {"base_url": "http://h", "api_key": "${CANARY}"},
        {"base_url": "http://h", "api_key": "${}CANARY"},
        {"base_url": "http://h", "headers": {"a": "CANARY\r\nb: c"}},
        {"base_url": "http://h", "headers": {"a": ["CANARY"]}},
        {"base_url": "http://h", "headers": {"a b": "CANARY"}},
        {"base_url": "http://h", "headers": {"x-key": "é€ CANARY"}},
        {"adapter": "azure", "base_url": "http://h?CANARY"},
        {"adapter": "vertex", "region": "CANARY/", "project": "p"},
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_no_refusal_of_a_configuration_quotes_a_secret(
    tmp_path: Path, settings: dict[str, Any], command: str
) -> None:
    _is_refused_without(tmp_path, {"providers": {"p": settings}}, command)


@pytest.mark.negative(number=30)
@pytest.mark.parametrize(
    "webhook",
    [
        {"url": "CANARY", "format": "slack"},
        {"url": "http://user:CANARY@127.0.0.1/", "format": "slack"},
        {"url": "http://127.0.0.1/#CANARY", "format": "slack"},
        {"url": ["CANARY"]},
        {"url": "http://127.0.0.1/CANARY"},
        {"url": "http://127.0.0.1/", "secret": "CANARY"},
        {"url": "http://127.0.0.1/", "secret": "whsec_CANARY!"},
    ],
)
def test_no_refusal_of_a_webhook_quotes_a_secret(tmp_path: Path, webhook: dict[str, Any]) -> None:
    _is_refused_without(tmp_path, {"alerts": {"webhooks": [webhook]}}, "check")


def _is_refused_without(folder: Path, config: dict[str, Any], command: str) -> None:
    secret = "sk-c4n4ry"
    text = yaml.safe_dump(config, allow_unicode=True).replace("CANARY", secret)
    (folder / "router.yaml").write_text(text, encoding="utf-8")
    arguments = ["check"] if command == "check" else ["serve", "--port", "0"]
    done = run_cli(*arguments, environ=clean_environ(), cwd=folder)
    # That a header cannot be sent is found out by who makes the adapters.
    assert done.returncode == 2 or command == "check", done.stdout + done.stderr
    assert secret not in done.stdout + done.stderr
