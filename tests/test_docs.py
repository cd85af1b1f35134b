"""The docs say what the code does: every setting, error, metric, command and policy is in them."""

from __future__ import annotations

import plistlib
import re
import textwrap
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer.main
import yaml

from adapters import registry as adapters
from adapters.base import Endpoint
from adapters.wire import templates
from policies import registry as policies
from policies.base import Capability
from proxy import catalog, cli, config, config_file, request_headers
from proxy.causes import CAUSES
from proxy.errors import HTTP
from proxy.invoices import FORMATS
from proxy.ledger import protocol
from proxy.ledger.export import COLUMNS
from proxy.ledger.reports import Dimension
from proxy.model_host import metrics as host_metrics
from proxy.model_host import protocol as host_protocol
from proxy.price_book import PriceBook
from proxy.swaps.orders import NewSwap
from proxy.telemetry import Metrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, heading
    return found.group(1)


@pytest.mark.parametrize(
    ("heading", "settings"),
    [
        ("Top level", config.Config),
        ("`server`", config.Server),
        ("`providers.NAME`", config.Provider),
        ("`providers.NAME`", config.Deadlines),
        ("`providers.NAME`", config.Retries),
        ("`providers.NAME`", config.Health),
        ("`providers.NAME`", config.Adaptive),
        ("`providers.NAME`", templates.ChatEndpoint),
        ("`providers.NAME`", templates.StreamPlaces),
        ("`providers.NAME`", templates.EmbeddingsEndpoint),
        ("`providers.NAME`", templates.VectorPlaces),
        ("`targets[]`", config.Target),
        ("`targets[]`", config.TargetDeadlines),
        ("`targets[]`", config.Price),
        ("`targets[]`", config.PriceTier),
        ("Top level", config.Charge),
        ("`models.NAME`", config.VirtualModel),
        ("`models.NAME`", config.RequestDeadlines),
        ("`models.NAME`", config.History),
        ("`budgets[]`", config.Budget),
        ("`alerts`", config.Alerts),
        ("`alerts.webhooks[]`", config.Webhook),
        ("`circuit`", config.Circuit),
        ("`responses`", config.Responses),
        ("`logging`", config.Logging),
        ("`host`", config.Host),
        ("`host`", config.HostGroup),
    ],
)
def test_every_setting_is_documented(heading: str, settings: type[msgspec.Struct]) -> None:
    section = _section((DOCS / "configuration.md").read_text(), heading)
    fields = set(settings.__struct_encode_fields__) - {"source"}
    assert not [field for field in fields if f"`{field}`" not in section]


@pytest.mark.parametrize(
    ("settings", "page", "heading"),
    [
        (config.Server, "configuration.md", "`server`"),
        (config.Retries, "resilience.md", "Retries"),
        (config.Budget, "configuration.md", "`budgets[]`"),
        (config.Webhook, "configuration.md", "`alerts.webhooks[]`"),
        (config.Host, "configuration.md", "`host`"),
        (config.Circuit, "configuration.md", "`circuit`"),
        (config.Logging, "configuration.md", "`logging`"),
        (NewSwap, "admin.md", "Swaps"),
    ],
)
def test_documented_defaults_are_the_defaults(
    settings: type[msgspec.Struct], page: str, heading: str
) -> None:
    section = _section((DOCS / page).read_text(), heading)
    rows = {
        name: default
        for names, default in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.M)
        for name, default in zip(re.findall(r"`(\w+)`", names), default.split(", "), strict=False)
    }
    for field in msgspec.structs.fields(settings):
        if isinstance(field.default, str | int | float | bool) and field.name in rows:
            shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
            assert rows[field.name].strip() == (
                f"{shown:g}" if isinstance(shown, float) else str(shown)
            )


def test_every_cause_is_documented() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|",
        _section((DOCS / "resilience.md").read_text(), "Fallbacks by cause"),
        re.M,
    )
    assert tuple(rows) == CAUSES


def test_every_adapter_and_policy_is_documented() -> None:
    text = (DOCS / "configuration.md").read_text()
    for name in (*adapters.names(), *policies.names()):
        assert f"`{name}`" in text


def test_error_table_is_the_code() -> None:
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| (\w+) \| (\S+) \|", (DOCS / "errors.md").read_text(), re.M
    )
    documented = {name: (int(status), kind, code) for name, status, kind, code in rows}
    actual = {
        error.__name__: (status, kind, code or "–")
        for error, (status, kind, code) in HTTP.items()
        if error.__name__ != "UpstreamRefused"
    }
    assert documented == actual


def test_metrics_table_is_the_code() -> None:
    actual = {name: sorted(labels) for name, labels in Metrics().names.items()}
    nothing = host_protocol.Shown(
        seq=0,
        memory_bytes=0,
        taken_bytes=0,
        gpu_memory_bytes=0,
        taken_gpu_bytes=0,
        max_loaded=0,
        models=(),
    )
    for family in host_metrics.families(nothing):
        name = family.name + ("_total" if family.type == "counter" else "")
        actual[name] = sorted(family._labelnames)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\|", (DOCS / "metrics.md").read_text(), re.M)
    assert {
        name: sorted(filter(None, labels.strip().split(", "))) for name, labels in rows
    } == actual


def test_every_header_of_ours_is_documented() -> None:
    page = (DOCS / "headers.md").read_text()
    asked = {name.decode() for name in request_headers.KNOWN}
    assert set(re.findall(r"`(x-tollway-[a-z-]+)`", _section(page, "Of a request"))) == asked
    code = "".join(file.read_text() for file in (ROOT / "proxy").glob("**/*.py"))
    replied = set(re.findall(r'b"(x-tollway-[a-z-]+[a-z])"', code)) - asked
    shown = _section(page, "Of a reply")
    assert set(re.findall(r"`(x-tollway-[a-z-]+)`", shown)) == replied


