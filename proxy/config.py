"""`router.yaml` -> frozen typed objects.

Unknown keys are refused with their path in the file. `${NAME}` reads the environment and is
understood only where secrets and URLs stand. Reading a configuration touches no network.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from adapters import registry as adapter_registry
from adapters.base import Endpoint
from adapters.wire.templates import Endpoints
from policies import registry as policy_registry
from policies.base import Capability
from proxy import budgets, catalog, pricing, webhooks
from proxy.addresses import parse_network
from proxy.catalog import TierName
from proxy.ledger.protocol import AlertKind
from proxy.pricing import parse_usd
from proxy.yaml_file import Path_, YamlFile, expand

PACKAGED = Path(__file__).with_name("router.yaml")
# In a source checkout the default lies at the top, where people look for it.
_CHECKOUT = Path(__file__).parent.parent / "router.yaml"

# What `discover` can find besides the catalogue's providers: servers on this machine, where they
# listen unless told otherwise.
LOCAL_SERVERS: Mapping[str, int] = {"ollama": 11434, "lmstudio": 1234, "llama-server": 8080}
LOCAL_TIER = "local"

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Amount = int | float | str
Backend = Literal["llama_server", "llama_cpp", "minilm"]
"""What runs a local model."""
ColdStart = Literal["wait", "spill", "refuse"]
"""What a request does whose local model is not loaded: wait, go on to the next target, or fail."""
LONGEST_NAME = 256

_ENDPOINTS = frozenset(get_args(Endpoint))
"""Those of the capabilities that an adapter must have an endpoint for."""

DEMONSTRATION = "tollway"
"""The provider that answers where there is no other."""
T = TypeVar("T")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Server(_Strict, frozen=True):
    """How the server listens and what it accepts."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 4000
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    data: str = "./.tollway"
    max_body_mb: _Positive = 32
    hosts: list[str] = []
    """`Host` names an anonymous caller may use besides the loopback ones."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) of reverse proxies whose `X-Forwarded-For` is believed."""
    open_metrics: bool = False
    """Serve `/metrics` without the admin token."""
    access_log: bool = True
    drain_s: _Seconds = 30.0
    """How long requests in flight may take to finish when the server stops."""
    hear_out_s: _Seconds = 60.0
    """How long a provider that bills the whole answer is heard out when its client has left."""
    keep_alive_s: _Positive = 75
    first_payload_s: _Seconds = 15.0
    """After this long without a payload a stream starts with status 200 and keep-alive comments."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """SQLite's durability: FULL survives power loss, NORMAL only a crash of the process."""


class Deadlines(_Strict, frozen=True):
    """Seconds an attempt may take: to connect, to the first byte, between bytes."""

    connect_s: _Seconds = 10.0
    first_byte_s: _Seconds = 120.0
    idle_s: _Seconds = 60.0


class PriceTier(_Strict, frozen=True):
    """Rates of every token of a longer prompt, in USD per million tokens."""

    above_input_tokens: Annotated[int, msgspec.Meta(ge=0)]
    input: Amount
    output: Amount
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None


class Rates(_Strict, frozen=True):
    """USD per million tokens, and of `characters`; `image` and what begins with `per_` USD each."""

    input: Amount | None = None
    """May be missing where something besides tokens has a price."""
    output: Amount = 0
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    reasoning: Amount | None = None
    input_audio: Amount | None = None
    input_image: Amount | None = None
    output_audio: Amount | None = None
    output_image: Amount | None = None
    image: Amount = 0
    per_request: Amount = 0
    per_generated_image: Amount | dict[str, Amount] = 0
    """One amount, or one for each `size/quality`, size or quality."""
    per_minute: Amount = 0
    characters: Amount = 0
    per_search: Amount = 0
    documents_per_search: _Positive = 100
    document_tokens: _Positive | None = None
    tiers: list[PriceTier] = []
    """Of longer prompts, in ascending order."""


