"""What `router.yaml` may say, as frozen types."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from adapters.base import Prefill
from adapters.wire.templates import Endpoints
from policies import strategies
from policies.base import Capability, Domain, Task
from policies.constraints import NO_CONSTRAINTS, Constraints
from policies.rules import Rule
from proxy import budgets, pricing
from proxy.causes import Cause
from proxy.fair_queue import Priority
from proxy.ledger.protocol import AlertKind
from proxy.pricing import parse_usd

# What `discover` can find besides the catalogue's providers: servers on this machine, where they
# listen unless told otherwise.
LOCAL_SERVERS: Mapping[str, int] = {"ollama": 11434, "lmstudio": 1234, "llama-server": 8080}
LOCAL_FOLDER = Path("models")
"""Where `discover` looks for models' files, beside where the server was started."""
LOCAL_PROVIDERS = (*LOCAL_SERVERS, "mlx", "local")
"""What the providers are called that are found on this machine."""
LOCAL_TIER = "local"

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = int | float | str
Backend = Literal["llama_server", "llama_cpp", "mlx", "minilm"]
"""What runs a local model."""
Tag = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""A word for what a target is good at."""
ColdStart = Literal["wait", "spill", "refuse"]
"""What a request does whose local model is not loaded: wait, go on to the next target, or fail."""
LONGEST_NAME = 256

"""Those of the capabilities that an adapter must have an endpoint for."""

DEMONSTRATION = "tollway"
"""The provider that answers where there is no other."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: keys that it does not know are mistakes."""


class Server(Strict, frozen=True):
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
    head_s: _Seconds = 10.0
    """How long the head of a request may take to arrive."""
    body_s: _Seconds = 30.0
    """How long a request's body may stop arriving, or be slower than 1 KiB/s."""
    reader_s: _Seconds = 30.0
    """How long a client may read nothing of a reply that waits for it."""
    max_concurrent: _Positive = 10_000
    """How many requests to `/v1/` a worker answers at the same time."""
    queue: Annotated[int, msgspec.Meta(ge=0)] = 1_000
    """How many more may wait for that."""
    queue_s: _Seconds = 2.0
    """For how long."""
    first_payload_s: _Seconds = 15.0
    """After this long without a payload a stream starts with status 200 and keep-alive comments."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """SQLite's durability: FULL survives power loss, NORMAL only a crash of the process."""
    reload: Literal["manual", "auto"] = "manual"
    """Whether the file is read again when it is told, or also when it is another."""
    unready_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    """How long a server that is to stop still takes requests, with `/readyz` saying 503."""


FIXED = ("host", "port", "workers", "data", "synchronous")
"""The settings of `server` that stay as they were when it was started."""


class Deadlines(Strict, frozen=True):
    """Seconds an attempt may take: to connect, to the first byte, between bytes."""

    connect_s: _Seconds = 10.0
    first_byte_s: _Seconds = 120.0
    idle_s: _Seconds = 60.0
    silent_s: _Seconds = 300.0
    """How long a stream may bring bytes and say nothing: comments, pings."""
    first_token_s: _Seconds | None = None
    """To the first token of a stream."""
    whole_s: _Seconds | None = None
    """In all."""


class TargetDeadlines(Strict, frozen=True):
    """Those of one target's attempts that are not its provider's."""

    connect_s: _Seconds | None = None
    first_byte_s: _Seconds | None = None
    idle_s: _Seconds | None = None
    first_token_s: _Seconds | None = None
    whole_s: _Seconds | None = None


class RequestDeadlines(Strict, frozen=True):
    """Seconds that a request may take with all its attempts."""

    first_token_s: _Seconds | None = None
    """To the first token of a stream."""
    whole_s: _Seconds | None = None


NO_DEADLINES = RequestDeadlines()


