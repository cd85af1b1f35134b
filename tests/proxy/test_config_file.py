from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from proxy import config, config_file
from proxy.errors import StartError
from proxy.yaml_file import YamlFile

HEAD = """\
providers:
  up: {base_url: "http://localhost:1/v1"}
targets:
  - target: up/m
"""
LOCAL = """\
providers: {l: {adapter: local}}
targets:
  - target: l/a
"""
SIGNED = "a-secret-of-24-bytes-or-more"


def _build(text: str, **environ: str) -> config.Config:
    return config_file.build(YamlFile.parse(text, "router.yaml"), environ)


@pytest.mark.negative(number=38)
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
        ("providers: {up: {adapter: bedrock}}", "providers.up.region:", "missing"),
        (
            "providers: {up: {base_url: http://x, api_key: a, api_keys: [b]}}",
            "providers.up.api_keys:",
            "exclude each other",
        ),
        ("providers: {l: {adapter: local, api_keys: [b]}}", "providers.l.api_keys:", "local"),
        (
            "providers: {up: {base_url: http://x, api_keys: [a, b, a]}}",
            "providers.up.api_keys[2]:",
            "twice",
        ),
        (
            'providers: {up: {base_url: http://x, api_keys: [a, ""]}}',
            "providers.up.api_keys[1]:",
            "not empty",
        ),
        (
            "providers: {up: {base_url: http://x, api_keys: [a, '${MISSING}']}}",
            "providers.up.api_keys[1]:",
            "MISSING is not set",
        ),
        (
            "providers: {up: {base_url: http://x, retries: {tries: 0}}}",
            "providers.up.retries.tries:",
            ">= 1",
        ),
        (
            "providers: {up: {base_url: http://x, retries: {times: 2}}}",
            "providers.up.retries.times:",
            "budget_per_s",
        ),
        (f"{HEAD}    deadlines: {{whole_s: 0}}", "targets[0].deadlines.whole_s:", "> 0"),
        (
            f"{HEAD}models: {{m: {{targets: [up/m], deadlines: {{idle_s: 1}}}}}}",
            "models.m.deadlines.idle_s:",
            "first_token_s, whole_s",
        ),
        (
            f"{HEAD}models: {{m: {{targets: [up/m], fallbacks: {{toolong: [up/m]}}}}}}",
            "models.m.fallbacks",
            "context_exceeded",
        ),
        (
            f"{HEAD}models: {{m: {{targets: [up/m], fallbacks: {{timeout: [up/x]}}}}}}",
            "models.m.fallbacks.timeout[0]:",
            "no target 'up/x'",
        ),
        (
            f"{HEAD}models: {{m: {{targets: [up/m], fallbacks: {{timeout: []}}}}}}",
            "models.m.fallbacks",
            "length >= 1",
        ),
        ("providers: {up: {adapter: vertex, region: us}}", "providers.up.project:", "missing"),
        ("providers: {up: {adapter: bedrock, region: a.b}}", "providers.up.region:", "us-east-1"),
        (
            "providers: {up: {adapter: bedrock, region: us, health: {every_s: 5}}}",
            "providers.up.health:",
            "remove it",
        ),
        ("circuit: {percent: 0}", "circuit.percent:", ">= 1"),
        (
            "providers: {up: {base_url: 'http://up', adaptive: {least: 5, most: 4}}}",
            "providers.up.adaptive.least:",
            "more than 'most'",
        ),
        ("priorities: {'user:x': high}", "priorities.user:x:", "key:ID"),
        ("priorities: {'key:x': urgent}", "priorities", "high"),
        (
            'providers: {up: {adapter: bedrock, region: us, profile: "a\\nb"}}',
            "providers.up.profile:",
            "printable",
        ),
        (f"{HEAD}    backend: minilm", "targets[0].backend:", "adapter: local"),
        (f"{HEAD}    pinned: true", "targets[0].pinned:", "adapter: local"),
        (
            "providers: {l: {adapter: local}}\ntargets: [{target: l/m, backend: onnx}]",
            "targets[0].backend:",
            "llama_server, llama_cpp, mlx, minilm",
        ),
        (f"{HEAD}    kept_prompts_mb: 5", "targets[0].kept_prompts_mb:", "adapter: local"),
        (
            "providers: {l: {adapter: local}}\ntargets: [{target: l/m, kept_prompts_mb: 0}]",
            "targets[0].kept_prompts_mb:",
            "backend: mlx",
        ),
        (
            "providers: {l: {adapter: local}}\ntargets: [{target: l/*}]",
            "providers.l.folder:",
            "what is in it",
        ),
        (f"{HEAD}host: {{preload: [up/m]}}", "host.preload[0]:", "no target with a local model"),
        (f"{HEAD}    tags: [Two Words]", "targets[0].tags[0]:", ""),
        (f"{HEAD}    profile: {{tokens_per_second: 0}}", "profile.tokens_per_second:", "> 0"),
        (f"{HEAD}    profile: {{speed: 9}}", "targets[0].profile.speed:", "tokens_per_second"),
        ("host: {discovery_s: 0}", "host.discovery_s:", "> 0"),
        (
            "providers: {l: {adapter: local, folder: m}}\ntargets: [{target: l/*, pinned: true}]",
            "targets[0].pinned:",
            "stands for many",
        ),
        ("host: {memory_mb: 0}", "host.memory_mb:", ">= 1"),
        (f"{HEAD}host: {{groups: {{g: {{targets: [up/m]}}}}}}", "groups.g.targets[0]:", "local"),
        (f"{HEAD}    timeout_s: 5", "targets[0].timeout_s:", "adapter: local"),
        (f"{HEAD}    gpu_layers: 0", "targets[0].gpu_layers:", "adapter: local"),
        (
            f"{LOCAL}    backend: minilm\n    gpu_layers: 1",
            "targets[0].gpu_layers:",
            "no such number",
        ),
        (f"{LOCAL}host: {{groups: {{g: {{targets: [l/a]}}}}}}", "host.groups.g:", "max_loaded"),
        (
            f"{LOCAL}    pinned: true\n"
            "host: {groups: {g: {targets: [l/a], exclusive: true}}}",
            "host.groups.g.exclusive:",
            "'l/a' is pinned",
        ),
        (
            f"{LOCAL}    pinned: true\n  - target: l/b\n"
            "host: {groups: {g: {targets: [l/a, l/b], max_loaded: 1}}}",
            "host.groups.g.max_loaded:",
            "raise it",
        ),
        ("host: {ttl: 5}", "host.ttl:", "ttl_s"),
        ("server: {idle: 1}", "server.idle:", "keep_alive_s"),
        ("server: {drain_s: .inf}", "server.drain_s:", "86400"),
        ("server: {first_payload_s: .nan}", "server.first_payload_s:", "> 0"),
        ("server: {synchronous: OFF}", "server.synchronous:", "str"),
        ("server: {synchronous: 'OFF'}", "server.synchronous:", "FULL, NORMAL"),
        ("server: {hosts: a.example}", "server.hosts:", "array"),
        ("server: 5", "server:", "object"),
        ("providers: {up: {base_ulr: x}}", "providers.up.base_ulr:", "base_url"),
        ("providers: {up: {base_url: 5}}", "providers.up.base_url:", "str"),
        (
            "providers:\n  up:\n    base_url: http://h\n    deadlines:\n      idle: 5",
            "router.yaml:5: providers.up.deadlines.idle:",
            "first_byte_s",
        ),
        (
            "providers: {up: {base_url: 'http://h', headers: {a: 5}}}",
            "providers.up.headers:",
            "str",
        ),
        (
            'providers: {up: {base_url: "http://h", headers: {a: "b\\r\\nc: d"}}}',
            "providers.up.headers.a:",
            "line breaks",
        ),
        (
            'providers: {up: {base_url: "http://h", api_key: "a\\nb"}}',
            "providers.up.api_key:",
            "line breaks",
        ),
        ("providers: {up: {base_url: 'http://h', proxy: h}}", "providers.up.proxy:", "socks5"),
        ("providers: {up: {base_url: 'http://h:99999'}}", "providers.up.base_url:", "http://host"),
        ("providers: {up: {base_url: 'http://[x'}}", "providers.up.base_url:", "http://host"),
        ("providers: {up: {base_url: 'http://h?a=1'}}", "providers.up.base_url:", "query"),
        ("providers: {up: {base_url: 'http://@h'}}", "providers.up.base_url:", "user"),
        ("providers: {up: {base_url: '${URL:-http://h}'}}", "providers.up.base_url:", "${NAME}"),
        (
            "providers: {up: {base_url: 'http://h', max_tokens_field: max}}",
            "providers.up.max_tokens_field:",
            "max_completion_tokens",
        ),
        ("providers: {up : {base_url: 'http://h', http2: 1}}", "providers.up.http2:", "bool"),
        (
            "providers:\n  up:\n    adapter: http\n    base_url: http://h\n    endpoints:\n"
            "      chat:\n        path: /g\n        request:\n          p: '{{promt}}'\n"
            "        response: {text: a.b}",
            "router.yaml:9: providers.up.endpoints.chat.request.p:",
            "prompt",
        ),
        (
            "providers: {up: {adapter: http, base_url: 'http://h', endpoints: {chat: {path: /g}}}}",
            "providers.up.endpoints.chat.request:",
            "missing",
        ),
        (
            "providers: {up: {adapter: http, base_url: 'http://h', endpoints: {chat: {path: /g, "
            "request: {p: '{{prompt}}'}, response: {txt: a}}}}}",
            "providers.up.endpoints.chat.response.txt:",
            "text",
        ),
        (
            "providers: {up: {adapter: http, base_url: 'http://h'}}",
            "providers.up.endpoints:",
            "http",
        ),
        (
            "providers: {up: {base_url: 'http://h', endpoints: {}}}",
            "providers.up.endpoints:",
            "http",
        ),
        ("providers: [up]", "providers:", "object"),
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
        (
            "providers: {up: {adapter: scripted}}\n"
            "targets: [{target: up/m, capabilities: [chat, images]}]",
            "router.yaml:2: targets[0].capabilities[1]:",
            "has no images",
        ),
        (HEAD + "    price: {per_minute: -1}", "targets[0].price.per_minute:", "0"),
        (
            HEAD + "    price: {per_generated_image: {}}",
            "targets[0].price.per_generated_image:",
            "empty",
        ),
        (
            HEAD + "    price: {per_generated_image: {high: -1}}",
            "targets[0].price.per_generated_image.high:",
            "0",
        ),
        (HEAD + "    price: {inputs: 1}", "targets[0].price.inputs:", "from, image, input, "),
        (
            HEAD + "    price: [{from: 2026-12-01, input: 1}, {input: 2}]",
            "targets[0].price[1].from:",
            "a day after",
        ),
        (
            HEAD + "    price:\n      - {input: 1, from: 2026-12-01}\n"
            "      - {input: 2, from: 2026-12-01}",
            "router.yaml:7: targets[0].price[1].from:",
            "a day after",
        ),
        (HEAD + "    price: []", "targets[0].price:", "empty"),
        (HEAD + "    price: {input: 1, from: soon}", "targets[0].price.from:", "date"),
        (
            HEAD + "    price: {input: 1, tiers: [{above_input_tokens: 5, input: 1, output: -2}]}",
            "targets[0].price.tiers[0].output:",
            "between 0",
        ),
        (
            HEAD + "    price: {input: 1, tiers: [{above_input_tokens: 5, input: 1, output: 2}, "
            "{above_input_tokens: 5, input: 1, output: 2}]}",
            "targets[0].price.tiers[1].above_input_tokens:",
            "above the last",
        ),
        (
            HEAD + "    price: {input: 1, service_tiers: {flex: {input: .nan}}}",
            "targets[0].price.service_tiers.flex.input:",
            "finite",
        ),
        (
            HEAD + "    price: {input: 1, service_tiers: {default: {input: 1}}}",
            "targets[0].price.service_tiers:",
            "'default'",
        ),
        ("unpriced: gratis", "unpriced:", "refuse, free or a mapping"),
        ("unpriced: {per_request: -1}", "unpriced.per_request:", "between 0"),
        (
            "providers: {up: {base_url: 'http://h', unpriced: {per_token: 1}}}",
            "providers.up.unpriced.per_token:",
            "per_request",
        ),
        ("alerts: [50]", "alerts:", "object"),
        ("alerts: {percent: [50]}", "alerts.percent:", "percents, webhooks"),
        ("alerts: {percents: [0]}", "alerts.percents[0]:", ">= 1"),
        ("alerts: {webhooks: [http://h]}", "alerts.webhooks[0]:", "object"),
        (f"alerts:\n  webhooks:\n  - {{secret: {SIGNED}}}", "alerts.webhooks[0].url:", "missing"),
        (
            "alerts:\n  webhooks:\n  - url: http://h",
            "router.yaml:3: alerts.webhooks[0].secret:",
            "is missing",
        ),
        ("alerts: {webhooks: [{url: 'http://h', secret: abc}]}", "webhooks[0].secret:", "24"),
        (
            "alerts: {webhooks: [{url: 'http://h', secret: whsec_?}]}",
            "webhooks[0].secret:",
            "base64",
        ),
        (
            f"alerts: {{webhooks: [{{url: 'ftp://h', secret: {SIGNED}}}]}}",
            "webhooks[0].url:",
            "http",
        ),
        ("alerts: {webhooks: [{url: '${HOOK}', format: slack}]}", "webhooks[0].url:", "HOOK"),
        (
            "alerts: {webhooks: [{url: 'http://h', format: slack, secret: x}]}",
            "alerts.webhooks[0].secret:",
            "slack",
        ),
        ("alerts: {webhooks: [{url: 'http://h', format: teams}]}", "webhooks[0].format:", "slack"),
        (
            "alerts: {webhooks: [{url: 'http://h', format: slack, kinds: [budgets]}]}",
            "alerts.webhooks[0].kinds[0]:",
            "overrun",
        ),
        (
            "alerts: {webhooks: [{url: 'http://h', format: slack, kinds: []}]}",
            "alerts.webhooks[0].kinds:",
            "length >= 1",
        ),
        (HEAD + "    price: cheap", "targets[0].price:", "expected free or a mapping"),
        (HEAD + "    price: {output: 1}", "targets[0].price.input:", "missing"),
        (HEAD + "    price: {input: yes}", "targets[0].price.input:", "bool"),
        (HEAD + "    price: {input: 1, per_request: .inf}", "price.per_request:", "finite"),
        (HEAD + "    price: {input: 1e9}", "targets[0].price.input:", "1000000"),
        (HEAD + "    capabilities: [juggling]", "targets[0].capabilities[0]:", "vision"),
        (HEAD + "    context_length: 0", "router.yaml:5: targets[0].context_length:", ">= 1"),
        (HEAD + "    alias: [up/m]", "router.yaml:4: targets[0]:", "taken"),
        (HEAD + "    alias: ['']", "targets[0].alias:", "printable"),
        (HEAD + '  - target: "up/a\\nb"', "targets[1].target:", "printable"),
        (HEAD + "  - target: up/" + "x" * 300, "targets[1].target:", "256"),
        (HEAD + "  - {target: up/*, alias: [x]}", "targets[1].alias:", "one target"),
        (HEAD + "  - {target: up/*, tiers: [x]}", "targets[1].tiers:", "one target"),
        (HEAD + "  - {target: up/*, model: x}", "targets[1].model:", "one target"),
        (HEAD + "  - up/x", "targets[1]:", "object"),
        (HEAD + "    alias: [x]\nmodels: {x: {targets: [up/m]}}", "targets[0]:", "taken"),
        (HEAD + "models: {auto: {targets: [tier:chaep]}}", "models.auto.targets[0]:", "cheap"),
        (HEAD + "    tiers: [mine]\nmodels: {a: {targets: [tier:min]}}", "targets[0]:", "mine"),
        (HEAD + "models: {auto: {targets: [down/m]}}", "models.auto.targets[0]:", "providers"),
        (HEAD + "models: {auto: {targets: [up/*, m]}}", "models.auto.targets[1]:", "tier:"),
        (
            "discover: true\nmodels:\n  auto:\n    targets:\n    - opneai/gpt-4o",
            "router.yaml:5: models.auto.targets[0]:",
            "no provider 'opneai'",
        ),
        (
            "providers: {up: {base_url: 'http://h'}}\ntargets: [{target: up/*}]\n"
            "models: {auto: {targets: [up/*]}}",
            "router.yaml:3: models.auto.targets[0]:",
            "no target",
        ),
        ("models: {'a\tb': {targets: [tier:auto]}}", "models.a", "printable"),
        ("models: {'': {targets: [tier:auto]}}", "models.:", "printable"),
        ("models: [auto]", "models:", "object"),
        (HEAD + "models: {auto: {targets: up/m}}", "models.auto.targets:", "array"),
        (HEAD + "models: {auto: {}}", "models.auto.targets:", "missing"),
        (HEAD + "models: {auto: {targets: []}}", "models.auto.targets:", "1"),
        (HEAD + "models: {auto: {targets: [up/x]}}", "models.auto.targets[0]:", "up/x"),
        (HEAD + "models: {auto: {targets: [mystery]}}", "models.auto.targets[0]:", "tier:"),
        (HEAD + "models: {auto: {targets: [up/m], policy: x}}", "models.auto.policy:", "cheapest"),
        ("budgets: [{limit_usd: 1, scope: squad:x}]", "budgets[0].scope:", "global"),
        ("budgets: [{limit_usd: 1, scope: 'key:'}]", "budgets[0].scope:", "needs a name"),
        ("budgets: [{limit_usd: 1, scope: 'template:x'}]", "budgets[0].scope:", "unknown scope"),
        ("budgets: [{limit_usd: 1, scope: 'model:m'}]", "budgets[0].scope:", "no model 'm'"),
        ("budgets: [{limit_usd: 1, scope: 'target:p/m'}]", "budgets[0].scope:", "under 'targets'"),
        ("budgets: [{limit_usd: 1, scope: 'provider:p'}]", "budgets[0].scope:", "'providers'"),
        (
            "discover: true\nbudgets: [{limit_usd: 1, scope: [key:k, 'provider:opnai']}]",
            "budgets[0].scope:",
            "no provider 'opnai'",
        ),
        ("budgets: [{scope: global}]", "budgets[0].limit_usd:", "missing"),
        ("budgets: [{limit_usd: -5}]", "budgets[0].limit_usd:", "between 0"),
        ("budgets: [{limit_usd: 1, mode: firm}]", "budgets[0].mode:", "hard, soft"),
        ("budgets: [{limit_usd: 1, limit: 2}]", "budgets[0].limit:", "limit_usd"),
        ("budgets: [{limit_usd: 1, timezone: America}]", "budgets[0].timezone:", "Europe/Berlin"),
        ("budgets: [{limit_usd: 1, timezone: ../../etc}]", "budgets[0].timezone:", "Europe"),
        ("budgets: [{limit_usd: lots}]", "budgets[0].limit_usd:", "number"),
        ("budgets: [{limit_usd: 1, window: hour}]", "budgets[0].window:", "lifetime"),
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


