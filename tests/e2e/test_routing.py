"""Routing in the real product: the worked example, dry and live alike, and nothing ignored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream
from tests.policies.test_weighted import PROFILES, SCALES

QUESTIONS = (
    ("What is 2+2?", "cost=0.7,latency=0.2,quality=0.1", "gpt-3.5"),
    (
        "Explain quantum entanglement and its implications for cryptography",
        "cost=.1,latency=.2,quality=.7",
        "claude-3-opus",
    ),
    ("Explain quantum computing", "cost=.3,latency=.3,quality=.4", "claude-3-sonnet"),
    (
        "Write a Python function for binary search",
        "cost=.3,latency=.3,quality=.4",
        "gpt-3.5",
    ),
)


def _config(base_url: str, **model: Any) -> dict[str, Any]:
    """The profiles of the worked example."""
    config = provider(base_url)
    config["targets"] = [
        {
            "target": f"up/{name}",
            "price": {"input": usd * 1000, "output": usd * 1000},
            "latency_ms": latency_ms,
            "context_length": context,
            "max_output_tokens": 1000,
            "quality": {"reasoning": reasoning, "coding": coding},
        }
        for name, (usd, latency_ms, context, reasoning, coding) in PROFILES.items()
    ]
    policy = {"name": "weighted", "scales": SCALES}
    config["models"] = {"auto": {"targets": ["up/*"], "policy": policy, **model}}
    return config


def _ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def routing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server with the profiles, weighed, as listed, and limited."""
    config = _config(upstream.base_url)
    config["models"] |= {
        "listed": {"targets": ["up/*"]},
        "limited": {
            "targets": ["up/*"],
            "policy": {"name": "weighted"},
            "constraints": {
                "excluded_models": ["gpt-*"],
                "max_latency_ms": 1500,
                "models": ["claude*", "up/mixtral*"],
            },
        },
    }
    with serving(tmp_path_factory.mktemp("routing"), config) as running:
        yield running