class Price(Rates, frozen=True):
    """What a target charges, from a day on."""

    since: date | None = msgspec.field(default=None, name="from")
    """The UTC day on which it comes into force; without one it always was."""
    service_tiers: dict[str, Rates] = {}
    """The rates of service tiers besides the standard one, such as `flex` and `priority`."""

    def resolved(self) -> pricing.Price:
        """The price in nano-USD; raises ValueError for what no price can be."""
        return _resolved(
            self,
            as_of=self.since,
            service_tiers={name: _resolved(rates) for name, rates in self.service_tiers.items()},
        )


def _resolved(rates: Rates, **more: Any) -> pricing.Price:
    return pricing.Price(
        **_amounts(rates, but=_NO_AMOUNTS),
        tiers=tuple(
            pricing.Tier(
                above_input_tokens=tier.above_input_tokens,
                **_amounts(tier, but=("above_input_tokens",)),
            )
            for tier in rates.tiers
        ),
        documents_per_search=rates.documents_per_search,
        document_tokens=rates.document_tokens,
        source="router.yaml",
        **more,
    )


# What of the settings of a price is none itself.
_NO_AMOUNTS = ("tiers", "documents_per_search", "document_tokens")


def _amounts(rates: Rates | PriceTier, *, but: Container[str]) -> dict[str, Any]:
    """The amounts in nano-USD, by the names that `pricing` has for them too."""
    kind = Rates if isinstance(rates, Rates) else PriceTier
    amounts = {name: getattr(rates, name) for name in kind.__struct_fields__ if name not in but}
    return {"input": 0, **{n: _nanousd(a) for n, a in amounts.items() if (n, a) != ("input", None)}}


def _nanousd(amount: Amount | dict[str, Amount] | None) -> int | dict[str, int] | None:
    if isinstance(amount, dict):
        return {name: parse_usd(each) for name, each in amount.items()}
    return None if amount is None else parse_usd(amount)


class Charge(_Strict, frozen=True):
    """A fixed charge in USD for each request to a target without a known price."""

    per_request: Amount


Unpriced = Charge | Literal["refuse", "free"]
"""What becomes of a target without a known price."""


class Limits(_Strict, frozen=True):
    """How fast a target or a provider may be asked; minutes are the last sixty seconds."""

    requests_per_minute: _Positive | None = None
    tokens_per_minute: _Positive | None = None
    concurrent: _Positive | None = None
    """Requests at the same time."""


class Provider(_Strict, frozen=True):
    """An account or server upstream."""

    adapter: str = "openai_compatible"
    base_url: str | None = None
    api_key: str | None = None
    headers: dict[str, str] = {}
    proxy: str | None = None
    http2: bool = False
    ca_bundle: str | None = None
    api_version: str | None = None
    """For `adapter: azure`: the dated API to ask, with deployments in its paths."""
    region: str | None = None
    """For `bedrock` and `vertex`: the region that is asked."""
    profile: str | None = None
    """For `bedrock`: the profile in `~/.aws` that signs; unset, what Amazon's tools would take."""
    project: str | None = None
    """For `vertex`: the id of the project that is billed."""
    credentials_file: str | None = None
    """For `vertex`: the key file of a service account; unset, what Google's tools would take."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """By which it caps the output; unset, as the adapter says."""
    stream_usage: bool | None = None
    """Whether it understands `stream_options.include_usage`; unset, as the adapter says."""
    prices: str | None = None
    """Whose prices its models have in the price snapshot; the provider's own name if unset."""
    unpriced: Unpriced | None = None
    """As at the top level, for its targets alone."""
    service_tier: str | None = None
    """What the account is billed at where a request names no tier, or `auto`."""
    reports_cost: bool | None = None
    """Whether the cost in its usage objects is what it charges; unset, as the catalogue says."""
    meterable: bool | None = None
    """Whether it stops billing a stream that is closed; unset, as adapter and catalogue say."""
    drop_params: bool | None = None
    """As at the top level, for its targets alone."""
    limits: Limits = Limits()
    """For all its targets together."""
    deadlines: Deadlines = Deadlines()
    endpoints: Endpoints | None = None
    """For `adapter: http`: what it is asked for, and how."""
    script: str | None = None
    """For `adapter: scripted`: a file with what it says."""
    folder: str | None = None
    """For `adapter: local`: where the models' files are; unset, where the server was started."""
    llama_server: str | None = None
    """For `adapter: local`: llama.cpp's program; unset, `LLAMA_SERVER`, or the one on the PATH."""

    def __repr__(self) -> str:
        """Without what may hold a secret: the key, the headers, the proxy's password."""
        return f"Provider(adapter={self.adapter!r}, base_url={self.base_url!r})"


