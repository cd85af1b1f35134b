"""`/admin/v1/swaps`, where nobody prepares what is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.admin.desk import Desk

SWAP = {"name": "auto", "from": "up/m1", "to": "up/m2"}
PATH = "/admin/v1/swaps"


def test_a_swap_begins_by_being_prepared(desk: Desk) -> None:
    reply = desk.ask("POST", PATH, {**SWAP, "rollback": {"error_rate": 0.1}})
    assert reply.status_code == 202
    made = reply.json()
    events = made.pop("events")
    assert [(event["state"], event["percent"]) for event in events] == [("preparing", 0)]
    assert made.pop("created_at") == made.pop("since") == events[0]["at"]
    assert made == {
        "id": 1,
        "name": "auto",
        "from": "up/m1",
        "to": "up/m2",
        "state": "preparing",
        "percent": 0,
        "reason": "",
        "steps": [100],
        "step_s": 60,
        "grace_s": 30,
        "prepare_s": 600,
        "keep_conversations": False,
        "checks": 0,
        "passing": 0,
        "rollback": {
            "error_rate": 0.1,
            "p95_latency_ms": None,
            "min_requests": 20,
            "window_s": 60,
            "watch_s": 300,
        },
    }
    assert desk.get(f"{PATH}/1")["state"] == "preparing"
    assert [one["id"] for one in desk.get(PATH)["data"]] == [1]


def test_it_is_cancelled_and_then_it_is_over(desk: Desk) -> None:
    desk.post(PATH, SWAP)
    assert desk.refusal("POST", PATH, SWAP)[0] == 409
    status, _, message = desk.refusal("POST", f"{PATH}/1/rollback")
    assert (status, message) == (
        409,
        "swap 1 cannot be rolled back: it is preparing; cancel it",
    )
    assert desk.post(f"{PATH}/1/cancel")["state"] == "cancelled"
    assert desk.refusal("POST", f"{PATH}/1/cancel")[0] == 409
    assert desk.post(PATH, SWAP)["id"] == 2
    assert [one["id"] for one in desk.get(f"{PATH}?limit=1")["data"]] == [2]


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"name": "nobody"}, None, "there is no virtual model and no alias 'nobody'"),
        ({"from": "up/m2", "to": "up/m1"}, None, "'auto' does not lead to 'up/m2'"),
        ({"to": "up/m1"}, None, "from and to are both 'up/m1'"),
        ({"steps": [50]}, None, "steps: must ascend, and end with 100"),
        ({"steps": []}, "steps", "length >= 1"),
        ({"steps": [0, 100]}, "steps[0]", ">= 1"),
        ({"grace_s": -1}, "grace_s", ">= 0"),
        ({"checks": [{}]}, "prompt", "required field"),
        ({"checks": [{"prompt": "x", "matches": "("}]}, "checks[0].matches", "regular"),
        ({"checks": [{"prompt": "x"}], "passing": 2}, None, "passing: 2 checks must pass, of 1"),
        ({"rollback": {"error_rate": 1.5}}, "rollback.error_rate", "< 1"),
        ({"speed": 1}, "speed", "unknown field"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    shared_desk: Desk, changes: dict[str, Any], param: str | None, words: str
) -> None:
    status, named, message = shared_desk.refusal("POST", PATH, {**SWAP, **changes})
    assert (status, named) == (400, param)
    assert words in message
    assert shared_desk.get(PATH)["data"] == []


def test_what_is_not_there(shared_desk: Desk) -> None:
    for method, path in (("GET", ""), ("POST", "/rollback"), ("POST", "/cancel")):
        for number in ("99", "9" * 30, "x"):
            status, _, message = shared_desk.refusal(method, f"{PATH}/{number}{path}")
            assert status == 404
            assert message
    assert shared_desk.ask("POST", PATH, SWAP, token=None).status_code == 401
