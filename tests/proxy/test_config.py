from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from proxy import config
from proxy.errors import StartError
from proxy.yaml_file import YamlFile

HEAD = """\
providers:
  up: {base_url: "http://localhost:1/v1"}
targets:
  - target: up/m
"""


def _build(text: str, **environ: str) -> config.Config:
    return config.build(YamlFile.parse(text, "router.yaml"), environ)


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("serverr: {}", "router.yaml:1: serverr:", "server"),
        ("server: {prt: 1}", "router.yaml:1: server.prt:", "port"),
        ("server:\n  port: high", "router.yaml:2: server.port:", "int"),
        ("server: {port: 70000}", "server.port:", "65535"),
        ("server: {workers: 0}", "server.workers:", ">= 1"),
        ("discover: perhaps", "discover:", "bool"),
        ("providers: {up: 5}", "providers.up:", "mapping"),
        ("providers: {up: {}}", "providers.up.base_url:", "missing"),
        ("providers: {up: {base_url: nowhere}}", "providers.up.base_url:", "http"),
        ("providers: {up: {base_url: 'http://u:p@h/v1'}}", "providers.up.base_url:", "api_key"),
        ("providers: {'a/b': {base_url: 'http://h'}}", "providers.a/b:", "'/'"),
        ("providers: {up: {adapter: opnai}}", "providers.up.adapter:", "openai_compatible"),
        (
            "providers:\n  up:\n    base_url: http://h\n    api_key: ${NO_KEY}",
            "router.yaml:4: providers.up.api_key:",
            "NO_KEY",
        ),
        (HEAD + "  - target: up", "targets[1].target:", "provider/model"),
        (HEAD + "  - target: down/m", "targets[1].target:", "providers"),
        (HEAD + "  - target: up/m", "targets[1]:", "taken"),
        (HEAD + "    price: {input: -1}", "targets[0].price.input:", "0"),
        (HEAD + "    price: {input: .nan}", "targets[0].price.input:", "finite"),
        (HEAD + "    price: {inputs: 1}", "targets[0].price", "input"),
        (HEAD + "    price: cheap", "targets[0].price:", "docs/configuration.md"),
        (HEAD + "    capabilities: [juggling]", "targets[0].capabilities", "juggling"),
        (HEAD + "models: {auto: {}}", "models.auto.targets:", "missing"),
        (HEAD + "models: {auto: {targets: []}}", "models.auto.targets:", "1"),
        (HEAD + "models: {auto: {targets: [up/x]}}", "models.auto.targets[0]:", "up/x"),
        (HEAD + "models: {auto: {targets: [mystery]}}", "models.auto.targets[0]:", "tier:"),
        (HEAD + "models: {auto: {targets: [up/m], policy: x}}", "models.auto.policy:", "cheapest"),
        ("budgets: [{limit_usd: 1, scope: team:x}]", "budgets[0].scope:", "global"),
        ("budgets: [{limit_usd: lots}]", "budgets[0].limit_usd:", "number"),
        ("budgets: [{limit_usd: 1, window: hour}]", "budgets[0].window:", "hour"),
        ("budgets: [{limit_usd: 1, timezone: Mars/X}]", "budgets[0].timezone:", "Europe/Berlin"),
        ("a: 1\nb: 2\na: 3", "router.yaml:3: a:", "twice"),
        ("models:\n  1: {targets: [x]}", "router.yaml:2:", "text"),
        ("models: &m {<<: *m}", "router.yaml:1:", ""),
        ("x: !!python/object/apply:os.system [true]", "router.yaml", ""),
        ("a: [1", "router.yaml", "YAML"),
        ("- 1", "router.yaml:1:", ""),
        ("a: \x07", "router.yaml", ""),
    ],
)
def test_a_mistake_is_one_line_with_place_and_remedy(text: str, where: str, remedy: str) -> None:
    with pytest.raises(StartError) as caught:
        _build(text)
    message = str(caught.value)
    assert where in message
    assert remedy in message
    assert "\n" not in message


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)
    ]
    began = time.process_time()
    with pytest.raises(StartError, match="more than"):
        _build("\n".join(lines))
    assert time.process_time() - began < 2


def test_secrets_and_urls_come_from_the_environment_alone() -> None:
    text = (
        "providers:\n  up:\n    base_url: ${URL}/v1\n    api_key: ${KEY}\n"
        "    headers: {x-org: '${ORG}'}\n"
        "models: {auto: {targets: [tier:a], description: '${KEY} is not read here'}}\n"
    )
    built = _build(text, URL="http://h:1", KEY="sk-secret", ORG="o")
    assert built.providers["up"].base_url == "http://h:1/v1"
    assert built.providers["up"].api_key == "sk-secret"
    assert built.providers["up"].headers == {"x-org": "o"}
    assert built.models["auto"].description == "${KEY} is not read here"


def test_secrets_do_not_show() -> None:
    text = "providers: {up: {base_url: 'http://h', api_key: sk-secret, headers: {a: sk-header}}}"
    shown = repr(_build(text)) + str(_build(text).providers)
    assert "sk-secret" not in shown
    assert "sk-header" not in shown


def test_an_empty_file_is_a_configuration() -> None:
    assert _build("") == config.Config(source="router.yaml")


def test_the_shipped_file_is_valid() -> None:
    path = Path(config.__file__).parents[1] / "router.yaml"
    shipped = config.load(path, {})
    assert shipped.discover
    assert list(shipped.models) == ["auto", "cheap", "best", "fast", "local", "embed"]
    (budget,) = shipped.budgets
    assert (budget.scope, budget.limit_nanousd) == ("anonymous", 10 * 10**9)


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.find(None, {}).name == "router.yaml"
    assert config.find(None, {}).is_absolute()
    (tmp_path / "router.yaml").touch()
    assert config.find(None, {}) == Path("router.yaml")
    assert config.find(None, {"TOLLWAY_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert config.find("a.yaml", {"TOLLWAY_CONFIG": "b.yaml"}) == Path("a.yaml")


def test_everything_is_frozen() -> None:
    with pytest.raises(AttributeError):
        _build("").discover = True  # type: ignore[misc]
    assert msgspec.structs.asdict(_build("").server)["port"] == 4000
