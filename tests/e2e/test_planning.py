"""Planning in the real product: a month's cost by the real ledger, and targets for a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream


def _config(base_url: str) -> dict[str, Any]:
    config = provider(base_url, "plain", "coder", "broken", "embed")
    plain, coder, broken, _ = config["targets"]
    plain |= {"latency_ms": 300, "quality": {"general": 0.6}, "alias": ["simple"]}
    coder["price"] = {"input": 5, "output": 10}
    coder |= {"latency_ms": 900, "quality": {"general": 0.7, "coding": 0.95}}
    coder |= {"specialisations": ["coding"], "capabilities": ["chat", "tools"]}
    broken |= {"price": None, "tiers": []}
    config["models"] = {
        "auto": {"targets": ["up/plain", "up/coder"]},
        "strong": {"targets": ["up/coder"]},
        "unpriced": {"targets": ["up/broken"]},
        "polite": {"targets": ["up/*"], "constraints": {"excluded_models": ["coder"]}},
    }
    return config


@pytest.fixture(scope="module")
def tollway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    with serving(tmp_path_factory.mktemp("planning"), _config(upstream.base_url)) as running:
        yield running


def _estimated(tollway: Tollway, *arguments: str) -> dict[str, Any]:
    done = tollway.cli("estimate", "--requests-per-day", "100", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_month_is_estimated_by_the_route_and_then_by_what_happened(
    upstream: Upstream, tmp_path: Path
) -> None:
    with serving(tmp_path, _config(upstream.base_url)) as tollway:
        declared = _estimated(tollway, "--tokens", "200+100", "--model", "auto")
        (auto,) = declared["models"]
        assert (auto["basis"], auto["is_whole"]) == ("declared", True)
        assert [part["target"] for part in auto["targets"]] == ["up/plain"]
        # 3,000 requests of 200 tokens at $1 and 100 at $2 a million
        assert auto["cost_nanousd"] == 3000 * (200 * 1_000 + 100 * 2_000)
        for wish in ({}, {}, {"provider": {"only": ["coder"]}}):
            assert tollway.chat("auto", **wish).status_code == 200
        tollway.rows(minimum=3)
        measured = _estimated(tollway, "--tokens", "200+100")
        by_name = {each["model"]: each for each in measured["models"]}
        auto = by_name["auto"]
        assert (auto["basis"], auto["history_requests"]) == ("ledger", 3)
        shares = {part["target"]: part["attempts"] for part in auto["targets"]}
        assert shares == {"up/plain": 2, "up/coder": 1}
        assert auto["cost_nanousd"] == 2000 * 400_000 + 1000 * 5 * 400_000
        assert by_name["strong"]["basis"] == "declared"
        assert measured["mixed_nanousd"] == auto["cost_nanousd"]
        assert by_name["unpriced"]["is_whole"] is False
        # Another window has another history.
        later = _estimated(tollway, "--tokens", "300", "--since", "2100-01-01")
        assert {each["basis"] for each in later["models"]} == {"declared"}


def test_the_table_says_what_is_not_in_it(tollway: Tollway) -> None:
    assert tollway.chat("auto").status_code == 200
    tollway.rows(minimum=1)
    done = tollway.cli("estimate", "--requests-per-day", "10", "--tokens", "1000")
    assert done.returncode == 0, done.stderr
    assert "the declared route" in done.stdout
    assert "1 request " in done.stdout
    assert "where the ledger has no requests" in done.stderr
    assert "up/broken is not in the sum: its price is not known" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tokens", "many"), "--tokens"),
        (("--tokens", "0"), "--tokens"),
        (("--tokens", "1+-2"), "--tokens"),
        (("--tokens", "10", "--model", "nobody"), "--model"),
        (("--tokens", "10", "--since", "soon"), "--since"),
    ],
)
def test_what_cannot_be_estimated_is_one_line(
    tollway: Tollway, arguments: tuple[str, ...], said: str
) -> None:
    done = tollway.cli("estimate", "--requests-per-day", "10", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _recommended(tollway: Tollway, headers: Any = None, **body: Any) -> dict[str, Any]:
    reply = tollway.post("/v1/recommend", body, headers=headers)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


CODING = "Write and refactor Python functions with unit tests"


def test_targets_are_ranked_for_a_task_with_reasons(tollway: Tollway) -> None:
    found = _recommended(tollway, task=CODING, weights={"quality": 1})
    assert found["task"] == "coding"
    first, *others = found["choices"]
    assert first["target"] == "up/coder"
    assert "made for coding" in first["reasons"]
    assert any("0.95 for coding, the best of 3" in reason for reason in first["reasons"])
    assert first["ask_for"] == ["up/coder", "coder", "auto", "strong"]
    by_name = {each["target"]: each for each in others}
    assert "simple" in by_name["up/plain"]["ask_for"]
    # 1,000 tokens unless they are said, and what is expected of the answer
    expected = (1000 * 1 + found["expected_output_tokens"] * 2) / 1e6
    assert by_name["up/plain"]["estimated_cost_usd"] == pytest.approx(expected)
    cheap = _recommended(tollway, task=CODING, weights={"cost": 1})
    assert cheap["choices"][0]["target"] == "up/plain"
    assert any("the cheapest of 3" in reason for reason in cheap["choices"][0]["reasons"])


def test_constraints_leave_targets_out_each_with_its_reason(tollway: Tollway) -> None:
    found = _recommended(
        tollway,
        task=CODING,
        input_tokens=2000,
        constraints={"max_latency_ms": 500, "max_cost_per_request": 0.1},
    )
    assert [choice["target"] for choice in found["choices"]] == ["up/plain"]
    codes = {each["target"]: each["code"] for each in found["rejections"]}
    assert codes == {"up/coder": "latency", "up/broken": "cost", "up/embed": "capability"}
    vectors = _recommended(
        tollway, task="Search our manuals", constraints={"required_capabilities": ["embeddings"]}
    )
    assert [choice["target"] for choice in vectors["choices"]] == ["up/embed"]
    nothing = _recommended(
        tollway, task="Look at pictures", constraints={"required_capabilities": ["vision"]}
    )
    assert nothing["choices"] == []
    assert {each["code"] for each in nothing["rejections"]} == {"capability"}


def test_headers_are_heeded_or_refused(tollway: Tollway) -> None:
    cheap = {"x-tollway-weights": "cost=1", "x-tollway-max-latency-ms": "500"}
    found = _recommended(tollway, cheap, task=CODING, weights={"quality": 1})
    assert found["choices"][0]["target"] == "up/plain"
    assert {each["target"] for each in found["rejections"]} == {"up/coder", "up/embed"}
    found = _recommended(tollway, {"x-tollway-weights": "quality=1"}, task=CODING)
    assert found["choices"][0]["target"] == "up/coder"
    reply = tollway.post("/v1/recommend", {"task": "x"}, headers={"x-tollway-weight": "cost=1"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-tollway-weight")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "task"),
        ({"task": ""}, "task"),
        ({"task": "x", "budget": 1}, "budget"),
        ({"task": "x", "constraints": {"max_cost": 1}}, "constraints"),
        ({"task": "x", "constraints": {"max_latency_ms": 0}}, "constraints.max_latency_ms"),
        ({"task": "x", "weights": {"beauty": 1}}, "weights"),
        ({"task": "x", "input_tokens": -1}, "input_tokens"),
    ],
)
def test_what_means_nothing_is_refused(tollway: Tollway, body: dict[str, Any], param: str) -> None:
    reply = tollway.post("/v1/recommend", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_only_what_a_key_may_use_is_recommended(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, _config(upstream.base_url)) as tollway:

        def recommended(**settings: Any) -> Any:
            key = tollway.admin("POST", "/keys", {"name": "k", **settings})["key"]
            headers = {"authorization": f"Bearer {key}"}
            return tollway.post("/v1/recommend", {"task": CODING}, headers=headers)

        def targets(models: list[str]) -> tuple[set[str], set[str]]:
            found = recommended(models=models).json()
            return tuple({each["target"] for each in found[n]} for n in ("choices", "rejections"))

        assert targets(["up/plain"]) == ({"up/plain"}, set())
        assert targets(["simple"]) == ({"up/plain"}, set())
        assert targets(["strong"]) == ({"up/coder"}, set())
        # `polite` leaves the coder out, so that it leads nobody there.
        assert targets(["polite"]) == ({"up/plain", "up/broken"}, {"up/embed"})
        refused = recommended(endpoints=["embeddings"])
        assert refused.status_code == 403
        assert tollway.post("/v1/recommend", {"task": CODING}).status_code == 401


def test_the_command_line_recommends_alone_and_by_a_server(tollway: Tollway) -> None:
    alone = tollway.cli("recommend", CODING, "--weights", "quality=1", "--exclude", "plain")
    assert alone.returncode == 0, alone.stderr
    assert "up/coder" in alone.stdout
    assert "it is excluded" in alone.stdout
    asked = tollway.cli(
        "recommend", CODING, "--url", tollway.url, "--json", "--max-latency-ms", "500"
    )
    assert asked.returncode == 0, asked.stderr
    chosen = {choice["target"] for choice in json.loads(asked.stdout)["choices"]}
    assert chosen == {"up/plain", "up/broken"}
    for wrong in (("--require", "magic"), ("--weights", "beauty=1"), ("--max-cost-usd", "-1")):
        done = tollway.cli("recommend", CODING, *wrong)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
