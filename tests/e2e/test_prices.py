"""What an attempt costs: by the tier that served it, by the provider's word, or without a price."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.price_book import DatedRates, Equals, Model, Provider, Snapshot
from proxy.price_snapshot import render
from tests.e2e.tollway import Tollway, clean_environ, provider, run_cli, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, chunk, completion, usage_chunk

ROOT = Path(__file__).parents[2]
COST = 11 * 1_000 + 7 * 2_000  # nano-USD of one answer of our upstream
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def answering(usage: dict[str, Any] | None = None, **top: Any) -> Script:
    """A provider that says more in its answers, JSON or streamed."""

    async def answer(call: Call, line: Line) -> None:
        if not call.body.get("stream"):
            said = completion(**top)
            said["usage"] |= usage or {}
            await line.json(said)
            return
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "Hello"}, **top))
        await line.event(chunk({}, "stop", **top))
        last = usage_chunk()
        last["usage"] |= usage or {}
        await line.event({**last, **top})
        await line.end_stream()

    return answer


def cost_of(tollway: Tollway, count: int) -> list[int]:
    return [row["cost_nanousd"] for row in tollway.rows(count)]


@pytest.mark.parametrize("stream", [False, True])
def test_the_providers_own_word_settles_where_it_counts(
    upstream: Upstream, tmp_path: Path, stream: bool
) -> None:
    config = provider(upstream.base_url, "m1", "byok", "absurd", reports_cost=True)
    config["providers"]["other"] = {"base_url": upstream.base_url}
    config["targets"].append({**config["targets"][0], "target": "other/m1"})
    upstream.scripts["m1"] = answering({"cost": 0.0000012345, "is_byok": False})
    upstream.scripts["byok"] = answering(
        {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00000285}}
    )
    upstream.scripts["absurd"] = answering({"cost": -1})
    with serving(tmp_path, config) as tollway:
        for model in ("up/m1", "up/byok", "up/absurd", "other/m1"):
            assert tollway.chat(model, stream=stream).status_code == 200
        rows = {row["target"]: row for row in tollway.rows(4)}
        costs = {name: row["cost_nanousd"] for name, row in rows.items()}
        assert costs == {"up/m1": 1_235, "up/byok": 2_850, "up/absurd": COST, "other/m1": COST}
        assert not any(row["estimated"] for row in rows.values())
        assert "up/absurd reports a cost of -1 USD" in tollway.log()


@pytest.mark.parametrize("stream", [False, True])
def test_the_tier_that_served_is_charged_and_the_dearest_in_reach_is_held(
    upstream: Upstream, tmp_path: Path, stream: bool
) -> None:
    config = provider(upstream.base_url, "m1", "silent")
    for target in config["targets"]:
        target["price"] = {
            "input": 1,
            "output": 2,
            "service_tiers": {
                "flex": {"input": 0.5, "output": 1},
                "priority": {"input": 10, "output": 20},
            },
        }
    upstream.scripts["m1"] = answering(service_tier="priority")
    with serving(tmp_path, config) as tollway:
        ask = {"stream": stream, "max_tokens": 7}
        assert tollway.chat("up/m1", **ask).status_code == 200
        assert tollway.chat("up/m1", service_tier="default", **ask).status_code == 200
        assert tollway.chat("up/silent", service_tier="flex", **ask).status_code == 200
        assert tollway.chat("up/silent", **ask).status_code == 200
        open_, standard, flex, silent = tollway.rows(4)
        assert [row["cost_nanousd"] for row in (open_, standard, flex, silent)] == [
            10 * COST, 10 * COST, COST // 2, COST,
        ]  # fmt: skip
        # The body names the tier in some of them: holds differ by what those bytes take.
        assert open_["hold_nanousd"] > 9 * standard["hold_nanousd"]
        assert abs(silent["hold_nanousd"] - open_["hold_nanousd"]) < open_["hold_nanousd"] // 10
        assert flex["hold_nanousd"] < 2 * standard["hold_nanousd"]
        assert open_["hold_nanousd"] >= open_["cost_nanousd"]


def test_a_named_tier_of_unknown_price_is_refused_under_a_hard_budget(
    upstream: Upstream, tmp_path: Path
) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        refused = tollway.chat("up/m1", service_tier="priority")
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "service_tier")
        assert tollway.chat("up/m1", service_tier="flex").status_code == 200
        assert tollway.chat("up/m1", service_tier="auto").status_code == 200


def test_each_image_is_charged(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"][0] |= {"price": {"input": 1, "output": 2, "image": 0.001}, "image_tokens": 10}
    with serving(tmp_path, config) as tollway:
        messages = [{"role": "user", "content": [IMAGE, IMAGE]}]
        assert tollway.chat("up/m1", messages=messages).status_code == 200
        (row,) = tollway.rows(1)
        assert row["cost_nanousd"] == COST + 2 * 1_000_000
        assert row["hold_nanousd"] > row["cost_nanousd"]


def test_a_failure_is_charged_nothing_even_where_requests_have_a_price(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def fail(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "no"}}, "400 Bad Request")

    config = provider(upstream.base_url, "m1")
    config["targets"][0]["price"]["per_request"] = 0.01
    upstream.scripts["m1"] = fail
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("up/m1").status_code == 400
        assert cost_of(tollway, 1) == [0]


@pytest.mark.parametrize(("unpriced", "cost"), [("free", 0), ({"per_request": 0.01}, 10_000_000)])
def test_an_unpriced_target_costs_what_the_operator_says(
    upstream: Upstream, tmp_path: Path, unpriced: Any, cost: int
) -> None:
    config = provider(upstream.base_url, "m1", unpriced=unpriced)
    config["targets"].append({"target": "up/mystery"})
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("up/mystery").status_code == 200
        (row,) = tollway.rows(1)
        assert (row["cost_nanousd"], row["priced"]) == (cost, 1)
        assert "not known" not in tollway.log()


def test_without_a_hard_budget_an_unpriced_target_is_used_and_not_in_silence(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"].append({"target": "up/*"})
    with serving(tmp_path, config) as tollway:
        key = tollway.admin("POST", "/keys", {"name": "unlimited"})
        headers = {"authorization": f"Bearer {key['key']}"}
        for model in ("up/mystery", "up/riddle", "up/m1"):
            assert tollway.chat(model, headers=headers).status_code == 200
        assert tollway.chat("up/m1", headers=headers, web_search_options={}).status_code == 200
        assert [row["priced"] for row in tollway.rows(4)] == [0, 0, 1, 0]
        metrics = tollway.get(
            "/metrics", headers={"authorization": "Bearer test-admin-token-0123456789"}
        ).text
        assert 'tollway_unpriced_attempts_total{target="up/*"} 2.0' in metrics
        assert 'tollway_unpriced_attempts_total{target="up/m1"} 1.0' in metrics
        assert tollway.log().count("up/*: a price is not known") == 1
        assert "up/m1: what 'web_search_options' costs is not known" in tollway.log()


def listed(as_of: date) -> Snapshot:
    rates = DatedRates(input=3 * 10**9, output=5 * 10**9)
    model = Model(id="new", match=Equals("new"), rates=(rates,))
    return Snapshot(
        source="a list of ours", as_of=as_of, providers=(Provider(id="up", models=(model,)),)
    )


def test_refreshed_prices_are_shown_and_charged(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"] += [{"target": "up/new"}, {"target": "up/mystery"}]
    today = datetime.now(UTC).date()
    tollway = Tollway(tmp_path, config)
    made = tmp_path / "made.json"
    made.write_text(render(listed(today)))

    before = {row["target"]: row for row in json.loads(tollway.cli("prices", "--json").stdout)}
    assert before["up/new"]["state"] == "unpriced"
    done = tollway.cli("prices", "--refresh", "--from", str(made), "--json")
    assert (done.returncode, "a list of ours" in done.stderr) == (0, True)
    after = {row["target"]: row for row in json.loads(done.stdout)}
    assert after["up/new"] | {"as_of": None} == {
        "target": "up/new",
        "state": "ok",
        "input": 3 * 10**9,
        "cached_input": 3 * 10**9,
        "output": 5 * 10**9,
        "per_request": 0,
        "service_tiers": [],
        "pieces": [],
        "source": "a list of ours",
        "as_of": None,
        "age_days": 0,
    }
    assert after["up/mystery"]["state"] == "unpriced"
    table = tollway.cli("prices").stdout
    assert "up/mystery" in table
    assert "unpriced" in table
    assert "$3.00" in table

    tollway.start()
    try:
        assert tollway.chat("up/new").status_code == 200
        assert cost_of(tollway, 1) == [11 * 3_000 + 7 * 5_000]
    finally:
        assert tollway.stop() == 0


def test_a_list_older_than_the_packaged_one_is_not_used(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    made.write_text(render(listed(date(2024, 1, 1))))
    environ = clean_environ() | {"TOLLWAY_DATA": str(tmp_path / "data")}
    done = run_cli("prices", "--refresh", "--from", str(made), environ=environ, cwd=tmp_path)
    assert done.returncode == 0
    assert "with prices for 1 models; genai-prices" in done.stderr
    assert "is newer" in done.stderr


def test_a_broken_refreshed_list_is_a_warning_at_the_start(
    upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prices.json").write_text("{")
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        (warning,) = [line for line in tollway.log().splitlines() if "prices.json" in line]
        assert "packaged prices" in warning
        assert tollway.chat().status_code == 200


def test_prices_without_a_refresh_take_no_source(tmp_path: Path) -> None:
    done = run_cli("prices", "--from", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "--refresh" in done.stderr


def test_stale_prices_are_a_warning_at_the_start(upstream: Upstream, tmp_path: Path) -> None:
    # The product as it would be if nobody had updated it for years: a copy that is found first.
    for package in ("proxy", "adapters", "policies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    prices = tmp_path / "proxy" / "prices.json"
    old, count = re.subn(r'"as_of":"[-0-9]+"', '"as_of":"2024-01-01"', prices.read_text(), count=1)
    assert count == 1
    prices.write_text(old)
    config = provider(upstream.base_url, "m1", prices="openai")
    config["targets"].append({"target": "up/gpt-4o"})
    with serving(tmp_path, config) as tollway:
        (warning,) = [line for line in tollway.log().splitlines() if "days old" in line]
        assert "up/gpt-4o" in warning
        assert "--refresh" in warning