def test_command_line_table_is_the_code() -> None:
    rows = re.findall(
        r"^\| `tollway ([a-z ]+?)(?: [A-Z\[].*?)?` \| ([^|]*)\|",
        (DOCS / "cli.md").read_text(),
        re.M,
    )
    documented = {name: set(re.findall(r"--[a-z-]+", options)) for name, options in rows}
    assert documented == dict(_commands(typer.main.get_command(cli.app)))


def _commands(command: object, prefix: str = "") -> list[tuple[str, set[str]]]:
    found: list[tuple[str, set[str]]] = []
    for name, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "commands", None):
            found += _commands(inner, f"{prefix}{name} ")
            if not inner.invoke_without_command:
                continue
        named = {option for p in inner.params for option in (*p.opts, *p.secondary_opts)}
        options = {option for option in named if option.startswith("--")}
        found.append((prefix + name, options - {"--help"}))
    return found


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("cli.md", "Spend", Dimension.__args__),  # type: ignore[attr-defined]
        ("cli.md", "Export", COLUMNS),
        ("money.md", "Reconciliation", FORMATS),
    ],
)
def test_what_reports_know_is_documented(page: str, heading: str, names: Iterable[str]) -> None:
    section = _section((DOCS / page).read_text(), heading)
    assert not [name for name in names if f"`{name}`" not in section]


def test_export_columns_are_documented_in_their_order() -> None:
    section = _section((DOCS / "cli.md").read_text(), "Export").partition("Unix seconds:")[2]
    assert re.findall(r"`(\w+)`", section) == list(COLUMNS)


def test_outcomes_are_documented() -> None:
    text = (DOCS / "money.md").read_text()
    for outcome in protocol.Outcome.__args__:  # type: ignore[attr-defined]
        assert f"`{outcome}`" in text


def _anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("**/*.md")):
        for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {path}"
            assert not anchor or anchor in _anchors(target), f"{page}: {path}#{anchor}"


def test_example_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    file = tmp_path / "router.yaml"
    file.write_text(block)
    assert config_file.load(file, {"MY_SERVER_KEY": "x"}).providers


def _configurations(page: Path) -> Iterable[dict[str, Any]]:
    """The parts of a configuration that a page shows, fenced or indented, each as a whole one."""
    text = page.read_text()
    fenced = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    without = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for block in (*fenced, *re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", without, re.M)):
        try:
            shown = yaml.safe_load(textwrap.dedent(block))
        except yaml.YAMLError:
            continue
        if not isinstance(shown, dict):
            continue
        if set(shown) <= set(config.Config.__struct_encode_fields__):
            yield shown
        elif all(isinstance(value, dict) and "targets" in value for value in shown.values()):
            yield {"models": shown}


def _with_what_is_named(shown: dict[str, Any]) -> dict[str, Any]:
    """The same with what a page leaves to the reader: the providers and targets that it names."""
    named = set(re.findall(r"'([a-z]+/[a-z0-9./-]+)'", repr(shown))) | {"openai/any"}
    named -= {target["target"] for target in shown.get("targets", ())}
    providers = {name.partition("/")[0] for name in named} - {"local"}
    weighted = {"targets": ["openai/any"], "policy": "weighted"}  # rules may have weights
    return {
        "models": {"auto": weighted},
        **shown,
        "providers": {
            **{name: {"base_url": "https://llm.example.com/v1"} for name in sorted(providers)},
            "local": {"adapter": "local"},
            **shown.get("providers", {}),
        },
        "targets": [
            *shown.get("targets", ()),
            *({"target": name, "tiers": ["auto"]} for name in sorted(named)),
        ],
    }


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_configurations_in_the_docs_are_valid(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    for shown in _configurations(page):
        whole = yaml.safe_dump(_with_what_is_named(shown))
        file.write_text(whole)
        names = re.findall(r"\$\{(\w+)\}", whole)
        values = {name: f"https://example.com/{name:-<32}" for name in names}
        assert config_file.load(file, values).models, whole


def test_models_that_configurations_in_the_docs_name_have_a_price() -> None:
    book = PriceBook.load()
    priced = {each.id: each.price_provider for each in catalog.load().providers}
    today = date(2026, 11, 21)
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for shown in _configurations(page):
            for provider, model in re.findall(r"'([a-z]+)/([a-z0-9./-]+)'", repr(shown)):
                if provider in priced:
                    assert book.find(priced[provider] or provider, model, today), (page.name, model)


def test_what_the_pages_show_is_found() -> None:
    found = {page.stem for page in DOCS.glob("*.md") if list(_configurations(page))}
    assert found >= {"configuration", "local", "policies", "resilience", "routing"}


def test_every_capability_and_endpoint_is_documented() -> None:
    configuration = _section((DOCS / "configuration.md").read_text(), "`targets[]`")
    assert not [name for name in get_args(Capability) if f"`{name}`" not in configuration]
    admin = (DOCS / "admin.md").read_text()
    assert not [name for name in get_args(Endpoint) if f"`{name}`" not in admin]


def test_the_launchd_unit_starts_a_command_of_ours() -> None:
    with (ROOT / "deploy" / "launchd" / "io.tollway.plist").open("rb") as file:
        unit = plistlib.load(file)
    program, command, *options = unit["ProgramArguments"]
    known = dict(_commands(typer.main.get_command(cli.app)))
    assert program.endswith("/.venv/bin/tollway")
    assert set(options[::2]) <= known[command]
    assert unit["ExitTimeOut"] > config.Server().drain_s