class Retries(Strict, frozen=True):
    """How often a provider is asked again for the same request, and for all of them together."""

    tries: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    """Attempts at a request whose last target failed for a moment; 1 asks nobody again."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 5.0
    """How long a request waits for its next try, at most."""
    budget_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10.0
    """Retries for a hundred requests ..."""
    budget_per_s: Annotated[float, msgspec.Meta(ge=0, le=1_000)] = 3.0
    """... and besides for every second, of all workers together."""


class PriceTier(Strict, frozen=True):
    """Rates of every token of a longer prompt, in USD per million tokens."""

    above_input_tokens: Annotated[int, msgspec.Meta(ge=0)]
    input: Amount
    output: Amount
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None


class Rates(Strict, frozen=True):
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
        **_amounts(rates, but=NO_AMOUNTS),
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
NO_AMOUNTS = ("tiers", "documents_per_search", "document_tokens")


def _amounts(rates: Rates | PriceTier, *, but: Container[str]) -> dict[str, Any]:
    """The amounts in nano-USD, by the names that `pricing` has for them too."""
    kind = Rates if isinstance(rates, Rates) else PriceTier
    amounts = {name: getattr(rates, name) for name in kind.__struct_fields__ if name not in but}
    return {"input": 0, **{n: _nanousd(a) for n, a in amounts.items() if (n, a) != ("input", None)}}


def _nanousd(amount: Amount | dict[str, Amount] | None) -> int | dict[str, int] | None:
    if isinstance(amount, dict):
        return {name: parse_usd(each) for name, each in amount.items()}
    return None if amount is None else parse_usd(amount)


class Charge(Strict, frozen=True):
    """A fixed charge in USD for each request to a target without a known price."""

    per_request: Amount


Unpriced = Charge | Literal["refuse", "free"]
"""What becomes of a target without a known price."""


# They differ from one deployment to the next, as addresses do, so the environment may have them.
OF_CLOUDS = ("region", "profile", "project", "credentials_file")


class Limits(Strict, frozen=True):
    """How fast a target or a provider may be asked; minutes are the last sixty seconds."""

    requests_per_minute: _Positive | None = None
    tokens_per_minute: _Positive | None = None
    concurrent: _Positive | None = None
    """Requests at the same time."""


class Health(Strict, frozen=True):
    """How a provider is asked whether it is there: for its list of models."""

    every_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)]
    misses: _Positive = 3
    """So often in a row without an answer, and it is left out until it gives one."""
    timeout_s: _Seconds = 10.0


class Adaptive(Strict, frozen=True):
    """How many requests each of its targets has at the same time, as each worker learns it."""

    least: _Positive = 1
    most: _Positive = 1_000
    first: _Positive = 10
    """What it begins with."""
    queue: _Positive = 1_000
    """How many more may wait for that."""
    queue_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 2.0
    """For how long."""


class Provider(Strict, frozen=True):
    """An account or server upstream."""

    adapter: str = "openai_compatible"
    base_url: str | None = None
    api_key: str | None = None
    api_keys: list[str] = []
    """Several of them, in place of one: requests take turns."""
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
    retries: Retries = Retries()
    health: Health | None = None
    """Unset, it is not asked."""
    adaptive: Adaptive | None = None
    """Unset, there is no such limit."""
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


class Profile(Strict, frozen=True):
    """How a target performs, by the operator's word; what is measured stands beside it."""

    tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    memory_mb: _Positive | None = None
    cold_start_s: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Defaults(Strict, frozen=True):
    """What a target is sent where the client leaves it out."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_tokens: _Positive | None = None


NO_DEFAULTS = Defaults()


class Target(Strict, frozen=True):
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
    tags: list[Tag] = []
    """What else it is good at, in words of the operator's own: `code_generation` …"""
    profile: Profile = Profile()
    limits: Limits = Limits()
    quality: dict[Literal["general"] | Task, _Share] = {}
    """How good it is, by task, as far as is known: 0 to 1."""
    latency_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """To the first token, until it is measured."""
    reliability: _Share | None = None
    """The share of attempts that do not fail, until it is measured."""
    specialisations: frozenset[Task | Domain] = frozenset()
    """What it is made for."""
    region: str | None = None
    """Where data goes; the provider's if unset."""
    zero_retention: bool = False
    """Whether nothing of a request is kept there, by your contract."""
    defaults: Defaults = NO_DEFAULTS
    prefill: Prefill | Literal["none"] | None = None
    """How it is asked to go on with an answer that was begun; unset, as its adapter says."""
    backend: Backend | None = None
    """For a local model, as all below: what runs it; unset, `llama_server`."""
    needs_mb: _Positive | None = None
    """The memory it takes; unset, estimated from its files. What is measured corrects it."""
    needs_gpu_mb: _Positive | None = None
    """The memory it takes of a GPU that has its own; unset, as measured."""
    gpu_layers: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """How many of its layers the GPU has; unset, as many as its backend thinks right."""
    concurrency: _Positive | None = None
    """How many requests it answers at the same time; unset, as its backend does best."""
    timeout_s: _Seconds | None = None
    """How long a request waits for it, and then for its first byte; unset, as its provider says."""
    deadlines: TargetDeadlines = TargetDeadlines()
    pinned: bool = False
    """Whether it stays loaded, once it is."""
    kept_prompts_mb: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """For `backend: mlx`: memory for prompts that were read; unset, a quarter of the model's."""


