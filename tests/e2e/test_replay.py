"""What was asked of the real product, put to it again and to another configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from policies.base import Prompt
from proxy import request_store
from proxy.asked import Asked
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream
from tests.waiting import until

CANARY = "zqxjkv-canary-0815"
PROMPTS = (
    f"Hello {CANARY}",
    f"What is the capital of France, {CANARY}?",
    f"Prove that there are infinitely many primes of the form 4k+3. {CANARY}",
    f"Design a distributed key-value store with Raft consensus, step by step. {CANARY}",
    f"Translate to German: good morning {CANARY}",
)


def _config(base_url: str, **logging: Any) -> dict[str, Any]:
    config = provider(base_url, "small", "large")
    config["targets"][1]["price"] = {"input": 10, "output": 20}
    config["models"] = {
        "auto": {"targets": ["up/*"], "policy": {"name": "learned", "share": 0.4}},
        "cheap": {"targets": ["up/*"], "policy": "cheapest"},
        "wide": {"targets": ["up/*"]},
    }
    config["rules"] = [
        {"name": "poems", "when": {"tasks": ["translation"]}, "targets": ["up/large"]}
    ]
    if logging:
        config["logging"] = logging
    return config


def _written(tollway: Tollway, count: int) -> list[tuple[Asked, Prompt | None]]:
    """What is written down, once it is so many requests."""

    def found() -> list[tuple[Asked, Prompt | None]]:
        requests = list(request_store.read(tollway.data))
        return requests if len(requests) >= count else []

    return until(found, told=tollway.log)


def _ask_all(tollway: Tollway) -> int:
    """Ask in every way there is; how many of it goes through a virtual model."""
    client = OpenAI(base_url=f"{tollway.url}/v1", api_key="none", max_retries=0)
    for number, prompt in enumerate(PROMPTS):
        said: Any = [{"role": "user", "content": prompt}]
        for model in ("auto", "cheap", "wide"):
            if number % 2:
                for _ in client.chat.completions.create(
                    model=model, messages=said, stream=True, max_tokens=50
                ):
                    pass
            else:
                client.chat.completions.create(model=model, messages=said)
    client.chat.completions.create(
        model="up/small", messages=[{"role": "user", "content": f"named {CANARY}"}]
    )
    body = {"model": "wide", "messages": [{"role": "user", "content": f"by price {CANARY}"}]}
    body["provider"] = {"sort": "price"}
    assert tollway.post("/v1/chat/completions", body).status_code == 200
    too_long = tollway.chat(messages=[{"role": "user", "content": f"{CANARY} word " * 90_000}])
    assert too_long.status_code == 400
    return 3 * len(PROMPTS) + 2


def test_a_replay_under_the_same_configuration_is_what_was_live(
    upstream: Upstream, tmp_path: Path
) -> None:
    with serving(tmp_path, _config(upstream.base_url, requests=True), "--workers", "2") as tollway:
        count = _ask_all(tollway)
        written = _written(tollway, count)
        rows = tollway.rows(minimum=count)  # with the named one, without the one too long
        live = {row["request_id"]: row["decision"] for row in rows if row["virtual_model"]}
        assert {asked.request_id: asked.decision for asked, _ in written if asked.target} == live
        done = tollway.cli("replay", "--json")  # while it serves
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["requests"] == report["same_decisions"] == count
        assert (report["compared"], report["changed"]) == (count - 1, 0)
        assert report["left_out"] == {"refused now": 1}
        spent = sum(row["cost_nanousd"] for row in rows if row["virtual_model"])
        assert report["then"]["cost_usd"] == report["now"]["cost_usd"]
        assert report["then"]["cost_usd"] == pytest.approx(spent / 1e9)
        draft = _config(upstream.base_url)
        draft["models"] = {name: {"targets": ["up/large"]} for name in draft["models"]}
        (tmp_path / "draft.yaml").write_text(yaml.safe_dump(draft))
        done = tollway.cli(
            "replay", "--policy", "draft.yaml", "--html", "report.html", "--since", "1d", "--json"
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert list(report["now"]["targets"]) == ["up/large"]
        assert report["changed"] == report["then"]["targets"]["up/small"]["requests"]
        assert report["now"]["cost_usd"] > report["then"]["cost_usd"]
        page = (tmp_path / "report.html").read_text()
        assert page.count("<tr>") > report["changed"]
        assert CANARY not in page
        table = tollway.cli("replay", "--policy", "draft.yaml", "--figures", "declared")
        assert re.search(r"up/large +\S+% +100.0%", table.stdout), table.stdout


@pytest.mark.parametrize(
    ("logging", "files"),
    [
        ({}, set()),
        ({"requests": True}, set()),
        ({"requests": True, "prompts": True}, {"requests.db"}),
    ],
)
def test_a_prompt_is_on_the_disk_only_where_the_operator_wants_it(
    upstream: Upstream, tmp_path: Path, logging: dict[str, Any], files: set[str]
) -> None:
    with serving(tmp_path, _config(upstream.base_url, **logging)) as tollway:
        _ask_all(tollway)
        if logging:
            _written(tollway, 3 * len(PROMPTS) + 2)
    found = {
        path.name.removesuffix("-wal")
        for path in tmp_path.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    }
    assert found == files


def test_what_there_is_nothing_of_is_told_in_one_line(upstream: Upstream, tmp_path: Path) -> None:
    tollway = Tollway(tmp_path, _config(upstream.base_url))
    done = tollway.cli("replay")
    assert done.returncode == 2
    assert "logging: {requests: true}" in done.stderr
    assert done.stderr.count("\n") == 1
    tollway.config.write_text(yaml.safe_dump(_config(upstream.base_url, prompts=True)))
    done = tollway.cli("check", "router.yaml")
    assert "logging.prompts: prompts are kept with requests" in done.stderr
    (tollway.data / "requests.db").write_bytes(b"no database" * 100)
    tollway.config.write_text(yaml.safe_dump(_config(upstream.base_url)))
    done = tollway.cli("replay")
    assert done.returncode == 2
    assert done.stderr.startswith("tollway: requests.db: ")


def test_weights_are_learned_from_the_own_log_and_used_where_they_are_named(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Of requests that all went cheap those about law were answered badly."""
    config = _config(upstream.base_url, requests=True)
    config["models"]["auto"]["policy"]["share"] = 0
    config.pop("rules")
    law = "Is this contract clause enforceable in court? The plaintiff sues for damages, case {}."
    talk = "Good morning, how are you today? Number {} of my greetings to my dear friends."

    def asked(text: str) -> dict[str, Any]:
        return {"model": "auto", "messages": [{"role": "user", "content": text}]}

    with serving(tmp_path, config) as tollway:
        early = tollway.cli("learn")
        assert early.returncode == 2
        assert "0 requests are too few" in early.stderr
        for number in range(160):
            reply = tollway.post(
                "/v1/chat/completions", asked((talk, law)[number % 2].format("x" * (number // 2)))
            )
            assert reply.headers["x-tollway-model"] == "up/small"
            feedback = {
                "request_id": reply.headers["x-request-id"],
                "metric": "task_completed",
                "value": not number % 2,
            }
            assert tollway.post("/v1/feedback", feedback).status_code == 200
        _written(tollway, 160)
        done = tollway.cli("learn", "--output", "mine.json", "--json")  # while it serves
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["requests"], shown["labels"]) == (160, 160)
        assert shown["refit"]["auc_after"] > 0.9
        assert "mine.json" in tollway.cli("learn", "--output", "mine.json").stdout
    config["models"]["auto"]["policy"] = {"name": "learned", "share": 0.5, "weights": "mine.json"}
    with serving(tmp_path, config) as tollway:
        assert tollway.cli("check", "router.yaml").returncode == 0
        for text, target in ((talk, "up/small"), (law, "up/large")):
            dry = tollway.post("/v1/route", asked(text.format("xx"))).json()
            assert dry["choices"][0]["target"] == target
    (tmp_path / "mine.json").unlink()
    done = Tollway(tmp_path, config).cli("check", "router.yaml")
    assert done.returncode == 2
    assert "models.auto.policy" in done.stderr
    assert "mine.json" in done.stderr
