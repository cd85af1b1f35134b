"""Swaps in real processes: nothing is cut, nothing half moves, and nothing is lost by a kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from tests.e2e.tollway import ADMIN_TOKEN, Tollway, events, serving
from tests.waiting import is_alive, until

WAIT_S = 60.0

OLD_SAYS = "the old one says so, and goes on for a while until it has said it all"
NEW_SAYS = "the new one says so, and goes on for a while until it has said it all"


def script(text: str) -> dict[str, Any]:
    return {
        "models": ["m"],
        "replies": [
            {"when": "slowly", "text": text, "tokens_per_s": 12},
            {"when": "never", "text": text, "first_token_s": 600},
            {"when": "json", "text": '{"sure": "yes"}'},
            {"text": text},
        ],
    }


SCRIPTS = {
    "old": script(OLD_SAYS),
    "new": script(NEW_SAYS),
    "broken": {
        "models": ["m"],
        "replies": [
            {"when": "check", "text": "all is well"},
            {"fault": {"kind": "status", "status": 503}},
        ],
    },
    "picky": {
        "models": ["m"],
        "replies": [
            {"when": "red", "fault": {"kind": "status", "status": 400, "message": "\x1b[31mred"}},
            {"fault": {"kind": "status", "status": 400, "message": "your own fault"}},
        ],
    },
    "sluggish": {"models": ["m"], "replies": [{"text": "well", "first_token_s": 0.3}]},
}


def config(folder: Path, **scripts: dict[str, Any]) -> dict[str, Any]:
    """A provider for each script, each with a model `m`; `auto` and `alias` lead to `old/m`."""
    providers, targets = {}, []
    for name, script in scripts.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(script))
        providers[name] = {"adapter": "scripted", "script": str(path)}
        target: dict[str, Any] = {"target": f"{name}/m", "price": {"input": 1, "output": 2}}
        targets.append({**target, "alias": ["nick"]} if name == "old" else target)
    return {
        "providers": providers,
        "targets": targets,
        "models": {"auto": {"targets": ["old/m"]}},
        "discover": False,
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    folder = tmp_path_factory.mktemp("swaps")
    with serving(folder, config(folder, **SCRIPTS), "--workers", "2") as up:
        yield up


def swap(running: Tollway, name: str, source: str, target: str, **more: Any) -> int:
    body = {"name": name, "from": source, "to": target, "grace_s": 3600, **more}
    return int(running.admin("POST", "/swaps", body)["id"])


def state_of(running: Tollway, number: int) -> str:
    return str(running.admin("GET", f"/swaps/{number}")["state"])


def reaches(running: Tollway, number: int, *states: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = running.admin("GET", f"/swaps/{number}")
        return shown if shown["state"] in states else None

    found = until(look, told=lambda: f"{states}: {running.admin('GET', f'/swaps/{number}')}")
    assert found is not None
    return found


def models_of(running: Tollway, model: str = "auto", **body: Any) -> set[str]:
    """The targets that a dozen requests go to, each over a connection of its own."""
    replies = [running.chat(model, **body) for _ in range(12)]
    assert all(reply.status_code == 200 for reply in replies), replies[0].text
    return {reply.headers["x-tollway-model"] for reply in replies}


@pytest.fixture
def tidy(running: Tollway) -> Iterator[Tollway]:
    """A server on which every name leads to where it led before, also afterwards."""
    yield running
    for shown in running.admin("GET", "/swaps")["data"]:
        if shown["state"] in ("preparing", "shifting", "draining"):
            running.admin("POST", f"/swaps/{shown['id']}/cancel")
        elif shown["state"] == "completed":
            running.admin("POST", f"/swaps/{shown['id']}/rollback")
    until(lambda: models_of(running) == {"old/m"})


def test_a_virtual_model_moves_and_comes_back(tidy: Tollway) -> None:
    assert models_of(tidy) == {"old/m"}
    number = swap(tidy, "auto", "old/m", "new/m", grace_s=1)
    until(lambda: models_of(tidy) == {"new/m"})
    assert tidy.chat().headers["x-tollway-swap"] == str(number)
    assert tidy.get("/v1/models/auto").json()["targets"][0] == "new/m"
    shown = reaches(tidy, number, "completed")
    states = [event["state"] for event in shown["events"]]
    assert states == ["preparing", "shifting", "draining", "completed"]
    assert models_of(tidy) == {"new/m"}
    assert tidy.admin("POST", f"/swaps/{number}/rollback")["state"] == "rolled_back"
    until(lambda: models_of(tidy) == {"old/m"})
    assert "x-tollway-swap" not in tidy.chat().headers


def test_an_alias_moves_and_its_target_does_not(tidy: Tollway) -> None:
    number = swap(tidy, "nick", "old/m", "new/m", grace_s=0)
    reaches(tidy, number, "completed")
    until(lambda: models_of(tidy, "nick") == {"new/m"})
    assert models_of(tidy, "old/m") == {"old/m"}
    assert models_of(tidy) == {"old/m"}


def test_one_swap_after_the_other_is_taken_back_in_the_other_order(tidy: Tollway) -> None:
    first = swap(tidy, "auto", "old/m", "new/m", grace_s=0)
    reaches(tidy, first, "completed")
    second = swap(tidy, "auto", "new/m", "sluggish/m", grace_s=0)
    reaches(tidy, second, "completed")
    until(lambda: models_of(tidy) == {"sluggish/m"})
    refused = admin(tidy, "POST", f"/swaps/{first}/rollback")
    assert refused.status_code == 409
    assert f"swap {second} moved 'auto' after swap {first}" in refused.text
    tidy.admin("POST", f"/swaps/{second}/rollback")
    until(lambda: models_of(tidy) == {"new/m"})


def test_a_share_is_moved_first_and_then_the_rest(tidy: Tollway) -> None:
    number = swap(tidy, "auto", "old/m", "new/m", steps=[50, 100], step_s=600)
    reaches(tidy, number, "shifting")
    until(lambda: models_of(tidy) == {"old/m", "new/m"})
    tidy.admin("POST", f"/swaps/{number}/cancel")
    until(lambda: models_of(tidy) == {"old/m"})


# --- under load ----------------------------------------------------------------------------------


async def stream(url: str, model: str) -> str:
    """The text of one stream over a connection of its own; fails unless it came in full."""
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "Say it slowly"}],
    }
    async with httpx2.AsyncClient(timeout=120) as client:
        reply = await client.post(f"{url}/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    found = events(reply.text)
    assert found[-1] == "[DONE]", reply.text
    parts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in found[:-1]]
    return "".join(parts)


def test_no_stream_is_cut_and_each_is_wholly_of_one_target(tidy: Tollway) -> None:
    """Fifty streams begin one after the other while requests move to and fro."""

    async def load() -> list[str]:
        async with asyncio.TaskGroup() as group:
            streams = []
            for number in range(50):
                streams.append(group.create_task(stream(tidy.url, "auto")))
                if number == 10:
                    moving = swap(tidy, "auto", "old/m", "new/m", steps=[50, 100], step_s=1)
                if number == 40:
                    await asyncio.to_thread(reaches, tidy, moving, "draining")
                    await asyncio.to_thread(tidy.admin, "POST", f"/swaps/{moving}/rollback")
                await asyncio.sleep(0.05)
        return [done.result() for done in streams]

    texts = asyncio.run(load())
    assert set(texts) == {OLD_SAYS, NEW_SAYS}


# --- what takes a swap back ----------------------------------------------------------------------


def test_a_target_that_fails_is_left_again_and_nobody_sees_it(tidy: Tollway) -> None:
    rollback = {"error_rate": 0.05, "min_requests": 5}
    number = swap(tidy, "auto", "old/m", "broken/m", rollback=rollback)
    reaches(tidy, number, "draining")

    def rolled_back() -> bool:
        assert models_of(tidy) == {"old/m"}  # it answers behind the one that fails
        return state_of(tidy, number) == "rolled_back"

    until(rolled_back)
    shown = tidy.admin("GET", f"/swaps/{number}")
    assert "attempts failed; at most 5.0% may fail" in shown["reason"]
    alert = next(a for a in tidy.admin("GET", "/alerts")["data"] if a["kind"] == "swap")
    assert alert["subject"] == "auto"
    assert f"swap {number} of auto from old/m to broken/m was rolled back" in alert["text"]


def test_a_target_that_is_slow_is_left_again(tidy: Tollway) -> None:
    rollback = {"p95_latency_ms": 100, "min_requests": 5}
    number = swap(tidy, "auto", "old/m", "sluggish/m", grace_s=0, rollback=rollback)
    reaches(tidy, number, "completed")  # it is watched for longer than it drains

    def rolled_back() -> bool:
        tidy.chat()
        return state_of(tidy, number) == "rolled_back"

    until(rolled_back)
    assert "p95 latency" in tidy.admin("GET", f"/swaps/{number}")["reason"]


def test_what_callers_do_wrong_takes_nothing_back(tidy: Tollway) -> None:
    rollback = {"error_rate": 0.05, "min_requests": 2}
    number = swap(tidy, "auto", "old/m", "picky/m", grace_s=600, rollback=rollback)
    reaches(tidy, number, "draining")
    until(lambda: tidy.chat().status_code == 400)
    assert {tidy.chat().status_code for _ in range(12)} == {400}
    tidy.rows()  # all of it is settled
    assert state_of(tidy, number) == "draining"


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ({"contains": "Paris"}, "'Paris' is not in the answer"),
        ({"contains": ["new", "Paris"]}, "'Paris' is not in the answer"),
        ({"matches": "^old"}, "'^old' does not match the answer"),
        ({"json": True}, "the answer 'the new one"),
        ({"max_cost_usd": 0}, "the answer cost"),
    ],
)
def test_a_check_that_fails_keeps_everything_where_it_is(
    tidy: Tollway, check: dict[str, Any], problem: str
) -> None:
    number = swap(tidy, "auto", "old/m", "new/m", checks=[{"prompt": "Say it", **check}])
    shown = reaches(tidy, number, "failed", "shifting", "draining")
    assert shown["state"] == "failed"
    assert f"0 of 1 checks passed, 1 must: check 1: {problem}" in shown["reason"]
    assert [event["state"] for event in shown["events"]] == ["preparing", "failed"]
    assert models_of(tidy) == {"old/m"}


def test_a_slow_answer_fails_its_check(tidy: Tollway) -> None:
    checks = [{"prompt": "Say it", "max_latency_ms": 100}]
    number = swap(tidy, "auto", "old/m", "sluggish/m", checks=checks)
    assert "at most 100 ms may" in reaches(tidy, number, "failed")["reason"]


def test_an_answer_must_fit_a_schema(tidy: Tollway) -> None:
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    checks = [{"prompt": "as json", "json_schema": schema}]
    number = swap(tidy, "auto", "old/m", "new/m", checks=checks)
    reason = reaches(tidy, number, "failed")["reason"]
    assert "does not fit the schema: $.sure: 'yes' is not of type 'boolean'" in reason


def test_checks_are_attempts_like_any_other_and_some_may_fail(tidy: Tollway) -> None:
    checks = [
        {"prompt": "Say it", "contains": "new", "matches": "n[e]w", "max_cost_usd": 1},
        {"prompt": "Say it", "contains": "Paris"},
        {"prompt": "as json", "json": True},
    ]
    number = swap(tidy, "auto", "old/m", "new/m", checks=checks, passing=2)
    reaches(tidy, number, "draining")
    tidy.rows()
    rows = tidy.query(f"SELECT * FROM spend WHERE scopes LIKE '%\"tag:swap:{number}\"%'")
    assert [(row["target"], row["outcome"], row["key_id"]) for row in rows] == [
        ("new/m", "ok", "")
    ] * 3
    assert all(row["cost_nanousd"] > 0 for row in rows)


# --- conversations -------------------------------------------------------------------------------


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_conversations_keep_their_model_until_the_grace_is_over(tidy: Tollway) -> None:
    number = swap(tidy, "auto", "old/m", "new/m", keep_conversations=True)
    reaches(tidy, number, "draining")
    until(lambda: models_of(tidy) == {"new/m"})
    began_before = turns("An old story", "Once upon a time", "Go on")
    assert models_of(tidy, messages=began_before) == {"old/m"}
    assert models_of(tidy, messages=turns("A new story")) == {"new/m"}
    # Both workers know of it, whichever it began at.
    assert models_of(tidy, messages=turns("A new story", "Well", "Go on")) == {"new/m"}
    named = {"x-tollway-conversation": "c-1"}
    assert models_of(tidy, messages=began_before, headers=named) == {"old/m"}
    assert models_of(tidy, messages=turns("Anything"), headers=named) == {"new/m"}
    assert models_of(tidy, messages=began_before, headers=named) == {"new/m"}
    for worker in tidy.workers():
        kill(tidy, worker)
    assert models_of(tidy, messages=turns("A new story", "Well", "Go on")) == {"new/m"}
    kill(tidy, tidy.ledger())
    assert models_of(tidy, messages=turns("A new story", "Well", "Go on")) == {"new/m"}
    for worker in tidy.workers():
        kill(tidy, worker)
    assert models_of(tidy, messages=turns("A new story", "Well", "Go on")) == {"new/m"}
    assert models_of(tidy, messages=began_before) == {"old/m"}


# --- kill -9 -------------------------------------------------------------------------------------


def kill(running: Tollway, victim: psutil.Process) -> None:
    """Kill a process, and wait until another has taken its place."""
    before = len(running.children())
    victim.kill()
    until(lambda: not is_alive(victim.pid))
    until(lambda: len(running.children()) == before)
    running.ledger()
    until(lambda: is_ready(running), told="every worker serves again")


def is_ready(running: Tollway) -> bool:
    try:
        return all(running.get("/readyz").status_code == 200 for _ in range(8))
    except httpx2.TransportError:
        return False


IN_STATES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("shifting", {"steps": [50, 100], "step_s": 3600}, {"old/m", "new/m"}),
    ("draining", {"grace_s": 3600}, {"new/m"}),
    ("completed", {"grace_s": 0}, {"new/m"}),
]


@pytest.mark.parametrize("victim", ["ledger", "worker"])
def test_a_swap_outlives_whoever_is_killed_in_whatever_state_it_is(
    tidy: Tollway, victim: str
) -> None:
    def kill_them() -> None:
        for one in [tidy.ledger()] if victim == "ledger" else tidy.workers():
            kill(tidy, one)

    slow = [{"prompt": "Say it slowly", "contains": "new"}]
    number = swap(tidy, "auto", "old/m", "new/m", grace_s=3600, checks=slow)
    kill_them()
    reaches(tidy, number, "draining")  # whoever came after them has made the checks
    tidy.admin("POST", f"/swaps/{number}/cancel")
    kill_them()
    until(lambda: models_of(tidy) == {"old/m"})
    for state, settings, targets in IN_STATES:
        number = swap(tidy, "auto", "old/m", "new/m", **settings)
        reaches(tidy, number, state)
        kill_them()
        assert state_of(tidy, number) == state
        until(lambda expected=targets: models_of(tidy) == expected, told=state)
        take_back = "rollback" if state == "completed" else "cancel"
        tidy.admin("POST", f"/swaps/{number}/{take_back}")


def test_a_swap_that_is_not_prepared_in_time_fails(tidy: Tollway) -> None:
    checks = [{"prompt": "never"}]
    number = swap(tidy, "auto", "old/m", "new/m", prepare_s=2, checks=checks)
    for worker in tidy.workers():
        kill(tidy, worker)
    assert reaches(tidy, number, "failed")["reason"] == "it was not prepared within 2 s"
    assert models_of(tidy) == {"old/m"}


def test_what_was_swapped_stays_so_over_a_restart_until_the_configuration_forgets_it(
    tmp_path: Path,
) -> None:
    made = config(tmp_path, **SCRIPTS)
    with serving(tmp_path, made) as first:
        number = swap(first, "auto", "old/m", "new/m", grace_s=0)
        reaches(first, number, "completed")
    with serving(tmp_path, made) as second:
        assert models_of(second) == {"new/m"}
        assert "has no effect" not in second.log()
    made["models"]["auto"]["targets"] = ["sluggish/m"]
    with serving(tmp_path, made) as third:
        assert models_of(third) == {"sluggish/m"}
        assert f"swap {number} of auto has no effect" in third.log()
        done = third.cli("swap", "--rollback", str(number))
        assert done.stdout == f"swap {number} of auto is rolled back\n"
    with serving(tmp_path, made) as fourth:
        assert "has no effect" not in fourth.log()


# --- refusals ------------------------------------------------------------------------------------


def admin(running: Tollway, method: str, path: str, body: Any = None) -> httpx2.Response:
    return httpx2.request(
        method,
        f"{running.url}/admin/v1{path}",
        json=body,
        headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        timeout=30,
    )


def test_only_one_swap_of_a_name_at_a_time(tidy: Tollway) -> None:
    number = swap(tidy, "auto", "old/m", "new/m")
    other = {"name": "auto", "from": "old/m", "to": "broken/m"}
    reaches(tidy, number, "draining")
    refused = admin(tidy, "POST", "/swaps", {**other, "from": "new/m"})
    assert refused.status_code == 409
    assert f"swap {number} of 'auto' is under way" in refused.json()["error"]["message"]
    assert admin(tidy, "POST", "/swaps", {**other, "name": "nick"}).status_code == 202


def test_the_command_line_moves_and_shows(tidy: Tollway, tmp_path: Path) -> None:
    (tmp_path / "checks.yaml").write_text("- {prompt: Say it, contains: new}\n")
    done = tidy.cli(
        *[
            "swap",
            "auto",
            "--from",
            "old/m",
            "--to",
            "new/m",
            "--grace",
            "1",
            "--follow",
            "--checks",
        ],
        str(tmp_path / "checks.yaml"),
    )
    assert done.returncode == 0, done.stderr
    said = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert said == ["preparing", "shifting, 100 %", "draining", "completed"]
    number = done.stdout.split()[1].rstrip(":")
    shown = json.loads(tidy.cli("swaps", "--json").stdout)[0]
    assert (str(shown["swap_id"]), shown["state"]) == (number, "completed")
    assert "completed" in tidy.cli("swaps").stdout
    assert "draining" in tidy.cli("swaps", number).stdout
    again = tidy.cli("swap", "--cancel", number)
    assert again.returncode == 2
    assert again.stderr == f"tollway: swap {number} cannot be cancelled: it is completed\n"
    (tmp_path / "checks.yaml").write_text("- {prompt: Say it, contains: Paris}\n")
    failed = tidy.cli(
        *["swap", "auto", "--from", "new/m", "--to", "old/m", "--checks"],
        str(tmp_path / "checks.yaml"),
    )
    assert failed.returncode == 2
    assert "0 of 1 checks passed" in failed.stderr


def test_what_a_provider_says_does_not_reach_the_terminal_as_a_command(
    tidy: Tollway, tmp_path: Path
) -> None:
    (tmp_path / "checks.yaml").write_text("- {prompt: red}")
    order = "swap auto --from old/m --to picky/m --checks"
    failed = tidy.cli(*order.split(), str(tmp_path / "checks.yaml"))
    assert "\\x1b[31mred" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("swap", "swap: give NAME --from TARGET --to TARGET; see 'tollway swap --help'"),
        ("swap auto --from old/m", "swap: give NAME --from TARGET --to TARGET"),
        ("swap auto --rollback 1", "swap: give a name, or --rollback ID, or --cancel ID"),
        ("swap --rollback 999", "no swap 999"),
        ("swap --cancel 0", "swap: 0 is no number of a swap"),
        (f"swap --rollback {10**20}", f"swap: {10**20} is no number of a swap"),
        ("swap auto --from old/m --to new/m --steps ten", "--steps: 'ten' are no percents"),
        ("swap auto --from old/m --to new/m --steps 50", "steps: must ascend, and end with 100"),
        ("swap auto --from old/m --to old/m", "from and to are both 'old/m'"),
        ("swap auto --from old/m --to new/m --checks /nowhere", "/nowhere: cannot be read"),
        ("swap nobody --from old/m --to new/m", "there is no virtual model and no alias 'nobody'"),
        ("swaps 999", "there is no swap 999; see 'tollway swaps'"),
    ],
)
def test_what_the_command_line_refuses(tidy: Tollway, arguments: str, problem: str) -> None:
    done = tidy.cli(*arguments.split())
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_can_be_moved_where_no_server_runs(tmp_path: Path) -> None:
    stopped = Tollway(tmp_path, config(tmp_path, **SCRIPTS))
    done = stopped.cli("swap", "auto", "--from", "old/m", "--to", "new/m")
    assert done.returncode == 2
    assert "no server runs there" in done.stderr