Policy = str | dict[str, Any]
"""Its name, or a mapping of `name` and its options."""


def policy_of(policy: Policy) -> tuple[str, Mapping[str, Any]]:
    """The name of a policy, "" where it is missing, and its options."""
    if isinstance(policy, str):
        return policy, {}
    options = dict(policy)
    return str(options.pop("name", "")), options


class DowngradeTier(Strict, frozen=True):
    """What a virtual model is from a share of a spent budget on."""

    at_percent: Annotated[int, msgspec.Meta(ge=1, le=100)]
    targets: Annotated[list[str], msgspec.Meta(min_length=1)]
    policy: Policy | None = None
    """The model's own if unset."""


class Hedge(Strict, frozen=True):
    """When a second target is asked beside one that keeps a request waiting."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.02
    """Of the requests, and of what they cost, that may go into second attempts at most."""
    start_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 2.0
    """How long the first target is waited for while its own p95 is not known."""
    floor_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 0.1
    """How long at least."""

    @property
    def strategy(self) -> strategies.Hedge:
        """The same, as routes have it."""
        return strategies.Hedge(share=self.share, start_s=self.start_s, floor_s=self.floor_s)


class History(Strict, frozen=True):
    """How long a conversation may be that is sent; what is older is left out."""

    max_tokens: _Positive | None = None
    """By the estimate for routing, a quarter of the bytes; an image counts as 1,000."""
    max_messages: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """Besides instructions."""

    def __post_init__(self) -> None:
        """Raise ValueError where nothing is said."""
        if self.max_tokens is None and self.max_messages is None:
            raise ValueError("give it 'max_tokens', 'max_messages' or both")


class VirtualModel(Strict, frozen=True):
    """A name that clients ask for and a policy resolves."""

    targets: Annotated[list[str], msgspec.Meta(min_length=1)]
    """`provider/model`, `provider/*` or `tier:NAME`, in order."""
    policy: Policy = "ordered"
    constraints: Constraints = NO_CONSTRAINTS
    """What a target must be to answer; those of a caller or a request come on top."""
    description: str = ""
    history: History | None = None
    downgrade: list[DowngradeTier] = []
    fallbacks: dict[Cause, Annotated[list[str], msgspec.Meta(min_length=1)]] = {}
    """Where a request goes on that failed of this cause: targets, in order."""
    deadlines: RequestDeadlines = NO_DEADLINES
    cold_start: ColdStart = "wait"
    continuation: bool = False
    """Whether a stream that breaks goes on at the next target that can take it up."""
    hedge: Hedge | None = None


class Expectation(Strict, frozen=True):
    """A question to the rules, and the answer that they must give; `tollway check` asks it."""

    ask: str
    """What a user would say."""
    model: str = "auto"
    scopes: tuple[str, ...] = ()
    """Whose request it is: `key:ID`, `tag:TAG` ..."""
    input_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    budget_left: _Share | None = None
    at: str | None = None
    """A moment, such as 2026-11-20T23:00:00Z; now if unset."""
    target: str | None = None
    """The first target of the route, with `*` for any part of its name."""
    rules: tuple[str, ...] | None = None
    """The names of those that hold, in order."""
    refused: bool = False


class Budget(Strict, frozen=True):
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


class Webhook(Strict, frozen=True):
    """Where alerts are sent to."""

    url: str
    secret: str | None = None
    """What messages are signed with: `whsec_` and base64, or any text of 24 bytes or more."""
    format: Literal["standard", "slack"] = "standard"
    kinds: Annotated[tuple[AlertKind, ...], msgspec.Meta(min_length=1)] = get_args(AlertKind)

    def __repr__(self) -> str:
        """Without the URL and the secret: the path of one is often as good as the other."""
        return f"Webhook(format={self.format!r}, kinds={self.kinds!r})"


class Alerts(Strict, frozen=True):
    """What operators are told of by themselves, and where."""

    percents: tuple[Annotated[int, msgspec.Meta(ge=1, le=1000)], ...] = (50, 80, 100)
    """Shares of a budget at which an alert is raised."""
    error_rate: _Share | None = 0.05
    """Of a target's attempts of the last five minutes; null: never."""
    p95_latency_ms: Annotated[float, msgspec.Meta(gt=0)] | None = 2000.0
    """To the first token, of all but the slowest twentieth of its answers; null: never."""
    latency_drift: Annotated[float, msgspec.Meta(gt=1)] | None = 2.0
    """How many times what is usual for a target that may be; null: whatever it is."""
    least_attempts: _Positive = 20
    """Fewer in five minutes say nothing."""
    webhooks: tuple[Webhook, ...] = ()