@pytest.mark.parametrize(
    "scope",
    ["model:m", "target:p/a", "target:q/any", "provider:p", "target:openai/gpt-4o", "user:*"],
)
def test_a_budget_may_be_on_what_is_there_or_may_be_discovered(scope: str) -> None:
    config = _build(
        "discover: true\n"
        "providers: {p: {base_url: 'http://h/v1'}, q: {base_url: 'http://h/v1'}}\n"
        "targets: [{target: p/a, price: free}, {target: q/*, price: free}]\n"
        "models: {m: {targets: [p/a]}}\n"
        f"budgets: [{{limit_usd: 1, scope: '{scope}'}}]"
    )
    assert config.budgets[0].joined_scope == scope


@pytest.mark.negative(number=18)
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
        "models: {auto: {targets: [tier:auto], description: '${KEY} is not read here'}}\n"
        "alerts: {webhooks: [{url: '${URL}/hook', secret: 'a longer ${KEY} than that'}]}\n"
    )
    built = _build(text, URL="http://h:1", KEY="sk-secret", ORG="o")
    (webhook,) = built.alerts.webhooks
    assert (webhook.url, webhook.secret) == ("http://h:1/hook", "a longer sk-secret than that")
    assert built.providers["up"].base_url == "http://h:1/v1"
    assert built.providers["up"].api_key == "sk-secret"
    assert built.providers["up"].headers == {"x-org": "o"}
    assert built.models["auto"].description == "${KEY} is not read here"