class Target(_Strict, frozen=True):
    """One concrete model at one provider. What is left out comes from the catalogue."""

    target: str
    """`provider/model`, or `provider/*` for whatever else that provider has."""
    model: str | None = None
    """The provider's own name for it, where it is another."""
    alias: list[str] = []
    tiers: list[str] | None = None
    price: Price | list[Price] | Literal["free"] | None = None
    context_length: _Positive | None = None
    max_output_tokens: _Positive | None = None
    capabilities: list[Capability] | None = None
    vector_space: str | None = None
    image_tokens: _Positive = 50_000
    """The most input tokens that one image can take."""
    max_audio_seconds: _Positive | None = None
    """The longest sound that it takes."""
    limits: Limits = Limits()
    backend: Backend | None = None
    """For a local model, as all below: what runs it; unset, `llama_server`."""
    needs_mb: _Positive | None = None
    """The memory it takes; unset, estimated from its files. What is measured corrects it."""
    concurrency: _Positive | None = None
    """How many requests it answers at the same time; unset, as its backend does best."""
    pinned: bool = False
    """Whether it stays loaded, once it is."""


class DowngradeTier(_Strict, frozen=True):
    """What a virtual model is from a share of a spent budget on."""

    at_percent: Annotated[int, msgspec.Meta(ge=1, le=100)]
    targets: Annotated[list[str], msgspec.Meta(min_length=1)]
    policy: str | None = None
    """The model's own if unset."""


class VirtualModel(_Strict, frozen=True):
    """A name that clients ask for and a policy resolves."""

    targets: Annotated[list[str], msgspec.Meta(min_length=1)]
    """`provider/model`, `provider/*` or `tier:NAME`, in order."""
    policy: str = "ordered"
    description: str = ""
    downgrade: list[DowngradeTier] = []
    cold_start: ColdStart = "wait"


class Budget(_Strict, frozen=True):
    """A limit on a scope over a window."""

    limit_usd: Amount
    scope: str | list[str] = "global"
    """Of an attempt: `global`, `key:<id>`, `user:*` …; of a list every one must apply."""
    window: str = "day"
    mode: Literal["hard", "soft"] = "hard"
    timezone: str = "UTC"
    holds: Literal["sliced", "full"] = "sliced"
    """What streams that can be metered hold: a slice ahead of what has flowed, or their maximum."""
    name: str = ""

    @property
    def limit_nanousd(self) -> int:
        """The limit in nano-USD."""
        return parse_usd(self.limit_usd)

    @property
    def joined_scope(self) -> str:
        """The scope as the ledger writes it."""
        return self.scope if isinstance(self.scope, str) else budgets.AND.join(self.scope)


class Webhook(_Strict, frozen=True):
    """Where alerts are sent to."""

    url: str
    secret: str | None = None
    """What messages are signed with: `whsec_` and base64, or any text of 24 bytes or more."""
    format: Literal["standard", "slack"] = "standard"
    kinds: Annotated[tuple[AlertKind, ...], msgspec.Meta(min_length=1)] = get_args(AlertKind)

    def __repr__(self) -> str:
        """Without the URL and the secret: the path of one is often as good as the other."""
        return f"Webhook(format={self.format!r}, kinds={self.kinds!r})"


class Alerts(_Strict, frozen=True):
    """What operators are told of by themselves, and where."""

    percents: tuple[Annotated[int, msgspec.Meta(ge=1, le=1000)], ...] = (50, 80, 100)
    """Shares of a budget at which an alert is raised."""
    webhooks: tuple[Webhook, ...] = ()


