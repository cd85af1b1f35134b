"""`router.yaml` -> a checked configuration.

Unknown keys are refused with their path in the file. `${NAME}` reads the environment and is
understood only where secrets and URLs stand. Reading a configuration touches no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from policies import registry as policy_registry
from policies.rules import Rule
from proxy.config import (
    OF_CLOUDS,
    Alerts,
    Budget,
    Circuit,
    Config,
    Expectation,
    Host,
    Logging,
    Policy,
    Provider,
    Responses,
    Server,
    Strict,
    Target,
    Unpriced,
    VirtualModel,
    policy_of,
)
from proxy.config_checks import check, check_rules
from proxy.fair_queue import Priority
from proxy.yaml_file import Path_, YamlFile, expand

PACKAGED = Path(__file__).with_name("router.yaml")
# In a source checkout the default lies at the top, where people look for it.
_CHECKOUT = Path(__file__).parent.parent / "router.yaml"

T = TypeVar("T")


class _Top(Strict, frozen=True):
    server: Any = None
    discover: bool = False
    providers: dict[str, Any] | None = None
    targets: list[Any] | None = None
    models: dict[str, Any] | None = None
    rules: list[Any] | None = None
    expect: list[Any] | None = None
    budgets: list[Any] | None = None
    unpriced: Unpriced = "refuse"
    drop_params: bool = False
    alerts: dict[str, Any] | None = None
    circuit: Any = None
    priorities: Any = None
    responses: Any = None
    logging: Any = None
    host: Any = None


def find(given: str | None, environ: Mapping[str, str]) -> Path:
    """Which file to read: `--config`, else `TOLLWAY_CONFIG`, else `./router.yaml`, else ours."""
    named = given or environ.get("TOLLWAY_CONFIG")
    if named:
        return Path(named)
    here = Path("router.yaml")
    if here.exists():
        return here
    return PACKAGED if PACKAGED.exists() else _CHECKOUT


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and check a file; raises `StartError` that names file, line, path and remedy."""
    return build(YamlFile.read(path), environ)


def load_server(path: Path) -> Server:
    """Only the `server` section of a file; raises `StartError`."""
    file = YamlFile.read(path)
    top = _convert(file, (), {} if file.value is None else file.value, _Top)
    return _convert(file, ("server",), top.server or {}, Server)


def build(file: YamlFile, environ: Mapping[str, str]) -> Config:
    """The configuration that a parsed file describes; raises `StartError`."""
    top = _convert(file, (), {} if file.value is None else file.value, _Top)
    providers = {
        name: _provider(file, name, value, environ) for name, value in (top.providers or {}).items()
    }
    targets = [
        _convert(file, ("targets", i), value, Target) for i, value in enumerate(top.targets or [])
    ]
    models = {
        name: _convert(file, ("models", name), value, VirtualModel)
        for name, value in (top.models or {}).items()
    }
    config = Config(
        source=file.name,
        server=_convert(file, ("server",), top.server or {}, Server),
        discover=top.discover,
        providers=providers,
        targets=targets,
        models=models,
        rules=[_convert(file, ("rules", i), rule, Rule) for i, rule in enumerate(top.rules or [])],
        expect=[
            _convert(file, ("expect", i), value, Expectation)
            for i, value in enumerate(top.expect or [])
        ],
        budgets=[
            _convert(file, ("budgets", i), value, Budget)
            for i, value in enumerate(top.budgets or [])
        ],
        unpriced=top.unpriced,
        drop_params=top.drop_params,
        alerts=_alerts(file, top.alerts or {}, environ),
        priorities=_convert(file, ("priorities",), top.priorities or {}, dict[str, Priority]),
        circuit=_convert(file, ("circuit",), top.circuit or {}, Circuit),
        responses=_convert(file, ("responses",), top.responses or {}, Responses),
        logging=_logging(file, top.logging or {}),
        host=_convert(file, ("host",), top.host or {}, Host),
    )
    check(file, config)
    for name, model in models.items():
        _check_options(file, ("models", name, "policy"), model.policy)
        for i, tier in enumerate(model.downgrade):
            if tier.policy is not None:
                _check_options(file, ("models", name, "downgrade", i, "policy"), tier.policy)
    check_rules(file, config)
    return config