def test_where_a_cloud_is_asked_comes_from_the_environment_too() -> None:
    text = (
        "providers:\n"
        "  aws: {adapter: bedrock, region: '${REGION}', profile: '${WHO}'}\n"
        "  gcp: {adapter: vertex, region: global, project: '${WHO}', credentials_file: '${WHO}'}\n"
    )
    built = _build(text, REGION="us-east-1", WHO="me")
    assert (built.providers["aws"].region, built.providers["aws"].profile) == ("us-east-1", "me")
    gcp = built.providers["gcp"]
    assert (gcp.project, gcp.credentials_file) == ("me", "me")


@pytest.mark.parametrize(
    "text",
    [
        "providers: {up: {base_url: '${SECRET}'}}",
        "providers: {up: {base_url: 'ftp://u:${SECRET}@h'}}",
        "providers: {up: {base_url: 'http://h/v1?key=${SECRET}'}}",
        "providers: {up: {adapter: bedrock, region: 'no region: ${SECRET}'}}",
        "providers: {up: {base_url: 'http://h', proxy: 'ftp://u:${SECRET}@h'}}",
        'providers: {up: {base_url: "http://h", api_key: "${SECRET}\\n"}}',
        'providers: {up: {base_url: "http://h", headers: {a: "${SECRET}\\n"}}}',
        f"alerts: {{webhooks: [{{url: 'http://u:${{SECRET}}@h', secret: {SIGNED}}}]}}",
        "alerts: {webhooks: [{url: 'http://h', secret: '${SECRET}'}]}",
    ],
)
def test_messages_do_not_quote_what_came_from_the_environment(text: str) -> None:
    with pytest.raises(StartError) as caught:
        _build(text, SECRET="canary-0123456789")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "discover"),
    [
        ("tier:auto, tier:embed, tier:local", False),
        ("tier:mine", False),
        ("up/m, short, up/*", False),
        ("openai/gpt-4o, ollama/llama3", True),
        ("openai/*", True),
    ],
)
def test_what_a_virtual_model_may_name(names: str, discover: bool) -> None:
    text = f"{HEAD}    tiers: [mine]\n    alias: [short]\nmodels: {{a: {{targets: [{names}]}}}}\n"
    built = _build(f"{text}discover: {str(discover).lower()}\n")
    assert built.models["a"].targets == names.split(", ")


