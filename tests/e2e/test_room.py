"""A target that has too much to do: who waits, for how long, and who goes before whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx2

from proxy.ledger.audit import audit
from tests.e2e.raw import connect, post
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, answer_ok
from tests.waiting import until


class Bottleneck:
    """Answers one request at a time, in the order in which they come, once it is told to begin."""

    def __init__(self) -> None:
        self.begin = asyncio.Event()
        self._turn = asyncio.Lock()
        self.most = 0
        self._open = 0

    async def __call__(self, call: Call, line: Line) -> None:
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            async with self._turn:
                await self.begin.wait()
                await asyncio.sleep(0.05)
        finally:
            self._open -= 1
        await answer_ok(call, line)


def _key(tollway: Tollway, name: str) -> tuple[str, str]:
    made = tollway.admin("POST", "/keys", {"name": name})
    return made["id"], made["key"]


def _until_waiting(tollway: Tollway, count: int) -> None:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    wanted = f'tollway_queued_requests{{target="up/m1"}} {count}.0'
    until(lambda: wanted in tollway.get("/metrics", headers=headers).text)


def _chat(tollway: Tollway, key: str, text: str, **headers: str) -> httpx2.Response:
    return tollway.chat(
        "up/m1",
        messages=[{"role": "user", "content": text}],
        headers={"authorization": f"Bearer {key}", **headers},
    )


def _texts(upstream: Upstream) -> list[str]:
    return [call.body["messages"][0]["content"] for call in upstream.calls]


def _config(upstream: Upstream, **adaptive: Any) -> dict[str, Any]:
    return provider(upstream.base_url, "m1", "m2", adaptive=adaptive)


def test_a_flood_by_one_key_does_not_starve_another(upstream: Upstream, tmp_path: Path) -> None:
    narrow = Bottleneck()
    upstream.scripts["m1"] = narrow
    config = _config(upstream, first=2, most=2, queue=10, queue_s=60)
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(50) as pool:
        (_, flooding), (_, other) = _key(tollway, "flooding"), _key(tollway, "other")
        flood = [pool.submit(_chat, tollway, flooding, "flood") for _ in range(12)]
        _until_waiting(tollway, 10)
        waiting = pool.submit(_chat, tollway, other, "other")
        lost, _ = wait(flood, 30, FIRST_COMPLETED)
        assert [future.result().status_code for future in lost] == [503]
        upstream.in_loop(narrow.begin.set)
        assert waiting.result().status_code == 200
        statuses = Counter(future.result().status_code for future in flood)
    # Two were being answered, and one had its turn before.
    assert _texts(upstream).index("other") == 3
    assert statuses == {200: 11, 503: 1}
    assert narrow.most == 2


def test_who_waits_too_long_goes_to_the_next_target_or_is_refused(
    upstream: Upstream, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await release.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    config = _config(upstream, first=1, most=1, queue_s=0.3)
    config["models"]["two"] = {"targets": ["up/m1", "up/m2"]}
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(2) as pool:
        first = pool.submit(tollway.chat, "two")
        upstream.wait_for_calls(1)
        refused = tollway.chat("up/m1")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "'up/m1' has as many requests as it takes" in refused.json()["error"]["message"]
        assert tollway.chat("two").headers["x-tollway-model"] == "up/m2"
        upstream.in_loop(release.set)
        assert first.result().headers["x-tollway-model"] == "up/m1"
        # Nothing was held for who waited in vain.
        assert [row["target"] for row in tollway.rows(2)] == ["up/m1", "up/m2"]


def test_nobody_waits_for_a_place_longer_than_until_its_deadline(
    upstream: Upstream, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await release.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    config = _config(upstream, first=1, most=1, queue_s=600)
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(1) as pool:
        first = pool.submit(tollway.chat, "up/m1")
        upstream.wait_for_calls(1)
        late = tollway.chat("up/m1", headers={"x-tollway-deadline-ms": "300"})
        assert late.status_code == 504
        assert "0.3 s (x-tollway-deadline-ms)" in late.json()["error"]["message"]
        _until_waiting(tollway, 0)
        upstream.in_loop(release.set)
        assert first.result().status_code == 200
        assert [row["outcome"] for row in tollway.rows(1)] == ["ok"]
        assert len(upstream.calls) == 1


def test_who_leaves_the_queue_leaves_no_gap_in_it(upstream: Upstream, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await release.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    body = b'{"model": "up/m1", "messages": [{"role": "user", "content": "left"}]}'
    config = _config(upstream, first=1, most=1, queue_s=600)
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(2) as pool:
        first = pool.submit(tollway.chat, "up/m1")
        upstream.wait_for_calls(1)
        with connect(tollway) as leaving:
            leaving.send(post(body))
            _until_waiting(tollway, 1)
        _until_waiting(tollway, 0)
        last = pool.submit(tollway.chat, "up/m1")
        _until_waiting(tollway, 1)
        upstream.in_loop(release.set)
        assert {first.result().status_code, last.result().status_code} == {200}
        assert [row["outcome"] for row in tollway.rows(2)] == ["ok", "ok"]
        assert audit(tollway.data / "ledger.db") == []
        assert "left" not in _texts(upstream)


def test_the_urgent_go_first(upstream: Upstream, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await release.wait()
        await answer_ok(call, line)

    config = _config(upstream, first=1, most=1, queue_s=60)
    with serving(tmp_path, config) as tollway:
        keys = {name: _key(tollway, name) for name in ("batch", "plain", "urgent")}
    config["priorities"] = {
        f"key:{keys['batch'][0]}": "low",
        f"key:{keys['urgent'][0]}": "high",
    }
    upstream.scripts["m1"] = held
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(9) as pool:
        first = pool.submit(_chat, tollway, keys["plain"][1], "first")
        upstream.wait_for_calls(1)
        asked = [
            ("batch", {"x-tollway-priority": "high"}),
            ("plain", {"x-tollway-priority": "low"}),
            ("plain", {}),
            ("urgent", {"x-tollway-priority": "normal"}),
            ("urgent", {}),
        ]
        for number, (name, headers) in enumerate(asked):
            pool.submit(_chat, tollway, keys[name][1], str(number), **headers)
            _until_waiting(tollway, number + 1)
        bad = _chat(tollway, keys["plain"][1], "bad", **{"x-tollway-priority": "now"})
        assert bad.status_code == 400
        upstream.in_loop(release.set)
        first.result()
        upstream.wait_for_calls(6)
    assert _texts(upstream) == ["first", "4", "2", "3", "0", "1"]