def _check_options(file: YamlFile, path: Path_, policy: Policy) -> None:
    name, options = policy_of(policy)
    _convert(file, path, dict(options), policy_registry.options_of(policy_registry.find(name)))


_PATHS = ("folder", "llama_server")


def _provider(file: YamlFile, name: str, value: Any, environ: Mapping[str, str]) -> Provider:
    path: Path_ = ("providers", name)
    if not isinstance(value, dict):
        raise file.error(path, "must be a mapping with an 'adapter' or a 'base_url'")
    value = dict(value)
    for key in ("base_url", "api_key", "proxy", *OF_CLOUDS, *_PATHS):
        value[key] = _expand(file, (*path, key), value.get(key), environ)
    if isinstance(value.get("api_keys"), list):
        value["api_keys"] = [
            _expand(file, (*path, "api_keys", i), text, environ)
            for i, text in enumerate(value["api_keys"])
        ]
    if isinstance(value.get("headers"), dict):
        value["headers"] = {
            header: _expand(file, (*path, "headers", header), text, environ)
            for header, text in value["headers"].items()
        }
    return _convert(file, path, value, Provider)


def _alerts(file: YamlFile, value: dict[str, Any], environ: Mapping[str, str]) -> Alerts:
    value = dict(value)
    if isinstance(value.get("webhooks"), list):
        value["webhooks"] = [
            {
                key: _expand(file, ("alerts", "webhooks", i, key), text, environ)
                if key in ("url", "secret")
                else text
                for key, text in webhook.items()
            }
            if isinstance(webhook, dict)
            else webhook
            for i, webhook in enumerate(value["webhooks"])
        ]
    return _convert(file, ("alerts",), value, Alerts)


def _logging(file: YamlFile, value: Any) -> Logging:
    logging = _convert(file, ("logging",), value, Logging)
    if logging.prompts and not logging.requests:
        raise file.error(
            ("logging", "prompts"), "prompts are kept with requests; set 'requests: true' too"
        )
    return logging


def _expand(file: YamlFile, path: Path_, value: Any, environ: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return expand(value, environ)
    except KeyError as error:
        raise file.error(
            path, f"the environment variable {error.args[0]} is not set; set it, or remove this"
        ) from None
    except ValueError as error:
        raise file.error(path, str(error)) from None


def _convert(file: YamlFile, path: Path_, value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # Of a key of a mapping msgspec says "at `key` in" that mapping.
        message, _, where = str(error).replace("`key` in ", "").partition(" - at `$")
        inner = _path_of(where.rstrip("`"))
        owner, found = _type_at(kind, inner)
        if "unknown field" in message or "missing required field" in message:
            inner = (*inner, message.split("`")[1])
        raise file.error((*path, *inner), _problem(message, owner, found)) from None


def _path_of(text: str) -> Path_:
    """msgspec's `.a[0].b` as a path; it does not tell the keys of free mappings."""
    parts = text.replace("[...]", "").replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts if part)


def _type_at(kind: Any, path: Path_) -> tuple[Any, Any]:
    """The settings that `path` leads into, beginning in `kind`, and the type of what is there."""
    owner = found = kind
    for name in path:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(owner)}
        if name in fields:
            found = fields[name]
            owner = next(filter(_is_struct, _types_in(found)), owner)
    return owner, found


def _types_in(kind: Any) -> Iterator[Any]:
    """A type and whatever it is made of."""
    yield kind
    for part in get_args(kind):
        yield from _types_in(part)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _problem(message: str, owner: Any, found: Any) -> str:
    if "unknown field" in message:
        return f"is no setting; there are: {', '.join(sorted(owner.__struct_encode_fields__))}"
    if "missing required field" in message:
        return "is missing"
    if "enum value" in message:
        words = [
            str(w)
            for kind in _types_in(found)
            if get_origin(kind) is Literal
            for w in kind.__args__
        ]
        mapping = " or a mapping" if any(map(_is_struct, _types_in(found))) else ""
        return f"{message[0].lower()}{message[1:]}; expected {', '.join(words)}{mapping}"
    return message[0].lower() + message[1:]