class Circuit(Strict, frozen=True):
    """When a target is left out for its failures, and for how long; by key, in each worker."""

    failures: _Positive = 5
    """So many in a row."""
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    """Or more than this share of the requests,"""
    least_requests: _Positive = 20
    """if there were as many,"""
    window_s: _Seconds = 10.0
    """in so long."""
    out_s: _Seconds = 30.0
    """The first time; twice as long the second time, and so on."""
    longest_s: _Seconds = 300.0


class Responses(Strict, frozen=True):
    """What is kept of responses, for `previous_response_id` and for whoever asks for them again."""

    store: bool = True
    """Off: nothing is kept, whatever requests ask for."""
    days: _Positive = 30
    """How long after its last use."""
    total_mb: _Positive = 1024
    """Of all together; those that were not used for longest go first."""
    largest_mb: _Positive = 16
    """Of one with its input; a larger one is not kept."""


class Logging(Strict, frozen=True):
    """What is written down of requests, to be replayed and learned from."""

    requests: bool = False
    """Write down what policies see of each request to a virtual model: no word of it."""
    prompts: bool = False
    """Beside that, what was said: the pieces that policies read."""
    days: _Positive = 30
    """After so long all of it is gone."""


class HostGroup(Strict, frozen=True):
    """Local models that are not loaded together, or not with others, whatever room there is."""

    targets: Annotated[list[str], msgspec.Meta(min_length=1)]
    max_loaded: _Positive | None = None
    """How many of them are loaded at the same time, at most."""
    exclusive: bool = False
    """Whether no other model is loaded beside one of them, but for pinned ones."""


class Host(Strict, frozen=True):
    """How much room local models have together, and how long they stay."""

    memory_mb: _Positive | None = None
    """Unset, three quarters of what the machine has."""
    gpu_memory_mb: _Positive | None = None
    """Of GPUs with memory of their own; unset, nine tenths of what they have."""
    max_loaded: _Positive = 3
    """How many are loaded at the same time."""
    groups: dict[str, HostGroup] = {}
    ttl_s: _Seconds = 1800.0
    """How long one stays loaded that nobody uses."""
    collate_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 1.0
    """How long requests for loaded models may overtake one for whose model there is no room."""
    queue: _Positive = 100
    """How many requests may wait for one model."""
    preload: list[str] = []
    """Targets that are loaded at the start."""
    validation_s: _Seconds = 5.0
    """How long it may take to look at a model before it is loaded."""
    load_timeout_s: _Seconds = 300.0
    health_s: _Seconds = 10.0
    """How often those that are loaded are asked whether they are well, and measured."""
    discovery_s: _Seconds = 30.0
    """How often folders and local servers are looked at for models."""


class Config(Strict, frozen=True):
    """A whole configuration, checked."""

    source: str
    server: Server = Server()
    discover: bool = False
    """Find providers by the environment's API keys, and local servers on their usual ports."""
    providers: dict[str, Provider] = {}
    targets: list[Target] = []
    models: dict[str, VirtualModel] = {}
    rules: list[Rule] = []
    expect: list[Expectation] = []
    budgets: list[Budget] = []
    unpriced: Unpriced = "refuse"
    """What becomes of targets without a known price."""
    drop_params: bool = False
    """Leave out what a provider has no parameter for, and say so, instead of refusing."""
    alerts: Alerts = Alerts()
    circuit: Circuit = Circuit()
    priorities: dict[str, Priority] = {}
    """By `key:ID`, `team:ID` or `organisation:ID`."""
    responses: Responses = Responses()
    logging: Logging = Logging()
    host: Host = Host()
