"""Feedback through the real product: who may give it, what it does to routes, and that it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream
from tests.waiting import until

QUESTION = "Write a Python function that sorts a list of tuples by their second element."


def _config(base_url: str) -> dict[str, Any]:
    """Two equals, of which the first is said to be a little better."""
    config = provider(base_url, "m1", "m2")
    config["targets"][0]["quality"] = {"general": 0.59}
    config["targets"][1]["quality"] = {"general": 0.5}
    # Every caller here has a budget, of which nothing is to be kept back.
    reserve = dict.fromkeys(("simple", "medium", "complex", "very_complex"), 0)
    policy = {"name": "weighted", "weights": {"quality": 1}, "reserve": reserve}
    config["models"]["auto"]["policy"] = policy
    return config


def _best(tollway: Tollway) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": QUESTION}]}
    choice: str = tollway.post("/v1/route", body).json()["choices"][0]["target"]
    return choice


def test_feedback_moves_routing_in_every_worker_and_outlives_the_server(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = _config(upstream.base_url)
    with serving(tmp_path, config, "--workers", "2") as tollway:
        client = OpenAI(base_url=f"{tollway.url}/v1", api_key="none", max_retries=0)
        assert _best(tollway) == "up/m1"
        for number in range(4):
            raw = client.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": QUESTION}]
            )
            name = "x-request-id" if number % 2 else "x-tollway-request-id"
            client.post(
                "/feedback",
                body={
                    "request_id": raw.headers[name],
                    "metric": "thumbs",
                    "value": -1 if number % 2 else False,
                },
                cast_to=object,
            )
        until(lambda: all(_best(tollway) == "up/m2" for _ in range(8)))
        said = tollway.admin("GET", "/feedback")["data"]
        assert [(row["target"], row["task"], row["worth"]) for row in said] == [
            ("up/m1", "coding", 0.0)
        ] * 4
        assert {row["decision"] for row in said} == {row["decision"] for row in tollway.rows(4)}
        (quality,) = tollway.admin("GET", "/quality")["data"]
        assert (quality["answers"], quality["worth"], quality["declared"]) == (4, 0.0, None)
        assert quality["estimate"] == pytest.approx(0.59 * 20 / 24)
        tollway.ledger().kill()
        until(lambda: tollway.get("/readyz").status_code == 200)
        until(lambda: _best(tollway) == "up/m2")
    with serving(tmp_path, config) as tollway:
        assert _best(tollway) == "up/m2"


def test_only_the_key_that_asked_may_judge(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, _config(upstream.base_url)) as tollway:
        mine, other = (
            {"authorization": f"Bearer {tollway.admin('POST', '/keys', {'name': name})['key']}"}
            for name in ("mine", "other")
        )
        reply = tollway.chat(headers=mine)
        body = {
            "request_id": reply.headers["x-request-id"],
            "metric": "score",
            "value": 0.5,
        }
        refused = tollway.post("/v1/feedback", body, headers=other)
        unknown = tollway.post("/v1/feedback", {**body, "request_id": "req_unknown"}, headers=mine)
        assert refused.status_code == unknown.status_code == 404
        name = body["request_id"]
        assert refused.json() == {
            "error": {
                **unknown.json()["error"],
                "message": unknown.json()["error"]["message"].replace("req_unknown", name),
            }
        }
        assert tollway.post("/v1/feedback", body).status_code == 401
        given = tollway.post("/v1/feedback", body, headers=mine)
        assert given.json() == {"object": "feedback", **body}
        # The name of the reply, in whatever dialect it was given, is the request's.
        for prefix in ("chatcmpl-", "cmpl-"):
            named = {**body, "request_id": f"{prefix}{name}", "value": 1}
            assert tollway.post("/v1/feedback", named, headers=mine).json()["request_id"] == name
        response = tollway.post(
            "/v1/responses", {"model": "auto", "input": "Hello"}, headers=mine
        ).json()
        named = {"request_id": response["id"], "metric": "task_completed", "value": True}
        assert tollway.post("/v1/feedback", named, headers=mine).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "stars"},
        {"metric": "thumbs", "value": 2},
        {"metric": "thumbs", "value": 0.5},
        {"metric": "score", "value": 1.5},
        {"metric": "score", "value": True},
        {"metric": "score", "value": -0.1},
        {"metric": "task_completed", "value": 1},
        {"metric": "task_completed", "value": "yes"},
        {"comment": "well done"},
        {"request_id": ""},
        {"request_id": "x" * 5000},
        {"request_id": None},
    ],
)
def test_what_is_no_feedback_is_refused(tollway: Tollway, change: dict[str, Any]) -> None:
    body = {"request_id": "req_1", "metric": "thumbs", "value": 1, **change}
    reply = tollway.post("/v1/feedback", body)
    assert reply.status_code in (400, 413)
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert tollway.query("SELECT count(*) AS n FROM feedback") == [{"n": 0}]
