"""Feedback in the ledger: beside the answer it is of, its caller's own, and summed up exactly."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.ledger import answers
from proxy.ledger.protocol import (
    MILLION,
    Done,
    Failed,
    GiveFeedback,
    Hello,
    Metric,
    Outvote,
    Prune,
    Quality,
    Reserve,
    Settle,
    Welcome,
)
from proxy.ledger.reports import attempts
from tests.proxy.ledger.making import NOON, Books, a_settlement, an_attempt

DAY_S = 86_400


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    made.close()


def _give(
    books: Books, request: str, worth: float, *, key: str = "", metric: Metric = "thumbs"
) -> object:
    return books.do(GiveFeedback(7, key, request, metric, round(worth * MILLION)))


def _welcome(books: Books) -> tuple[Quality, ...]:
    welcome = books.do(Hello("client", "c"))
    assert isinstance(welcome, Welcome)
    return welcome.quality


def test_feedback_is_kept_beside_the_attempt_that_answered(books: Books) -> None:
    failed = an_attempt(books.number(1), request_id="req_1", target="a/m")
    books.do(Reserve(1, failed))
    second = an_attempt(books.number(2), request_id="req_1", target="b/m", first=False)
    books.do(Reserve(2, second, a_settlement(failed.attempt, outcome="upstream_error")))
    assert _give(books, "req_1", 1) == Done(7, 1)  # its settlement is on its way
    assert books.ledger.take_news() == [Quality("b/m", "", 1, MILLION)]
    books.settle(2)
    assert _give(books, "req_1", 1) == Done(7, 0)
    assert books.ledger.take_news() == []
    (said,) = answers.last_feedback(books.path, 10)
    assert (said.target, said.metric, said.worth) == ("b/m", "thumbs", 1.0)


def test_the_last_word_counts_and_metrics_of_one_answer_count_once(books: Books) -> None:
    books.reserve(1, request_id="req_1")
    books.settle(1)
    _give(books, "req_1", 0)
    _give(books, "req_1", 1, metric="task_completed")
    _give(books, "req_1", 0.75, metric="score")
    _give(books, "req_1", 0.25, metric="score")
    (quality,) = answers.quality(books.path)
    assert (quality.answers, quality.worth_ppm) == (1, 1_250_000 // 3)
    assert list(_welcome(books)) == [quality]


def test_anothers_request_is_as_unknown_as_one_that_was_never_made(books: Books) -> None:
    books.reserve(1, request_id="req_1", key_id="")
    books.settle(1)
    for key, request in (("k_other", "req_1"), ("", "req_2"), ("k_other", "req_2")):
        reply = _give(books, request, 1, key=key)
        assert isinstance(reply, Failed)
        assert (reply.code, reply.message) == ("not_found", f"no request {request!r} of this key")
    assert answers.last_feedback(books.path, 10) == []


def test_what_nothing_answered_cannot_be_judged(books: Books) -> None:
    books.reserve(1, request_id="req_1")
    books.settle(1, outcome="timeout")
    reply = _give(books, "req_1", 0)
    assert isinstance(reply, Failed)
    assert reply.code == "conflict"


def test_it_goes_with_its_attempt_and_what_it_said_of_the_target_stays(books: Books) -> None:
    books.reserve(1, request_id="req_1")
    books.settle(1)
    _give(books, "req_1", 1)
    books.now = NOON + 40 * DAY_S
    assert books.do(Prune(9, int(books.now) - 2 * DAY_S)) == Done(9, 1)
    assert answers.last_feedback(books.path, 10) == []
    books.restart()
    (quality,) = _welcome(books)
    assert (quality.answers, quality.worth_ppm) == (1, MILLION)


def test_a_ledger_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    books = Books(path)
    books.reserve(1)
    books.settle(1)
    books.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE outvoted; DROP TABLE feedback; DROP TABLE quality;"
            "DROP INDEX attempts_of_requests;"
            "ALTER TABLE attempts DROP COLUMN task; PRAGMA user_version = 4;"
            "DELETE FROM _sqlite_migrations WHERE name >= '0005_feedback';"
        )
    books = Books(path)
    books.reserve(1)
    books.settle(1)
    assert len(attempts(path, 10)) == 2
    books.close()


@pytest.mark.parametrize("wanted", ["= 'req_1'", "IN (SELECT value FROM json_each('[\"req_1\"]'))"])
def test_a_request_is_found_by_an_index(books: Books, wanted: str) -> None:
    with contextlib.closing(sqlite3.connect(books.path)) as db:
        plan = db.execute(
            f"EXPLAIN QUERY PLAN SELECT target FROM spend WHERE request_id {wanted}"
        ).fetchall()
    assert "attempts_of_requests" in str(plan)
    assert "SCAN a" not in str(plan)


def test_who_was_outvoted_is_neither_judged_nor_the_answer(books: Books) -> None:
    for place, target in enumerate(("a/m", "b/m", "c/m"), 1):
        made = an_attempt(books.number(place), request_id="req_1", target=target, first=place == 1)
        books.do(Reserve(place, made))
        books.settle(place)
    assert books.do(Outvote((books.number(1), books.number(3), books.number(99)))) is None
    assert _give(books, "req_1", 0) == Done(7, 1)
    assert [said.target for said in answers.last_feedback(books.path, 10)] == ["b/m"]
    found = answers.done_for(books.path, ["req_1"])
    assert [done.target for done in found if done.is_answer] == ["b/m"]
    books.restart()
    assert _give(books, "req_1", 1, metric="score") == Done(7, 1)
    assert [quality.target for quality in _welcome(books)] == ["b/m"]
    books.now = NOON + 40 * DAY_S
    assert books.do(Prune(9, int(books.now) - 2 * DAY_S)) == Done(9, 3)


def test_what_became_of_requests_is_read_with_all_their_attempts(books: Books) -> None:
    books.reserve(1, request_id="req_1")
    books.settle(1, outcome="timeout")
    books.reserve(2, request_id="req_1", first=False)
    books.settle(2, cost=7)
    books.reserve(3, request_id="req_2")
    books.settle(3)
    books.reserve(4, request_id="req_3")  # open still
    found = answers.done_for(books.path, ["req_1", "req_3", "req_unknown"])
    assert [(done.number, done.outcome, done.is_answer) for done in found] == [
        (1, "timeout", False),
        (2, "ok", True),
    ]
    assert (found[1].cost_nanousd, found[1].usage.output_tokens) == (7, 7)
    assert [done.request_id for done in answers.done(books.path, 0, None)] == [
        "req_1",
        "req_1",
        "req_2",
    ]
    assert list(answers.done(books.path, 0, NOON)) == []


METRICS = get_args(Metric)


class Judging(RuleBasedStateMachine):
    """Any order of words, settlements and restarts: the sums are those of the last words."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.folder.name) / "ledger.db")
        self.requests: list[tuple[int, str]] = []
        self.settled: set[int] = set()
        self.said: dict[int, dict[str, int]] = {}

    def teardown(self) -> None:
        self.books.close()
        self.folder.cleanup()

    @rule(name=st.sampled_from(["a/m", "b/m"]))
    def ask(self, name: str) -> None:
        number = len(self.requests) + 1
        self.books.reserve(number, request_id=f"req_{number}", target=name)
        self.requests.append((number, name))

    @rule(data=st.data(), metric=st.sampled_from(METRICS), worth=st.integers(0, MILLION))
    def judge(self, data: st.DataObject, metric: Metric, worth: int) -> None:
        if not self.requests:
            return
        number, _ = data.draw(st.sampled_from(self.requests))
        reply = self.books.do(GiveFeedback(1, "", f"req_{number}", metric, worth))
        assert isinstance(reply, Done)
        self.said.setdefault(number, {})[metric] = worth

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        open_ones = [number for number, _ in self.requests if number not in self.settled]
        if open_ones:
            number = data.draw(st.sampled_from(open_ones))
            settlement = a_settlement(self.books.number(number))
            self.books.do(Settle(number, settlement))
            self.settled.add(number)

    @rule()
    def restart(self) -> None:
        self.books.restart()

    @invariant()
    def sums_are_those_of_the_last_words(self) -> None:
        expected: dict[str, tuple[int, Fraction]] = {}
        for number, target in self.requests:
            words = self.said.get(number)
            if words:
                answers_, worth = expected.get(target, (0, Fraction()))
                mean = Fraction(sum(words.values()) // len(words))
                expected[target] = (answers_ + 1, worth + mean)
        found = {q.target: (q.answers, Fraction(q.worth_ppm)) for q in _welcome(self.books)}
        assert found == expected


TestJudging = Judging.TestCase
TestJudging.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
