"""A target that fails is left out, tried by one at a time, and let in again when it answers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from policies.base import Candidate
from proxy.circuits import Change, Circuits, Trial
from proxy.config import Circuit
from tests.proxy.test_figures import Hands

RULES = Circuit()
A, B, C = (
    Candidate(
        name=name,
        capabilities=frozenset({"chat"}),
        context_length=None,
        input_nanousd=None,
        output_nanousd=None,
    )
    for name in ("p/a", "p/b", "q/c")
)


def _made() -> tuple[Circuits, Hands, list[Change]]:
    hands, changes = Hands(), list[Change]()
    return Circuits(RULES, hands, changes.append), hands, changes


def _fail(circuits: Circuits, target: str = "p/a", times: int = RULES.failures) -> None:
    for _ in range(times):
        circuits.begin(target).end("failed", "it broke")


def test_failures_in_a_row_put_a_target_out_and_time_puts_it_on_trial() -> None:
    circuits, hands, changes = _made()
    _fail(circuits, times=4)
    assert circuits.all_in
    _fail(circuits, times=1)
    assert circuits.is_open("p/a")
    assert not circuits.is_open("p/b")
    standing = circuits.standing("p/a")
    assert (standing.state, standing.back_in_s, standing.times) == ("out", 30, 1)
    assert standing.problem == "5 of 5 requests failed, the last: it broke"
    assert [change.is_out for change in changes] == [True]
    hands.now += 29.9
    assert circuits.is_open("p/a")
    hands.now += 0.1
    assert circuits.standing("p/a").state == "trial"
    assert not circuits.is_open("p/a")


def test_an_answer_in_between_starts_the_count_anew() -> None:
    circuits, _, changes = _made()
    for _ in range(10):
        _fail(circuits, times=4)
        circuits.begin("p/a").end("nothing")
        for _ in range(8):
            circuits.begin("p/a").end("answered")
    assert changes == []


def test_more_than_half_of_enough_requests_put_a_target_out() -> None:
    circuits, hands, _ = _made()
    for _ in range(10):
        circuits.begin("p/a").end("answered")
        circuits.begin("p/a").end("failed")
    assert circuits.all_in  # exactly half
    circuits.begin("p/a").end("failed")
    assert circuits.is_open("p/a")
    # Too few of late: what is older than the window is not counted.
    for _ in range(9):
        circuits.begin("p/b").end("failed")
        circuits.begin("p/b").end("answered")
    hands.now += RULES.window_s
    _fail(circuits, "p/b", 4)
    assert not circuits.is_open("p/b")


def test_one_at_a_time_tries_it_again() -> None:
    circuits, hands, _ = _made()
    _fail(circuits)
    hands.now += 30
    trial = circuits.begin("p/a")
    assert circuits.is_open("p/a")
    other = circuits.begin("p/a")  # one that had no other choice
    other.end("failed", "still broken")
    assert circuits.is_open("p/a")
    trial.end("nothing")  # its client left: the next one may try
    assert not circuits.is_open("p/a")
    trial = circuits.begin("p/a")
    trial.end("failed", "still broken")
    assert circuits.standing("p/a").back_in_s == 60
    hands.now += 60
    trial = circuits.begin("p/a")
    trial.answers()
    assert not circuits.is_open("p/a")
    trial.end("failed", "broke off")  # counts as any other
    assert circuits.all_in


def test_what_began_before_it_was_put_out_says_nothing_of_it_afterwards() -> None:
    circuits, hands, _ = _made()
    early = [circuits.begin("p/a") for _ in range(20)]
    _fail(circuits)
    early[0].end("answered")
    early[1].answers()
    assert circuits.is_open("p/a")
    hands.now += 30
    circuits.begin("p/a").end("answered")
    for each in early[2:]:
        each.end("failed")
    assert circuits.all_in


def test_times_out_grow_and_are_forgotten() -> None:
    circuits, hands, changes = _made()
    for _ in range(12):
        _fail(circuits)
        hands.now += circuits.standing("p/a").back_in_s
        circuits.begin("p/a").end("answered")
    outs = [change.standing.back_in_s for change in changes if change.is_out]
    assert outs == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    hands.now += 11 * 30
    _fail(circuits)
    assert circuits.standing("p/a").back_in_s == 60
    hands.now += 60
    circuits.begin("p/a").end("answered")
    hands.now += 10_000
    _fail(circuits)
    assert circuits.standing("p/a").back_in_s == 30


def test_the_last_one_is_never_left_out() -> None:
    circuits, hands, _ = _made()
    _fail(circuits, "p/a")
    hands.now += 10
    _fail(circuits, "p/b")
    kept, rejections, is_last = circuits.narrow([A, B, C])
    assert (kept, is_last) == ((C,), False)
    assert [(r.target, r.code) for r in rejections] == [("p/a", "circuit"), ("p/b", "circuit")]
    assert rejections[0].reason.startswith("left out for 20 s more: 5 of 5 requests failed")
    kept, rejections, is_last = circuits.narrow([B, A])
    assert (kept, is_last) == ((A,), True)  # the one that is back first
    circuits.hear("p", "no route to host")
    circuits.hear("q", "no route to host")
    circuits.rest("q/c", 5)
    kept, rejections, is_last = circuits.narrow([C])
    assert (kept, rejections, is_last) == ((C,), (), True)
    assert circuits.narrow([]) == ((), (), True)


def test_an_answer_to_a_last_resort_brings_it_back() -> None:
    circuits, _, _ = _made()
    for _ in range(10):
        circuits.begin("p/a").end("answered")
        circuits.begin("p/a").end("failed")
    _fail(circuits, times=1)
    assert circuits.is_open("p/a")
    circuits.begin("p/a").end("answered")
    assert circuits.all_in
    _fail(circuits, times=4)  # what was counted before does not count again
    assert circuits.all_in


def test_a_provider_that_asks_for_rest_gets_it() -> None:
    circuits, hands, changes = _made()
    circuits.rest("p/a", 7, problem="slow down")
    circuits.rest("p/a", 3, problem="slow down")
    standing = circuits.standing("p/a")
    assert (standing.state, standing.back_in_s) == ("resting", 7)
    _, (rejection,), _ = circuits.narrow([A, B])
    assert (rejection.code, rejection.reason) == (
        "resting",
        "left alone for 7 s more: slow down",
    )
    hands.now += 7
    assert not circuits.is_open("p/a")
    assert circuits.all_in
    circuits.rest("p/a", 1e9)
    assert circuits.standing("p/a").back_in_s == RULES.longest_s
    assert changes == []


def test_a_silent_provider_takes_all_its_targets_with_it() -> None:
    circuits, _, _ = _made()
    circuits.hear("p", "it cannot be reached")
    kept, rejections, _ = circuits.narrow([A, B, C])
    assert kept == (C,)
    assert {r.reason for r in rejections} == {"its provider does not answer: it cannot be reached"}
    circuits.hear("p", "")
    assert circuits.all_in


def test_a_target_is_out_where_each_of_its_keys_is() -> None:
    circuits, _, _ = _made()
    circuits.follow(Circuit(), {"p": (1, 2)})
    circuits.rest("p/a", 10, key=1)
    assert circuits.is_open("p/a", 1) and not circuits.is_open("p/a", 2)
    assert not circuits.is_open("p/a")
    circuits.rest("p/a", 20, key=2)
    assert circuits.is_open("p/a")
    assert circuits.of_target("p/a").back_in_s == 10
    circuits.follow(Circuit(), {"p": (1, 2, 3)})
    kept, _, _ = circuits.narrow([A, B])
    assert kept == (A, B)


def test_what_is_another_target_now_is_not_blamed_for_what_it_was() -> None:
    circuits, hands, changes = _made()
    _fail(circuits, "p/a")
    _fail(circuits, "q/c")
    circuits.rest("p/b", 60)
    hands.now += 30
    trial = circuits.begin("p/a")
    late = [circuits.begin("p/a") for _ in range(RULES.failures)]
    circuits.follow(RULES, {}, lambda target: target.startswith("q/"))
    assert [(change.target, change.is_out) for change in changes[2:]] == [("p/a", False)]
    assert set(circuits.troubled) == {("q/c", 0)}
    for each in (trial, *late):  # of what it was before
        each.end("failed", "it broke")
    assert circuits.standing("p/a").state == "in"
    assert len(changes) == 3
    _fail(circuits, "p/a")
    assert (circuits.standing("p/a").state, circuits.standing("p/a").times) == ("out", 1)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.circuits._MOST_KEPT", 5)
    circuits, _, _ = _made()
    _fail(circuits)
    for i in range(50):
        circuits.begin(f"p/{i}").end("answered")
    assert len(circuits._kept) <= 5
    assert circuits.is_open("p/a")


class Life(RuleBasedStateMachine):
    """Two targets under whatever befalls them, beside a plain account of what was seen."""

    trials = Bundle("trials")

    def __init__(self) -> None:
        super().__init__()
        self.hands = Hands()
        self.changes: list[Change] = []
        self.circuits = Circuits(RULES, self.hands, self.changes.append)
        self.seen: dict[str, list[tuple[float, bool]]] = {"p/a": [], "p/b": []}
        """Since it was last put out or brought in: when, and whether it failed."""
        self.trying: dict[str, Trial | None] = {"p/a": None, "p/b": None}
        self.era = {"p/a": 0, "p/b": 0}
        self.out_until = {"p/a": 0.0, "p/b": 0.0}

    def _is_out(self, target: str) -> bool:
        outs = [change.is_out for change in self.changes if change.target == target]
        return bool(outs) and outs[-1]

    @rule(target=trials, name=st.sampled_from(["p/a", "p/b"]))
    def begin(self, name: str) -> tuple[str, Trial, int, bool]:
        was_open, was_out = self.circuits.is_open(name), self._is_out(name)
        trial = self.circuits.begin(name)
        tries = was_out and not was_open
        if tries:
            assert self.trying[name] is None, "two try it at the same time"
            self.trying[name] = trial
            assert self.circuits.is_open(name)
        return name, trial, self.era[name], tries

    @rule(each=consumes(trials), verdict=st.sampled_from(["answered", "failed", "nothing"]))
    def end(self, each: tuple[str, Trial, int, bool], verdict: str) -> None:
        name, trial, era, tries = each
        before = len(self.changes)
        was_out = self._is_out(name)
        trial.end(verdict, "broken")  # type: ignore[arg-type] # one of the three
        trial.end("failed", "is not heard twice")
        if self.trying[name] is trial:
            self.trying[name] = None
        changed = self.changes[before:]
        assert len(changed) <= 1
        counts = era == self.era[name] and verdict != "nothing"
        if not counts:
            assert not changed
            return
        if was_out:
            assert bool(changed) == (verdict == "answered" or tries)
            if changed and verdict == "answered":
                self._came_in(name)
                self.seen[name].append((self.hands.now, False))
            elif changed:
                self._went_out(name, changed[0])
            return
        self.seen[name].append((self.hands.now, verdict == "failed"))
        if changed:
            assert verdict == "failed"
            self._check_reason(name)
            self._went_out(name, changed[0])
        else:
            assert not all(failed for _, failed in self.seen[name][-RULES.failures :]) or (
                len(self.seen[name]) < RULES.failures
            )

    @rule(name=st.sampled_from(["p/a", "p/b"]))
    def fail_often(self, name: str) -> None:
        """Without it few examples would put anything out."""
        for _ in range(RULES.failures):
            self.end(self.begin(name), "failed")

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.hands.now += seconds

    @invariant()
    def somebody_is_left(self) -> None:
        kept, rejections, is_last = self.circuits.narrow([A, B])
        assert kept
        assert len(kept) + len(rejections) == 2
        assert is_last == all(self.circuits.is_open(name) for name in self.seen)

    @invariant()
    def nobody_is_left_out_for_longer_than_said(self) -> None:
        for name in self.seen:
            expected = self._is_out(name) and (
                self.hands.now < self.out_until[name] or self.trying[name] is not None
            )
            assert self.circuits.is_open(name) == expected

    def _came_in(self, name: str) -> None:
        self.seen[name].clear()
        self.trying[name] = None

    def _went_out(self, name: str, change: Change) -> None:
        self.era[name] += 1
        self.trying[name] = None
        self.seen[name].clear()
        standing = change.standing
        assert standing.back_in_s == pytest.approx(
            min(RULES.out_s * standing.times, RULES.longest_s)
        )
        assert standing.times >= 1
        self.out_until[name] = self.hands.now + min(RULES.out_s * standing.times, RULES.longest_s)

    def _check_reason(self, name: str) -> None:
        seen = self.seen[name]
        if len(seen) >= RULES.failures and all(failed for _, failed in seen[-RULES.failures :]):
            return
        # The window goes on by a tenth at a time.
        part_s = RULES.window_s / 10
        first = int(self.hands.now / part_s) - 9
        recent = [failed for at, failed in seen if int(at / part_s) >= first]
        assert len(recent) >= RULES.least_requests
        assert sum(recent) * 100 > len(recent) * RULES.percent


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_figures_of_ones_own() -> None:
    hands = Hands()
    circuits = Circuits(Circuit(failures=2, out_s=1.0, longest_s=1.5), hands)
    _fail(circuits, times=2)
    hands.now += 1
    assert circuits.standing("p/a").state == "trial"
    _fail(circuits, times=1)
    assert circuits.standing("p/a").back_in_s == 1.5