class Responses(_Strict, frozen=True):
    """What is kept of responses, for `previous_response_id` and for whoever asks for them again."""

    store: bool = True
    """Off: nothing is kept, whatever requests ask for."""
    days: _Positive = 30
    """How long after its last use."""
    total_mb: _Positive = 1024
    """Of all together; those that were not used for longest go first."""
    largest_mb: _Positive = 16
    """Of one with its input; a larger one is not kept."""


class Host(_Strict, frozen=True):
    """How much room local models have together, and how long they stay."""

    memory_mb: _Positive | None = None
    """Unset, three quarters of what the machine has."""
    max_loaded: _Positive = 3
    """How many are loaded at the same time."""
    ttl_s: _Seconds = 1800.0
    """How long one stays loaded that nobody uses."""
    collate_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 1.0
    """How long requests for loaded models may overtake one for whose model there is no room."""
    queue: _Positive = 100
    """How many requests may wait for one model."""
    preload: list[str] = []
    """Targets that are loaded at the start."""
    load_timeout_s: _Seconds = 300.0
    health_s: _Seconds = 10.0
    """How often those that are loaded are asked whether they are well, and measured."""


class Config(_Strict, frozen=True):
    """A whole configuration, checked."""

    source: str
    server: Server = Server()
    discover: bool = False
    """Find providers by the environment's API keys, and local servers on their usual ports."""
    providers: dict[str, Provider] = {}
    targets: list[Target] = []
    models: dict[str, VirtualModel] = {}
    budgets: list[Budget] = []
    unpriced: Unpriced = "refuse"
    """What becomes of targets without a known price."""
    drop_params: bool = False
    """Leave out what a provider has no parameter for, and say so, instead of refusing."""
    alerts: Alerts = Alerts()
    responses: Responses = Responses()
    host: Host = Host()


class _Top(_Strict, frozen=True):
    server: Any = None
    discover: bool = False
    providers: dict[str, Any] | None = None
    targets: list[Any] | None = None
    models: dict[str, Any] | None = None
    budgets: list[Any] | None = None
    unpriced: Unpriced = "refuse"
    drop_params: bool = False
    alerts: dict[str, Any] | None = None
    responses: Any = None
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
        budgets=[
            _convert(file, ("budgets", i), value, Budget)
            for i, value in enumerate(top.budgets or [])
        ],
        unpriced=top.unpriced,
        drop_params=top.drop_params,
        alerts=_alerts(file, top.alerts or {}, environ),
        responses=_convert(file, ("responses",), top.responses or {}, Responses),
        host=_convert(file, ("host",), top.host or {}, Host),
    )
    _check(file, config)
    return config


# They differ from one deployment to the next, as addresses do.
_OF_CLOUDS = ("region", "profile", "project", "credentials_file")
_PATHS = ("folder", "llama_server")
_OF_LOCAL_TARGETS = ("backend", "needs_mb", "concurrency", "pinned")
# It becomes a part of a host name.
_REGION = re.compile("[a-z0-9]+(-[a-z0-9]+)*")


def _provider(file: YamlFile, name: str, value: Any, environ: Mapping[str, str]) -> Provider:
    path: Path_ = ("providers", name)
    if not isinstance(value, dict):
        raise file.error(path, "must be a mapping with an 'adapter' or a 'base_url'")
    value = dict(value)
    for key in ("base_url", "api_key", "proxy", *_OF_CLOUDS, *_PATHS):
        value[key] = _expand(file, (*path, key), value.get(key), environ)
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
        message, _, where = str(error).partition(" - at `$")
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


