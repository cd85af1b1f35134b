"""Alerts from the ledger's file to a receiver, through the real processes."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Upstream
from tests.waiting import until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
COST = 11 * 1_000 + 7 * 2_000  # nano-USD of one answer of our upstream


class Inbox:
    """A receiver on a real socket; `answer` is given the number of the message, from 1."""

    def __init__(self, answer: Callable[[int], int] = lambda number: 200) -> None:
        self.messages: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.release = threading.Event()
        self.release.set()
        inbox, count = self, iter(range(1, 1_000_000))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                number = next(count)
                inbox.messages.put(({k.lower(): v for k, v in self.headers.items()}, body))
                inbox.release.wait(30)
                self.send_response(answer(number))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def next(self) -> tuple[dict[str, str], bytes]:
        return self.messages.get(timeout=20)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


def configured(upstream: Upstream, *webhooks: dict[str, Any], percents: list[int]) -> Any:
    config = provider(upstream.base_url, "m1")
    config["server"]["workers"] = 2
    config["budgets"] = [
        {"limit_usd": 0.001, "window": "lifetime", "mode": "soft", "name": "everything"},
    ]
    config["alerts"] = {"percents": percents, "webhooks": list(webhooks)}
    return config


def percent_of(requests: int) -> int:
    return requests * COST * 100 // 1_000_000


def deliveries(tollway: Tollway) -> dict[str, float]:
    text = tollway.get("/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).text
    found = re.findall(r'tollway_(alert_deliveries|alerts)_total\{\w+="(\w+)"\} ([\d.]+)', text)
    return {f"{name} {label}": float(value) for name, label, value in found}


def undelivered(tollway: Tollway) -> int:
    return len(tollway.query("SELECT id FROM alerts WHERE delivered_at IS NULL"))


def test_a_budget_that_is_used_up_is_told_once_signed_and_logged(
    upstream: Upstream, inbox: Inbox, tmp_path: Path
) -> None:
    slack = Inbox()
    config = configured(
        upstream,
        {"url": "${HOOK}", "secret": "${SECRET}"},
        {"url": slack.url, "format": "slack", "kinds": ["budget"]},
        percents=[percent_of(2)],
    )
    try:
        with serving(tmp_path, config, HOOK=inbox.url, SECRET=SECRET) as tollway:
            for _ in range(4):
                assert tollway.chat().status_code == 200
            headers, body = inbox.next()
            assert json.loads(slack.next()[1])["text"].startswith("Tollway: global has spent ")
            until(lambda: undelivered(tollway) == 0, told=tollway.log)
            counted = deliveries(tollway)
            log = tollway.log()
            (row,) = tollway.query("SELECT * FROM alerts")
    finally:
        slack.close()
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "budget.threshold"
    assert told["percent"] == percent_of(2)
    assert told["budget"]["scope"] == told["subject"] == "global"
    assert told["budget"]["name"] == "everything"
    assert round(told["amount_usd"] * 1e9) >= 2 * COST
    assert headers["webhook-id"] == told["id"] == f"alert_{row['id']}_{row['raised_at']}"
    assert inbox.messages.empty()
    assert slack.messages.empty()
    assert counted == {"alerts budget": 1, "alert_deliveries delivered": 2}
    assert log.count("alert: global has spent") == 1
    assert inbox.url not in log
    assert SECRET not in log


def test_a_message_that_is_not_taken_is_sent_again(upstream: Upstream, tmp_path: Path) -> None:
    inbox = Inbox(lambda number: 500 if number == 1 else 200)
    config = configured(upstream, {"url": inbox.url, "secret": SECRET}, percents=[percent_of(1)])
    try:
        with serving(tmp_path, config) as tollway:
            assert tollway.chat().status_code == 200
            (first, body), (second, repeated) = inbox.next(), inbox.next()
            until(lambda: undelivered(tollway) == 0, told=tollway.log)
            counted = deliveries(tollway)
    finally:
        inbox.close()
    assert body == repeated
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    Webhook(SECRET).verify(repeated, second)
    assert counted["alert_deliveries failed"] == counted["alert_deliveries delivered"] == 1


def test_what_was_not_delivered_is_delivered_after_a_restart(
    upstream: Upstream, inbox: Inbox, tmp_path: Path
) -> None:
    refusing = Inbox(lambda number: 503)
    config = configured(upstream, {"url": refusing.url, "secret": SECRET}, percents=[percent_of(1)])
    try:
        with serving(tmp_path, config) as tollway:
            assert tollway.chat().status_code == 200
            before, _ = refusing.next()
    finally:
        refusing.close()
    config["alerts"]["webhooks"][0]["url"] = inbox.url
    with serving(tmp_path, config) as tollway:
        after, body = inbox.next()
        until(lambda: undelivered(tollway) == 0, told=tollway.log)
    assert before["webhook-id"] == after["webhook-id"]
    Webhook(SECRET).verify(body, after)
    with serving(tmp_path, config) as tollway:
        assert tollway.chat().status_code == 200
        assert deliveries(tollway) == {}
    assert inbox.messages.empty()


def test_what_was_not_delivered_is_delivered_after_its_worker_was_killed(
    upstream: Upstream, inbox: Inbox, tmp_path: Path
) -> None:
    inbox.release.clear()
    config = configured(upstream, {"url": inbox.url, "secret": SECRET}, percents=[percent_of(1)])
    with serving(tmp_path, config) as tollway:
        assert tollway.chat().status_code == 200
        before, _ = inbox.next()
        for worker in tollway.workers():
            worker.kill()
        after, _ = inbox.next()
        inbox.release.set()
        until(lambda: undelivered(tollway) == 0, told=tollway.log)
    assert before["webhook-id"] == after["webhook-id"]


def test_a_receiver_that_hangs_holds_up_no_request(
    upstream: Upstream, inbox: Inbox, tmp_path: Path
) -> None:
    inbox.release.clear()
    config = configured(upstream, {"url": inbox.url, "secret": SECRET}, percents=[percent_of(1)])
    with serving(tmp_path, config) as tollway:
        assert tollway.chat().status_code == 200
        inbox.next()
        # The receiver has the message and says nothing; meanwhile both workers go on.
        with httpx2.Client(timeout=5) as client:
            for _ in range(20):
                reply = client.post(
                    f"{tollway.url}/v1/chat/completions",
                    json={"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
                    headers={"connection": "close"},
                )
                assert reply.status_code == 200
        assert undelivered(tollway) == 1
        inbox.release.set()
        until(lambda: undelivered(tollway) == 0, told=tollway.log)


def test_without_webhooks_an_alert_is_logged(upstream: Upstream, tmp_path: Path) -> None:
    config = configured(upstream, percents=[percent_of(1)])
    with serving(tmp_path, config) as tollway:
        assert tollway.chat().status_code == 200
        until(lambda: tollway.query("SELECT 1 FROM alerts WHERE delivered_at"), told=tollway.log)
        assert deliveries(tollway) == {"alerts budget": 1}
        assert tollway.log().count("alert: global has spent") == 1
