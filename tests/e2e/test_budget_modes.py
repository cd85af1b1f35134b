"""What budgets do to requests: whose they are, slices of streams, caps, clamps, tiers, rates."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk

TOKEN = 2_000  # nano-USD of one token of output


def paced(tokens: int, generated: list[int], pause_s: float = 0.005) -> Any:
    """A stream of one-token events by a provider that stops when it is left, and counts."""

    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        generated.append(0)
        mine = len(generated) - 1
        for _ in range(tokens):
            generated[mine] += 1
            await line.event(chunk({"content": "word "}))
            await asyncio.sleep(pause_s)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk(11, tokens))
        await line.end_stream()

    return script


def metered(upstream: Upstream, **settings: Any) -> dict[str, Any]:
    config = provider(upstream.base_url, "m1", **{"meterable": True, **settings})
    config["targets"][0]["max_output_tokens"] = 100_000
    return config


def a_key(tollway: Tollway, limit_usd: float, **settings: Any) -> dict[str, str]:
    made = tollway.admin("POST", "/keys", {"name": "caller", **settings})
    tollway.admin(
        "POST",
        "/budgets",
        {"scope": f"key:{made['id']}", "window": "lifetime", "limit_usd": limit_usd},
    )
    return {"authorization": f"Bearer {made['key']}"}


def test_a_stream_holds_slices_and_ends_with_length_when_the_budget_is_spent(
    upstream: Upstream, tmp_path: Path
) -> None:
    generated: list[int] = []
    upstream.scripts["m1"] = paced(2_000, generated)
    with serving(tmp_path, metered(upstream)) as tollway:
        # The whole maximum would cost 20 cents: full holds would refuse this at once.
        limit = 600 * TOKEN
        headers = a_key(tollway, limit / 1e9)
        reply = tollway.chat("m1", stream=True, headers=headers)
        assert reply.status_code == 200
        chunks = events(reply.text)
        assert chunks[-1] == "[DONE]"
        last = chunks[-2]
        assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
        assert last["tollway"]["reason"] == "budget_exhausted"
        assert last["tollway"]["scope"].startswith("key:")
        assert upstream.calls[0].closed.wait(5)
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["estimated"]) == ("capped", 1)
        assert 250 < generated[0] < 600
        # Providers bill what they generated: what the row says must not be less, but for what was
        # on its way when we closed.
        assert row["output_tokens"] >= generated[0] - 12
        assert 11 * 1_000 + generated[0] * TOKEN <= limit
        # Smaller and smaller answers still fit, and then none: all of it together is the limit.
        for _ in range(20):
            reply = tollway.chat("m1", stream=True, headers=headers)
            if reply.status_code == 429:
                break
        assert reply.json()["error"]["code"] == "insufficient_quota"
        assert 0.4 * limit < sum(11 * 1_000 + n * TOKEN for n in generated) <= limit
        assert audit(tollway.data / "ledger.db") == []


def test_a_stream_that_outgrows_its_slices_is_whole_while_there_is_money(
    upstream: Upstream, tmp_path: Path
) -> None:
    generated: list[int] = []
    upstream.scripts["m1"] = paced(700, generated, pause_s=0)
    with serving(tmp_path, metered(upstream)) as tollway:
        headers = a_key(tollway, 0.01)
        reply = tollway.chat(
            "m1", stream=True, stream_options={"include_usage": True}, headers=headers
        )
        assert sum('"word "' in line for line in reply.text.splitlines()) == 700
        assert events(reply.text)[-2]["usage"]["completion_tokens"] == 700
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["cost_nanousd"]) == ("ok", 11 * 1_000 + 700 * TOKEN)
        assert row["overrun_nanousd"] == 0
        assert row["hold_nanousd"] < 100_000 * TOKEN


@pytest.mark.parametrize("why", ["at_cap", "holds", "not meterable"])
def test_full_holds_where_a_stream_may_not_be_cut(
    upstream: Upstream, tmp_path: Path, why: str
) -> None:
    config = metered(upstream, **({"meterable": False} if why == "not meterable" else {}))
    with serving(tmp_path, config) as tollway:
        made = tollway.admin(
            "POST", "/keys", {"name": "k", **({"at_cap": "finish"} if why == "at_cap" else {})}
        )
        tollway.admin(
            "POST",
            "/budgets",
            {
                "scope": f"key:{made['id']}",
                "limit_usd": 0.1,
                "holds": "full" if why == "holds" else "sliced",
            },
        )
        headers = {"authorization": f"Bearer {made['key']}"}
        refused = tollway.chat("m1", stream=True, headers=headers)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert tollway.chat("m1", stream=True, max_tokens=100, headers=headers).status_code == 200


def test_a_provider_that_bills_the_whole_answer_is_heard_out(
    upstream: Upstream, tmp_path: Path
) -> None:
    generated: list[int] = []
    upstream.scripts["m1"] = paced(200, generated)
    with serving(tmp_path, metered(upstream, meterable=False)) as tollway:
        headers = a_key(tollway, 1)
        body = {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{tollway.url}/v1/chat/completions"
        with httpx2.stream("POST", url, json=body, headers=headers) as reply:
            next(reply.iter_lines())
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["estimated"]) == ("client_gone", 0)
        assert row["cost_nanousd"] == 11 * 1_000 + 200 * TOKEN
        assert generated == [200]


def test_a_whole_answer_is_heard_out_too(upstream: Upstream, tmp_path: Path) -> None:
    async def slowly(call: Call, line: Line) -> None:
        await asyncio.sleep(0.5)
        await line.json(completion())

    upstream.scripts["m1"] = slowly
    with serving(tmp_path, metered(upstream, meterable=False)) as tollway:
        headers = a_key(tollway, 1)
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{tollway.url}/v1/chat/completions",
                json={"model": "m1", "messages": [{"role": "user", "content": "Hello"}]},
                headers=headers,
                timeout=0.2,
            )
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["cost_nanousd"]) == ("client_gone", 11 * 1_000 + 7 * TOKEN)


def test_nothing_is_tried_again_for_who_is_gone(upstream: Upstream, tmp_path: Path) -> None:
    async def closes_its_second(call: Call, line: Line) -> None:
        if len(upstream.calls) == 2:
            await asyncio.sleep(0.5)
            raise ConnectionResetError
        await line.json(completion())

    upstream.scripts["m1"] = closes_its_second
    with serving(tmp_path, metered(upstream, meterable=False)) as tollway:
        headers = a_key(tollway, 1)
        assert tollway.chat("m1", headers=headers).status_code == 200
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{tollway.url}/v1/chat/completions",
                json={"model": "m1", "messages": [{"role": "user", "content": "Hello"}]},
                headers=headers,
                timeout=0.2,
            )
        assert upstream.calls[1].closed.wait(5)
        assert tollway.chat("m1", headers=headers).status_code == 200  # a sign of life in between
        assert [row["outcome"] for row in tollway.rows(3)] == ["ok", "not_dispatched", "ok"]
        assert len(upstream.calls) == 3


def test_who_is_not_heard_out_for_ever_stays_held_for_what_it_may_bill(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def never(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = never
    config = metered(upstream, meterable=False)
    config["server"]["hear_out_s"] = 0.3
    with serving(tmp_path, config) as tollway:
        made = tollway.admin("POST", "/keys", {"name": "k", "budgets": []})
        tollway.admin("POST", "/budgets", {"scope": f"key:{made['id']}", "limit_usd": 1})
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{tollway.url}/v1/chat/completions",
                json={
                    "model": "m1",
                    "max_tokens": 1_000,
                    "messages": [{"role": "user", "content": "Hello"}],
                },
                headers={"authorization": f"Bearer {made['key']}"},
                timeout=0.2,
            )
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["estimated"]) == ("client_gone", 1)
        assert row["held_nanousd"] == row["hold_nanousd"] - row["cost_nanousd"] > 0
        assert audit(tollway.data / "ledger.db") == []


@pytest.mark.parametrize("by", ["key", "header"])
def test_a_clamp_lowers_the_maximum_to_what_is_affordable(
    upstream: Upstream, tmp_path: Path, by: str
) -> None:
    with serving(tmp_path, metered(upstream, meterable=False)) as tollway:
        headers = a_key(tollway, 0.003, **({"clamp": True} if by == "key" else {}))
        if by == "header":
            assert tollway.chat("m1", max_tokens=5_000, headers=headers).status_code == 429
            headers["x-tollway-clamp"] = "true"
        reply = tollway.chat("m1", max_tokens=5_000, headers=headers)
        assert reply.status_code == 200, reply.text
        sent = upstream.calls[-1].body
        assert sent["max_tokens"] == int(reply.headers["x-tollway-clamped-max-tokens"])
        assert 1_000 < sent["max_tokens"] < 1_500
        whole = tollway.chat("m1", max_tokens=100, headers=headers)
        assert "x-tollway-clamped-max-tokens" not in whole.headers
        assert upstream.calls[-1].body["max_tokens"] == 100


def two_models(upstream: Upstream) -> dict[str, Any]:
    config = provider(upstream.base_url, "dear", "cheap")
    config["targets"][0]["price"] = {"input": 100, "output": 200}
    return config


@pytest.mark.parametrize(("at_cap", "status"), [("downgrade", 200), ("stop", 429)])
def test_a_key_says_whether_a_spent_budget_means_a_cheaper_target(
    upstream: Upstream, tmp_path: Path, at_cap: str, status: int
) -> None:
    with serving(tmp_path, two_models(upstream)) as tollway:
        headers = a_key(tollway, 0.02, at_cap=at_cap)
        reply = tollway.chat("auto", max_tokens=100, headers=headers)
        assert reply.status_code == status
        if status == 200:
            assert reply.headers["x-tollway-model"] == "up/cheap"


def test_a_virtual_model_gets_cheaper_as_its_budget_is_spent(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "best", "good", "cheap")
    config["models"]["auto"] = {
        "targets": ["up/best"],
        "downgrade": [
            {"at_percent": 90, "targets": ["up/cheap"]},
            {"at_percent": 50, "targets": ["up/good", "up/cheap"]},
        ],
    }
    cost = 11 * 1_000 + 1_000 * TOKEN

    async def at_length(call: Call, line: Line) -> None:
        await line.json(completion(output=1_000))

    for model in ("best", "good", "cheap"):
        upstream.scripts[model] = at_length
    with serving(tmp_path, config, "--workers", "2") as tollway:
        headers = a_key(tollway, 20 * cost / 1e9)
        seen = []
        for _ in range(19):
            reply = tollway.chat("auto", max_tokens=1_000, headers=headers)
            assert reply.status_code == 200, reply.text
            seen.append(
                (reply.headers["x-tollway-model"], reply.headers.get("x-tollway-downgrade"))
            )
            tollway.rows(len(seen))
        assert seen[:10] == [("up/best", None)] * 10
        assert seen[10:18] == [("up/good", "50%")] * 8
        assert seen[18:] == [("up/cheap", "90%")]


@pytest.mark.parametrize(
    ("asked", "wishes", "status"),
    [
        ("auto", {"provider": {"ignore": ["up/cheap"]}}, 400),
        ("auto", {"provider": {"only": ["up/best"]}}, 400),
        ("other", {"models": ["auto"]}, 200),
    ],
)
def test_no_wish_leads_past_a_cheaper_tier(
    upstream: Upstream, tmp_path: Path, asked: str, wishes: dict[str, Any], status: int
) -> None:
    config = provider(upstream.base_url, "best", "cheap", "tiny")
    config["targets"][2]["context_length"] = 10
    config["models"] |= {
        "auto": {
            "targets": ["up/best"],
            "downgrade": [{"at_percent": 1, "targets": ["up/cheap"]}],
        },
        "other": {"targets": ["up/tiny"]},
    }
    with serving(tmp_path, config) as tollway:
        headers = a_key(tollway, 0.002)
        assert tollway.chat("auto", max_tokens=50, headers=headers).status_code == 200
        tollway.rows(1)
        reply = tollway.chat(asked, max_tokens=50, headers=headers, **wishes)
        assert reply.status_code == status, reply.text
        assert reply.headers.get("x-tollway-model") in (None, "up/cheap")


def test_a_target_is_paid_for_by_the_model_that_it_came_by(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1", "tiny")
    config["targets"][1]["context_length"] = 10
    config["models"] |= {"auto": {"targets": ["up/m1"]}, "other": {"targets": ["up/tiny"]}}
    with serving(tmp_path, config) as tollway:
        tollway.admin(
            "POST", "/budgets", {"scope": "model:auto", "window": "lifetime", "limit_usd": 1e-6}
        )
        reply = tollway.chat("other", max_tokens=50, models=["auto"])
        assert reply.status_code == 429, reply.text
        reply = tollway.chat("auto", max_tokens=50, models=["m1"])
        assert reply.status_code == 429, reply.text


def test_what_a_cheaper_tier_cannot_do_the_full_model_does(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "best", "cheap", "embed-one", "embed-two")
    config["models"]["auto"] = {
        "targets": ["up/best", "up/embed-one"],
        "downgrade": [{"at_percent": 1, "targets": ["up/cheap", "up/embed-two"]}],
    }
    with serving(tmp_path, config) as tollway:
        headers = a_key(tollway, 0.002)
        assert tollway.chat("auto", max_tokens=50, headers=headers).status_code == 200
        tollway.rows(1)
        reply = tollway.chat("auto", max_tokens=50, headers=headers)
        assert reply.headers["x-tollway-model"] == "up/cheap", reply.text
        body = {"model": "auto", "input": "a cat"}
        reply = tollway.post("/v1/embeddings", body, headers=headers)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-tollway-model"] == "up/embed-one"  # vectors of two spaces never mix
        assert "x-tollway-downgrade" not in reply.headers


def test_an_answer_that_cannot_be_read_is_charged_as_its_usage_says(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def broken(call: Call, line: Line) -> None:
        usage = {"prompt_tokens": 77, "total_tokens": 77}
        await line.json({"object": "list", "data": [{"index": 0}], "usage": usage})

    upstream.scripts["embed-one"] = broken
    with serving(tmp_path, provider(upstream.base_url, "m1", "embed-one")) as tollway:
        reply = tollway.post("/v1/embeddings", {"model": "embed-one", "input": "a cat"})
        assert reply.status_code == 502
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["estimated"], row["input_tokens"]) == ("broken", 0, 77)


def test_a_worker_that_dies_in_a_metered_stream_leaves_no_overrun(
    upstream: Upstream, tmp_path: Path
) -> None:
    generated: list[int] = []
    upstream.scripts["m1"] = paced(2_000, generated)
    with serving(tmp_path, metered(upstream)) as tollway:
        headers = a_key(tollway, 1_500 * TOKEN / 1e9)
        body = {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{tollway.url}/v1/chat/completions"
        with (
            contextlib.suppress(httpx2.HTTPError),
            httpx2.stream("POST", url, json=body, headers=headers) as reply,
        ):
            for count, _ in enumerate(reply.iter_lines()):
                if count == 900:  # half of them empty: by then the worker has told how far it is
                    (worker,) = tollway.workers()
                    worker.kill()
        (row,) = tollway.rows(1)
        assert (row["outcome"], row["overrun_nanousd"]) == ("orphan", 0)
        assert row["cost_nanousd"] > 100 * TOKEN


def test_budgets_of_every_kind_of_scope_apply_together(upstream: Upstream, tmp_path: Path) -> None:
    cost = 11 * 1_000 + 7 * TOKEN
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        organisation = tollway.admin("POST", "/organisations", {"name": "org"})["id"]
        team = tollway.admin("POST", "/teams", {"name": "t", "organisation_id": organisation})["id"]
        made = tollway.admin("POST", "/keys", {"name": "k", "team_id": team, "tags": ["always"]})
        key = {"authorization": f"Bearer {made['key']}"}
        scopes = [
            "global",
            f"organisation:{organisation}",
            f"team:{team}",
            f"key:{made['id']}",
            "user:ann",
            "tag:nightly",
            "tag:always",
            "model:auto",
            "target:up/m1",
            "provider:up",
            f"key:{made['id']} & tag:nightly",
            f"team:{team} & user:*",
        ]
        for scope in scopes:
            tollway.admin("POST", "/budgets", {"scope": scope, "limit_usd": 1, "window": "5h"})
        reply = tollway.chat(
            "auto", max_tokens=7, user="ann", metadata={"tags": ["nightly"]}, headers=key
        )
        assert reply.status_code == 200, reply.text
        assert "metadata" not in upstream.calls[-1].body
        tollway.rows(1)
        budgets = tollway.admin("GET", "/budgets")["data"]
        spent = {b["scope"]: round(b["spent_usd"] * 1e9) for b in budgets}
        assert {scope: spent[scope] for scope in scopes[:-1]} == dict.fromkeys(scopes[:-1], cost)
        assert spent[f"team:{team} & user:ann"] == cost
        assert spent[f"team:{team} & user:*"] == 0

        untagged = {**key, "x-tollway-user": "bob"}
        tollway.chat("m1", max_tokens=7, user="ann", headers=untagged)
        tollway.rows(2)
        budgets = tollway.admin("GET", "/budgets")["data"]
        spent = {b["scope"]: round(b["spent_usd"] * 1e9) for b in budgets}
        assert spent["user:ann"] == spent["tag:nightly"] == spent["model:auto"] == cost
        assert spent[f"team:{team} & user:bob"] == cost
        assert spent["target:up/m1"] == spent["tag:always"] == 2 * cost


def test_a_refusal_says_when_to_come_back_and_when_that_is_no_use(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def at_length(call: Call, line: Line) -> None:
        await line.json(completion(output=300))

    upstream.scripts["m1"] = at_length
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        made = tollway.admin("POST", "/keys", {"name": "caller"})
        budget = {"scope": f"key:{made['id']}", "window": "1h", "limit_usd": 0.001}
        tollway.admin("POST", "/budgets", budget)
        headers = {"authorization": f"Bearer {made['key']}"}
        reply = tollway.chat("m1", max_tokens=600, headers=headers)
        assert (reply.status_code, reply.headers.get("retry-after")) == (429, None)
        assert "which is more than all of it" in reply.text
        assert tollway.chat("m1", max_tokens=300, headers=headers).status_code == 200
        tollway.rows(1)
        reply = tollway.chat("m1", max_tokens=100, headers=headers)
        assert reply.status_code == 429
        assert "opens again at" in reply.text
        assert 3_500 < int(reply.headers["retry-after"]) <= 3_660


@pytest.mark.negative(number=37)
def test_the_first_requests_of_a_new_end_user_share_one_limit(
    upstream: Upstream, tmp_path: Path
) -> None:
    cost = 11 * 1_000 + 7 * TOKEN
    with serving(tmp_path, provider(upstream.base_url, "m1"), "--workers", "2") as tollway:
        headers = a_key(tollway, 10)
        limit = 20 * cost
        tollway.admin(
            "POST", "/budgets", {"scope": "user:*", "limit_usd": limit / 1e9, "window": "day"}
        )

        async def ask_at_once() -> list[int]:
            limits = httpx2.Limits(max_connections=100)
            async with httpx2.AsyncClient(limits=limits, timeout=60, headers=headers) as client:
                body = {
                    "model": "m1",
                    "max_tokens": 7,
                    "user": "new",
                    "messages": [{"role": "user", "content": "Hello"}],
                }
                url = f"{tollway.url}/v1/chat/completions"
                replies = await asyncio.gather(*(client.post(url, json=body) for _ in range(500)))
                return [reply.status_code for reply in replies]

        codes = asyncio.run(ask_at_once())
        rows = tollway.rows()
        assert codes.count(200) == len(rows) == len(upstream.calls) <= 20
        assert tollway.chat("m1", max_tokens=7, user="other", headers=headers).status_code == 200


def test_rates_hold_across_workers_and_say_when_to_come_back(
    upstream: Upstream, tmp_path: Path
) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1"), "--workers", "4") as tollway:
        made = tollway.admin("POST", "/keys", {"name": "k", "requests_per_minute": 5})
        headers = {"authorization": f"Bearer {made['key']}"}
        replies = [tollway.chat("m1", headers=headers) for _ in range(8)]
        assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 3
        assert replies[1].headers["x-ratelimit-limit-requests"] == "5"
        assert replies[1].headers["x-ratelimit-remaining-requests"] == "3"
        refused = replies[-1]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 50 < int(refused.headers["retry-after"]) <= 61
        assert len(upstream.calls) == 5


def test_the_keys_of_a_team_share_its_rate(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1"), "--workers", "2") as tollway:
        team = tollway.admin("POST", "/teams", {"name": "t", "requests_per_minute": 3})["id"]
        keys = [
            tollway.admin("POST", "/keys", {"name": name, "team_id": team})["key"]
            for name in ("one", "two")
        ]
        replies = [
            tollway.chat("m1", headers={"authorization": f"Bearer {keys[n % 2]}"}) for n in range(4)
        ]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert f"team:{team}" in replies[-1].json()["error"]["message"]


def test_concurrent_requests_are_counted_across_workers(upstream: Upstream, tmp_path: Path) -> None:
    generated: list[int] = []
    upstream.scripts["m1"] = paced(100_000, generated, pause_s=0.05)
    config = metered(upstream)
    config["targets"][0]["limits"] = {"concurrent": 2}
    with serving(tmp_path, config, "--workers", "2") as tollway:
        body = {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{tollway.url}/v1/chat/completions"
        with httpx2.stream("POST", url, json=body) as one:
            one_lines = one.iter_lines()
            next(one_lines)
            with httpx2.stream("POST", url, json=body) as two:
                two_lines = two.iter_lines()
                next(two_lines)
                third = tollway.chat("m1", stream=True)
                assert third.status_code == 429
                assert "target:up/m1" in third.json()["error"]["message"]
        tollway.rows(2)
        with httpx2.stream("POST", url, json=body) as again:
            assert again.status_code == 200


def test_a_limited_target_hands_over_to_the_next(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1", "m2")
    config["targets"][0]["limits"] = {"requests_per_minute": 2}
    with serving(tmp_path, config) as tollway:
        used = [tollway.chat("auto").headers["x-tollway-model"] for _ in range(4)]
        assert used == ["up/m1", "up/m1", "up/m2", "up/m2"]


def test_tokens_a_minute_count_what_was_used(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        made = tollway.admin("POST", "/keys", {"name": "k", "tokens_per_minute": 200})
        headers = {"authorization": f"Bearer {made['key']}"}
        # Each asks for 100 and more, and takes 18.
        codes = [tollway.chat("m1", max_tokens=100, headers=headers).status_code for _ in range(3)]
        assert codes == [200, 200, 200]
        too_large = tollway.chat("m1", max_tokens=500, headers=headers)
        assert too_large.status_code == 429
        assert too_large.headers["x-should-retry"] == "false"
        seen = tollway.chat("m1", max_tokens=10, headers=headers).headers
        assert seen["x-ratelimit-limit-tokens"] == "200"
        assert json.loads(upstream.calls[-1].raw)["max_tokens"] == 10


def test_a_tight_budget_has_the_input_counted_instead_of_bounded(
    upstream: Upstream, tmp_path: Path
) -> None:
    """4,000 words are 4,000 tokens, and 20,000 bytes: only by count does the request fit."""
    config = provider(upstream.base_url, "gpt-4o", "unknown-model")
    for target in config["targets"]:
        target["price"] = {"input": 100, "output": 100}
    with serving(tmp_path, config) as tollway:
        messages = [{"role": "user", "content": "word " * 4_000}]
        headers = a_key(tollway, 1.0)
        asked = {"messages": messages, "max_tokens": 1_000, "headers": headers}
        assert tollway.chat("gpt-4o", **asked).status_code == 200
        row = tollway.rows(1)[-1]
        assert row["hold_nanousd"] < 0.6 * 10**9
        assert tollway.chat("unknown-model", **asked).status_code == 429
        assert audit(tollway.data / "ledger.db") == []