def _check(file: YamlFile, config: Config) -> None:
    for i, network in enumerate(config.server.trusted_proxies):
        try:
            parse_network(network)
        except ValueError as error:
            raise file.error(("server", "trusted_proxies", i), str(error)) from None
    _check_unpriced(file, ("unpriced",), config.unpriced)
    for i, webhook in enumerate(config.alerts.webhooks):
        _check_webhook(file, ("alerts", "webhooks", i), webhook)
    for name, provider in config.providers.items():
        _check_provider(file, name, provider)
    names: set[str] = set()
    for i, target in enumerate(config.targets):
        _check_target(file, ("targets", i), target, config, names)
    for name, model in config.models.items():
        _check_name(file, ("models", name), name)
        if model.policy not in policy_registry.names():
            known = ", ".join(policy_registry.names())
            raise file.error(
                ("models", name, "policy"), f"unknown policy {model.policy!r}; known: {known}"
            )
        for i, target_name in enumerate(model.targets):
            _check_reference(file, ("models", name, "targets", i), target_name, config, names)
        _check_downgrades(file, ("models", name, "downgrade"), model, config, names)
    for i, budget in enumerate(config.budgets):
        _check_budget(file, ("budgets", i), budget, config)
    for i, name in enumerate(config.host.preload):
        if name not in names or not _is_hosted(config, name):
            raise file.error(("host", "preload", i), f"{name!r} is no target with a local model")


def _check_name(file: YamlFile, path: Path_, name: str) -> None:
    """A name may stand in headers, logs and lists."""
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise file.error(
            path,
            f"a name is 1 to {LONGEST_NAME} printable characters without white space around it",
        )


def _check_provider(file: YamlFile, name: str, provider: Provider) -> None:
    path: Path_ = ("providers", name)
    _check_name(file, path, name)
    if "/" in name:
        raise file.error(path, "a provider's name has no '/'")
    if provider.adapter not in adapter_registry.names():
        known = ", ".join(adapter_registry.names())
        raise file.error(
            (*path, "adapter"), f"unknown adapter {provider.adapter!r}; known: {known}"
        )
    if provider.base_url is None and adapter_registry.needs_base_url(provider.adapter):
        raise file.error((*path, "base_url"), "is missing; e.g. https://api.example.com/v1")
    for key in adapter_registry.needs(provider.adapter):
        if not getattr(provider, key):
            raise file.error((*path, key), f"is missing; {provider.adapter!r} needs it")
    for key in _OF_CLOUDS:
        text = getattr(provider, key)
        if text is not None and not (text and text.isprintable()):
            raise file.error((*path, key), "must be printable text")
    if provider.region is not None and not _REGION.fullmatch(provider.region):
        raise file.error((*path, "region"), "is no region; e.g. us-east-1")
    _check_endpoints(file, (*path, "endpoints"), provider)
    for key, url in (("base_url", provider.base_url), ("proxy", provider.proxy)):
        if url is not None:
            _check_url(file, (*path, key), url)
    for header, text in provider.headers.items():
        if any(c in header + text for c in "\r\n\0"):
            raise file.error((*path, "headers", header), "must not contain line breaks or NUL")
    _check_unpriced(file, (*path, "unpriced"), provider.unpriced)
    if provider.api_key is not None and not provider.api_key.isprintable():
        raise file.error((*path, "api_key"), "must not contain line breaks or control characters")


def _check_endpoints(file: YamlFile, path: Path_, provider: Provider) -> None:
    if (provider.adapter == "http") != (provider.endpoints is not None):
        raise file.error(path, "are what 'adapter: http' needs, and no other has")
    if provider.endpoints is not None:
        for where, problem in provider.endpoints.problems():
            raise file.error((*path, *where), problem)


def _check_url(file: YamlFile, path: Path_, url: str) -> None:
    """The URL itself is never quoted: it may come from the environment, and hold a password."""
    schemes = ("http", "https", "socks5", "socks5h") if path[-1] == "proxy" else ("http", "https")
    problem = file.error(path, f"is no URL; expected {'://host or '.join(schemes)}://host")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise problem
    if path[-1] == "base_url" and ("@" in parts.netloc or parts.query or parts.fragment):
        raise file.error(path, "must have no user, query or fragment; put secrets into 'api_key'")