def _both(
    tollway: Tollway, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[dict[str, Any], Any]:
    """What is said of a request, and the reply to it."""
    dry = tollway.post("/v1/route", body, headers=headers)
    assert dry.status_code == 200, dry.text
    return dry.json(), tollway.post("/v1/chat/completions", body, headers=headers)


def test_the_worked_example_dry_and_live(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, _config(upstream.base_url)) as tollway:
        for text, weights, chosen in QUESTIONS:
            dry, live = _both(tollway, _ask(text), {"x-tollway-weights": weights})
            assert dry["choices"][0]["target"] == f"up/{chosen}"
            assert live.headers["x-tollway-model"] == f"up/{chosen}"
            assert live.headers["x-tollway-decision"] == dry["decision"]
            assert tollway.rows(minimum=1)[-1]["decision"] == dry["decision"]
        # 128,001 tokens of four letters each: only the two Claudes have the room.
        body = _ask("word" * 128_001)
        assert (
            tollway.post("/v1/chat/completions", body)
            .headers["x-tollway-model"]
            .startswith("up/claude-3")
        )
        for body in (_ask("word" * 200_001), _ask("Hi", input_tokens=200_001)):
            dry = tollway.post("/v1/route", body).json()
            assert dry["error"]["code"] == "context_length_exceeded"
            assert dry["choices"] == []
            assert {rejection["code"] for rejection in dry["rejections"]} == {"context_length"}
        reply = tollway.post("/v1/chat/completions", _ask("word" * 200_001))
        assert (reply.status_code, reply.json()["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )


def test_a_text_that_only_seems_too_long_still_goes_to_the_longest_context(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Of scripts with several bytes a letter the estimate says twice the truth."""
    config = _config(upstream.base_url)
    config["budgets"] = [{"scope": "anonymous", "limit_usd": 1000}]
    with serving(tmp_path, config) as tollway:
        reply = tollway.post("/v1/chat/completions", _ask("नमस्ते" * 60_000))
        assert reply.status_code == 200
        assert reply.headers["x-tollway-model"].startswith("up/claude-3")


def test_with_a_spent_budget_the_cheapest_answers(upstream: Upstream, tmp_path: Path) -> None:
    config = _config(upstream.base_url)
    config["models"]["auto"]["policy"]["weights"] = {"quality": 1}
    config["budgets"] = [{"scope": "anonymous", "window": "lifetime", "limit_usd": 1}]
    hard = _ask("Design a distributed key-value store with Raft consensus.")
    with serving(tmp_path, config) as tollway:
        dry, live = _both(tollway, hard)
        assert dry["budget_left"] == 1
        assert live.headers["x-tollway-model"] == "up/gpt-4"
        row = tollway.rows(minimum=1)[-1]
        body = {"attempt": row["attempt"], "cost_usd": 0.70, "reason": "to have 30 % left"}
        tollway.admin("POST", "/corrections", body)
        dry, live = _both(tollway, hard)
        assert dry["budget_left"] == 0.3
        assert dry["choices"][0]["target"] == "up/gpt-3.5"
        assert "of the budget left" in dry["choices"][0]["reason"]
        assert live.headers["x-tollway-model"] == "up/gpt-3.5"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-tollway-weights", "cost=much"),
        ("x-tollway-weights", "price=1"),
        ("x-tollway-max-cost-usd", "free"),
        ("x-tollway-max-cost-usd", "-1"),
        ("x-tollway-max-latency-ms", "0"),
        ("x-tollway-max-latency-ms", "nan"),
        ("x-tollway-max-cost", "1"),
        ("x-tollway-wieghts", "cost=1"),
        ("x-tollway-model", "up/gpt-4"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(routing: Tollway, header: str, value: str) -> None:
    reply = routing.chat("auto", headers={header: value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == header


@pytest.mark.parametrize("model", ["listed", "up/gpt-4"])
def test_weights_that_nothing_heeds_are_refused(routing: Tollway, model: str) -> None:
    reply = routing.chat(model, headers={"x-tollway-weights": "cost=1"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "x-tollway-weights"


def test_limits_of_a_request_hold_for_every_policy_and_for_named_targets(
    routing: Tollway,
) -> None:
    limits = {"x-tollway-max-latency-ms": "900"}
    for model in ("auto", "listed"):
        reply = routing.chat(model, headers=limits)
        assert reply.headers["x-tollway-model"] in ("up/gpt-3.5", "up/mixtral-8x7b")
    reply = routing.chat("up/gpt-4", headers={"x-tollway-max-cost-usd": "0.0001"})
    assert reply.status_code == 400
    assert "$0.0001" in reply.json()["error"]["message"]
    reply = routing.chat("auto", headers={"x-tollway-max-cost-usd": "0"})
    assert reply.status_code == 400


def test_constraints_of_a_model_hold_with_those_of_the_request(routing: Tollway) -> None:
    shown = routing.post("/v1/route", {**_ask("Hi"), "model": "limited"}).json()
    assert {choice["target"] for choice in shown["choices"]} == {
        "up/claude-3-opus", "up/claude-3-sonnet", "up/mixtral-8x7b",
    }  # fmt: skip
    shown = routing.post(
        "/v1/route",
        {**_ask("Hi"), "model": "limited"},
        headers={"x-tollway-max-latency-ms": "1000"},
    ).json()
    assert {choice["target"] for choice in shown["choices"]} == {
        "up/claude-3-sonnet", "up/mixtral-8x7b",
    }  # fmt: skip
    reasons = {rejection["target"]: rejection["code"] for rejection in shown["rejections"]}
    assert reasons["up/claude-3-opus"] == "latency"
    assert reasons["up/gpt-4"] == "excluded"


def test_a_named_target_and_embeddings_are_explained_too(routing: Tollway) -> None:
    shown = routing.post("/v1/route", {**_ask("Hi"), "model": "up/gpt-4"}).json()
    assert (shown["policy"], shown["model"]) == ("named", None)
    assert shown["choices"][0]["target"] == "up/gpt-4"
    missing = routing.post("/v1/route", {"model": "auto", "input": "Hi"}).json()
    assert missing["error"]["status"] == 400
    assert routing.post("/v1/route", {"model": "nobody", "messages": []}).status_code in (400, 404)


def test_defaults_of_a_target_are_sent_only_where_the_client_left_them_out(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"][0]["defaults"] = {"temperature": 0.2, "max_tokens": 77}
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("m1").status_code == 200
        assert tollway.chat("m1", temperature=0.9, max_tokens=5).status_code == 200
        assert tollway.chat("m1", temperature=None, max_completion_tokens=6).status_code == 200
    first, second, third = (call.body for call in upstream.calls)
    assert (first["temperature"], first["max_tokens"]) == (0.2, 77)
    assert (second["temperature"], second["max_tokens"]) == (0.9, 5)
    assert third["temperature"] == 0.2
    assert "77" not in str(third)


def test_the_command_line_shows_a_route(routing: Tollway) -> None:
    alone = routing.cli("route", "What is 2+2?", "--weights", "cost=1")
    assert alone.returncode == 0, alone.stderr
    assert "up/gpt-3.5" in alone.stdout
    asked = routing.cli("route", "What is 2+2?", "--url", routing.url, "--model", "listed")
    assert asked.returncode == 0, asked.stderr
    assert "policy ordered" in asked.stdout
    wrong = routing.cli("route", "Hi", "--weights", "price=1")
    assert wrong.returncode == 2
    assert "x-tollway-weights" in wrong.stderr


def _preferring(**provider: Any) -> dict[str, Any]:
    return {**_ask("Hi"), "model": "listed", "provider": provider}


@pytest.mark.parametrize(
    ("provider", "chosen"),
    [
        ({"order": ["mixtral-8x7b", "up/gpt-4"]}, ["mixtral-8x7b", "gpt-4", "gpt-3.5"]),
        ({"order": ["gpt-4"], "allow_fallbacks": False}, ["gpt-4"]),
        ({"only": ["claude-*"]}, ["claude-3-opus", "claude-3-sonnet"]),
        ({"ignore": ["gpt-*", "claude-*"]}, ["llama-2-70b", "mixtral-8x7b"]),
        ({"sort": "price"}, ["gpt-3.5", "mixtral-8x7b", "llama-2-70b"]),
        ({"max_price": {"prompt": 0.6}}, ["gpt-3.5", "mixtral-8x7b"]),
        ({"allow_fallbacks": False}, ["gpt-4"]),
        ({}, ["gpt-4", "gpt-3.5", "claude-3-opus"]),
    ],
)
def test_openrouters_preferences_are_heeded(
    routing: Tollway, upstream: Upstream, provider: dict[str, Any], chosen: list[str]
) -> None:
    dry, live = _both(routing, _preferring(**provider))
    targets = [choice["target"].removeprefix("up/") for choice in dry["choices"]]
    assert targets[: len(chosen)] == chosen
    assert len(chosen) == 3 or len(targets) == len(chosen)
    assert live.headers["x-tollway-decision"] == dry["decision"]
    assert live.headers["x-tollway-model"] == f"up/{chosen[0]}"
    assert "provider" not in upstream.calls[-1].body


def test_sorted_by_latency_the_figures_of_the_moment_count(routing: Tollway) -> None:
    shown = routing.post("/v1/route", _preferring(sort="latency")).json()
    found = [choice["estimated_latency_ms"] for choice in shown["choices"]]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("provider", "param"),
    [
        ({"quantizations": ["fp8"]}, "provider.quantizations"),
        ({"max_price": {"request": 1}}, "provider.max_price.request"),
        ({"sort": "beauty"}, "provider.sort"),
        ({"order": "gpt-4"}, "provider.order"),
        ({"ignore": ["gpt-4"] * 101}, "provider.ignore"),
    ],
)
def test_preferences_without_a_meaning_are_refused(
    routing: Tollway, provider: dict[str, Any], param: str
) -> None:
    reply = routing.post("/v1/chat/completions", _preferring(**provider))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_preferences_that_leave_nothing_are_refused(routing: Tollway) -> None:
    for wish in ({"only": ["nobody"]}, {"order": ["nobody"], "allow_fallbacks": False}):
        reply = routing.post("/v1/chat/completions", _preferring(**wish))
        assert reply.status_code == 400
        assert "up/gpt-4: it is" in reply.json()["error"]["message"]
    reply = routing.post("/v1/chat/completions", _preferring(zdr=True))
    assert reply.status_code == 400
    assert "keep nothing" in reply.json()["error"]["message"]


def test_models_are_tried_after_the_models_own(routing: Tollway, upstream: Upstream) -> None:
    body = {**_ask("Hi"), "model": "limited", "models": ["up/gpt-4", "up/gpt-3.5"]}
    dry, live = _both(routing, body)
    targets = [choice["target"] for choice in dry["choices"]]
    assert targets[-2:] == ["up/gpt-4", "up/gpt-3.5"]
    assert len(targets) == 5
    assert live.headers["x-tollway-decision"] == dry["decision"]
    assert "models" not in upstream.calls[-1].body
    unknown = routing.post("/v1/chat/completions", {**body, "models": ["nobody"]})
    assert unknown.status_code == 404


def test_a_named_targets_provider_gets_the_preferences_itself(
    routing: Tollway, upstream: Upstream
) -> None:
    body = {**_preferring(order=["x"]), "model": "up/gpt-4"}
    routing.post("/v1/chat/completions", body)
    assert upstream.calls[-1].body["provider"] == {"order": ["x"]}


def test_rules_hold_for_whom_they_are(upstream: Upstream, tmp_path: Path) -> None:
    config = _config(upstream.base_url)
    config["models"]["auto"]["policy"] |= {"weights": {"quality": 1}, "reserve": {"simple": 0}}
    config["rules"] = [
        {"name": "batches", "when": {"scopes": ["tag:batch"]}, "targets": ["up/llama-2-70b"]}
    ]
    with serving(tmp_path, config) as tollway:
        dry, live = _both(tollway, _ask("Hi"), {"x-tollway-tags": "batch"})
        assert dry["rules"] == ["batches"]
        assert live.headers["x-tollway-model"] == "up/llama-2-70b"
        assert live.headers["x-tollway-decision"] == dry["decision"]
        dry, live = _both(tollway, _ask("Hi"))
        assert dry["rules"] == []
        assert live.headers["x-tollway-model"] == "up/gpt-4"
