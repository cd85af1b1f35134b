"""Requests are written down only where the operator wants it, and forgotten in any case."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.base import Denial
from proxy import config_file, request_store, serve
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.config import Circuit, Logging
from proxy.figures import Figures
from proxy.price_book import PriceBook
from proxy.request_recorder import RequestRecorder
from proxy.request_store import FILE, RequestStore
from proxy.routing import Router
from proxy.wishes import NO_WISHES
from tests.proxy.test_routing import CONFIG, _parsed

CANARY = "zqxjkv-canary-0815"
DAY_S = 86_400


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def router(tmp_path: Path) -> Router:
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    table = serve.resolve(config_file.load(file, {}), {}, PriceBook.load(), looks=False).tables
    clock = SystemClock()
    return Router(
        table=table,
        figures=Figures(clock),
        circuits=Circuits(Circuit(), clock),
        secret=b"key",
        clock=clock,
    )


def _recorder(folder: Path, clock: Hand, **settings: Any) -> RequestRecorder:
    folder.mkdir(exist_ok=True)
    return RequestRecorder(RequestStore(folder), Logging(**settings), b"key", clock)


def _add(recorder: RequestRecorder, router: Router, model: str, name: str, **body: Any) -> None:
    request = _parsed(model, f"Write a poem about {CANARY}", **body)
    decision = router.decide(router.find(ANONYMOUS, model), request)
    recorder.add(
        decision,
        request,
        request_id=name,
        key_id="",
        scopes=("global",),
        wishes=NO_WISHES,
        tier="",
        swap=None,
    )


@pytest.mark.parametrize("prompts", [True, False])
def test_features_are_always_whole_and_prompts_only_where_they_are_asked_for(
    tmp_path: Path, router: Router, prompts: bool
) -> None:
    folder = tmp_path / "data"

    async def write() -> None:
        recorder = _recorder(folder, Hand(), requests=True, prompts=prompts)
        for model in ("ordered", "weighted", "up/a"):  # reads no prompt; reads it; no choice
            _add(recorder, router, model, f"req_{model}")
        recorder.close()

    asyncio.run(write())
    found = list(request_store.read(folder))
    assert [asked.request_id for asked, _ in found] == ["req_ordered", "req_weighted"]
    for asked, prompt in found:
        assert asked.analysis is not None
        assert asked.analysis.task == "creative"
        assert len(asked.readings) == 2
        assert (prompt is not None) is prompts
    on_disk = b"".join(path.read_bytes() for path in folder.iterdir())
    assert (CANARY.encode() in on_disk) is prompts


def test_what_no_target_takes_is_written_down_too(tmp_path: Path, router: Router) -> None:
    async def write() -> None:
        recorder = _recorder(tmp_path / "data", Hand(), requests=True)
        request = _parsed("ordered", "x" * 400_000)
        decision = router.decide(router.find(ANONYMOUS, "ordered"), request)
        assert isinstance(decision.outcome, Denial)
        _add(recorder, router, "ordered", "req_1", max_tokens=1)
        recorder.add(
            decision,
            request,
            request_id="req_2",
            key_id="",
            scopes=(),
            wishes=NO_WISHES,
            tier="",
            swap=None,
        )
        recorder.close()

    asyncio.run(write())
    found = [asked.target for asked, _ in request_store.read(tmp_path / "data")]
    assert found == ["up/b", ""]


@pytest.mark.parametrize("still_on", [True, False])
def test_all_of_it_is_gone_after_its_days_also_where_nothing_is_written_any_more(
    tmp_path: Path, router: Router, still_on: bool
) -> None:
    folder, clock = tmp_path / "data", Hand()

    async def live() -> None:
        recorder = _recorder(folder, clock, requests=True, prompts=True, days=7)
        _add(recorder, router, "ordered", "req_1")
        recorder.close()
        clock.now += 8 * DAY_S
        later = _recorder(folder, clock, requests=still_on, days=7)
        clock.now -= 2 * DAY_S
        await later.tidy()
        assert any(CANARY.encode() in path.read_bytes() for path in folder.iterdir())
        clock.now += 2 * DAY_S
        await later.tidy()
        assert not any(CANARY.encode() in path.read_bytes() for path in folder.iterdir())
        later.close()

    asyncio.run(live())
    assert list(request_store.read(folder)) == []


def test_a_disk_that_does_not_take_it_is_told_of_once(
    tmp_path: Path, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / FILE).mkdir()  # no file can be there

    async def write() -> None:
        recorder = _recorder(folder, Hand(), requests=True)
        for _ in range(2):
            _add(recorder, router, "ordered", "req_1")
            recorder._write()
        recorder.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(write())
    (record,) = caplog.records
    assert record.message.startswith("requests are not written down: ")