def _check_target(
    file: YamlFile, path: Path_, target: Target, config: Config, names: set[str]
) -> None:
    provider, _, model = target.target.partition("/")
    if not model:
        raise file.error((*path, "target"), f"{target.target!r} is not of the form provider/model")
    if provider not in config.providers:
        raise file.error(
            (*path, "target"), f"there is no provider {provider!r}; add it under 'providers'"
        )
    for field in ("alias", "model", "tiers", "vector_space", "limits"):
        if model == "*" and getattr(target, field) not in (None, [], Limits()):
            raise file.error((*path, field), "is of one target, and 'provider/*' stands for many")
    _check_name(file, (*path, "target"), target.target)
    for name in (target.target, *target.alias):
        _check_name(file, (*path, "alias"), name)
        if name in names or name in config.models:
            raise file.error(path, f"the name {name!r} is taken already")
        names.add(name)
    adapter = config.providers[provider].adapter
    _check_local_target(file, path, target, is_local=adapter_registry.is_hosted(adapter))
    for i, capability in enumerate(target.capabilities or ()):
        if capability in _ENDPOINTS and capability not in adapter_registry.speaks(adapter):
            raise file.error(
                (*path, "capabilities", i), f"the adapter {adapter!r} has no {capability}"
            )
    if isinstance(target.price, Price):
        _check_price(file, (*path, "price"), target.price)
    elif isinstance(target.price, list):
        _check_dated_prices(file, (*path, "price"), target.price)


def _check_local_target(file: YamlFile, path: Path_, target: Target, *, is_local: bool) -> None:
    for field in _OF_LOCAL_TARGETS:
        if not is_local and getattr(target, field):
            raise file.error((*path, field), "is for targets whose provider has 'adapter: local'")
    if is_local and target.target.endswith("/*"):
        raise file.error((*path, "target"), "local models are configured one by one")


def _is_hosted(config: Config, name: str) -> bool:
    provider = config.providers.get(name.partition("/")[0])
    return provider is not None and adapter_registry.is_hosted(provider.adapter)


def _check_price(file: YamlFile, path: Path_, price: Price) -> None:
    _check_rates(file, path, price)
    for name, rates in price.service_tiers.items():
        _check_rates(file, (*path, "service_tiers", name), rates)
    try:
        price.resolved()
    except ValueError as error:
        raise file.error((*path, "service_tiers"), str(error)) from None


def _check_rates(file: YamlFile, path: Path_, rates: Rates) -> None:
    if rates.input is None and not _charges_pieces(rates):
        raise file.error((*path, "input"), "is missing")
    for field in Rates.__struct_fields__:
        if field not in _NO_AMOUNTS:
            _check_amount(file, (*path, field), getattr(rates, field))
    below = -1
    for i, tier in enumerate(rates.tiers):
        for field in PriceTier.__struct_fields__:
            if field != "above_input_tokens":
                _check_amount(file, (*path, "tiers", i, field), getattr(tier, field))
        if tier.above_input_tokens <= below:
            raise file.error((*path, "tiers", i, "above_input_tokens"), "must be above the last")
        below = tier.above_input_tokens


def _charges_pieces(rates: Rates) -> bool:
    """Whether something besides tokens has a price, so that one of tokens may be missing."""
    prices = (rates.per_request, rates.per_generated_image, rates.per_minute)
    return any(price != 0 for price in (*prices, rates.characters, rates.per_search))


def _check_dated_prices(file: YamlFile, path: Path_, prices: list[Price]) -> None:
    if not prices:
        raise file.error(path, "is empty; list prices, or remove this")
    before: date | None = None
    for i, price in enumerate(prices):
        _check_price(file, (*path, i), price)
        if i and (price.since is None or (before is not None and price.since <= before)):
            raise file.error((*path, i, "from"), "must be a day after the one of the price before")
        before = price.since


def _check_unpriced(file: YamlFile, path: Path_, unpriced: Unpriced | None) -> None:
    if isinstance(unpriced, Charge):
        _check_amount(file, (*path, "per_request"), unpriced.per_request)