def test_secrets_do_not_show() -> None:
    text = "providers: {up: {base_url: 'http://h', api_key: sk-secret, headers: {a: sk-header}}}"
    hook = f"{{url: 'http://h/path-canary', secret: {SIGNED}}}"
    built = _build(f"{text}\nalerts: {{webhooks: [{hook}]}}")
    shown = repr(built) + str(built.providers) + str(built.alerts.webhooks)
    for secret in ("sk-secret", "sk-header", "path-canary", SIGNED):
        assert secret not in shown


def test_an_empty_file_is_a_configuration() -> None:
    assert _build("") == config.Config(source="router.yaml")


def test_the_shipped_file_is_valid() -> None:
    path = Path(config.__file__).parents[1] / "router.yaml"
    shipped = config_file.load(path, {})
    assert shipped.discover
    assert list(shipped.models) == ["auto", "cheap", "best", "fast", "local", "embed"]
    (budget,) = shipped.budgets
    assert (budget.scope, budget.limit_nanousd) == ("anonymous", 10 * 10**9)


def test_the_examples_in_the_shipped_file_are_valid() -> None:
    shipped = (Path(config.__file__).parents[1] / "router.yaml").read_text()
    commented = shipped.partition("# More providers and targets:\n#\n")[2]
    example = "".join(f"{line.removeprefix('# ')}\n" for line in commented.splitlines())
    built = _build(example.replace("#\n", ""), MY_SERVER_KEY="sk-x")
    assert built.providers["my-server"].api_key == "sk-x"
    assert built.targets[0].tiers == ["cheap"]


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file.find(None, {}).name == "router.yaml"
    assert config_file.find(None, {}).is_absolute()
    (tmp_path / "router.yaml").touch()
    assert config_file.find(None, {}) == Path("router.yaml")
    assert config_file.find(None, {"TOLLWAY_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert config_file.find("a.yaml", {"TOLLWAY_CONFIG": "b.yaml"}) == Path("a.yaml")


def test_everything_is_frozen() -> None:
    with pytest.raises(AttributeError):
        _build("").discover = True  # type: ignore[misc]
    assert msgspec.structs.asdict(_build("").server)["port"] == 4000


def test_prices_of_what_is_not_counted_in_tokens() -> None:
    prices = (
        "price: {per_generated_image: {1024x1024/high: 0.17, low: '0.01'}, per_minute: 0.006, "
        "characters: 15, per_search: 0.002, document_tokens: 500}"
    )
    (target,) = _build(f"{HEAD}    {prices}").targets
    assert isinstance(target.price, config.Price)
    price = target.price.resolved()
    assert price.per_generated_image == {"1024x1024/high": 170_000_000, "low": 10_000_000}
    assert (price.per_minute, price.characters) == (6_000_000, 15_000_000_000)
    assert (price.per_search, price.documents_per_search, price.document_tokens) == (
        2_000_000,
        100,
        500,
    )
    assert not price.charges_tokens