def _check_reference(
    file: YamlFile, path: Path_, name: str, config: Config, names: set[str]
) -> None:
    """What a virtual model names: a tier that something may have, or a target that may be there."""
    provider, slash, model = name.partition("/")
    if name.startswith("tier:"):
        own = (tier for target in config.targets for tier in target.tiers or ())
        known = dict.fromkeys((*get_args(TierName), LOCAL_TIER, *own))
        if name.removeprefix("tier:") not in known:
            raise file.error(path, f"no target has this tier; known: {', '.join(known)}")
    elif not slash and name not in names:
        raise file.error(
            path, f"{name!r} is neither a target nor an alias; write provider/model or tier:NAME"
        )
    elif slash and provider in config.providers:
        has_any = any(n.startswith(f"{provider}/") and n != f"{provider}/*" for n in names)
        is_there = has_any if model == "*" else {name, f"{provider}/*"} & names
        if not is_there:
            raise file.error(path, f"there is no target {name!r}; add it under 'targets'")
    elif slash and name not in names and not (config.discover and provider in _discoverable()):
        raise file.error(path, f"there is no provider {provider!r}; add it under 'providers'")


def may_be_there(config: Config, kind: str, name: str) -> bool:
    """Whether there is such a virtual `model`, `target` or `provider`, or may be once it is served.

    What is discovered depends on the environment of the server, so every provider may be that
    discovery knows.
    """
    if kind == "model":
        return name in config.models
    provider = name.partition("/")[0]
    if provider in config.providers:
        names = {target.target for target in config.targets}
        return kind == "provider" or not names.isdisjoint((name, f"{provider}/*"))
    if config.discover and provider in _discoverable():
        return True
    return provider == DEMONSTRATION and not config.targets


def _discoverable() -> set[str]:
    return {*LOCAL_SERVERS, *(provider.id for provider in catalog.load().providers)}


def _check_downgrades(
    file: YamlFile, path: Path_, model: VirtualModel, config: Config, names: set[str]
) -> None:
    shares: set[int] = set()
    for i, tier in enumerate(model.downgrade):
        if tier.at_percent in shares:
            raise file.error((*path, i, "at_percent"), f"{tier.at_percent} is there twice")
        shares.add(tier.at_percent)
        if tier.policy is not None and tier.policy not in policy_registry.names():
            known = ", ".join(policy_registry.names())
            raise file.error(
                (*path, i, "policy"), f"unknown policy {tier.policy!r}; known: {known}"
            )
        for j, target_name in enumerate(tier.targets):
            _check_reference(file, (*path, i, "targets", j), target_name, config, names)


def _check_budget(file: YamlFile, path: Path_, budget: Budget, config: Config) -> None:
    problem = budgets.scope_problem(budget.joined_scope)
    if problem is not None:
        raise file.error((*path, "scope"), problem)
    for kind, name in budgets.named_in(budget.joined_scope):
        # Keys, teams and organisations are the ledger's.
        if kind in ("model", "target", "provider") and not may_be_there(config, kind, name):
            raise file.error(
                (*path, "scope"), f"there is no {kind} {name!r}; add it under '{kind}s'"
            )
    problem = budgets.window_problem(budget.window)
    if problem is not None:
        raise file.error((*path, "window"), problem)
    _check_amount(file, (*path, "limit_usd"), budget.limit_usd)
    try:
        budgets.time_zone(budget.timezone)
    except ValueError as error:
        raise file.error((*path, "timezone"), str(error)) from None


def _check_webhook(file: YamlFile, path: Path_, webhook: Webhook) -> None:
    problem = webhooks.url_problem(webhook.url)
    if problem is not None:
        raise file.error((*path, "url"), problem)
    if webhook.format == "slack":
        if webhook.secret is not None:
            raise file.error((*path, "secret"), "is not used by the format slack; remove it")
        return
    if webhook.secret is None:
        raise file.error(
            (*path, "secret"),
            "is missing: messages are signed with it; make one with 'openssl rand -base64 32'",
        )
    try:
        webhooks.signing_key(webhook.secret)
    except ValueError as error:
        raise file.error((*path, "secret"), str(error)) from None


def _check_amount(file: YamlFile, path: Path_, amount: Amount | dict[str, Amount] | None) -> None:
    if amount is None:
        return
    if isinstance(amount, dict):
        if not amount:
            raise file.error(path, "is empty; give an amount, or one for each kind of image")
        for kind, each in amount.items():
            _check_amount(file, (*path, kind), each)
        return
    try:
        parse_usd(amount)
    except ValueError as error:
        raise file.error(path, str(error)) from None
