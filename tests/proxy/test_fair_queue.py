"""The most urgent first, callers in turn, and whoever floods the queue loses what it put there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.fair_queue import RANKS, FairQueue, Priority

MOST = 8
_CALLERS = st.sampled_from(["a", "b", "c"])
_PRIORITIES: st.SearchStrategy[Priority] = st.sampled_from(["high", "normal", "low"])


@dataclass(frozen=True)
class Waiting:
    number: int
    caller: str
    priority: Priority
    rank: int = field(compare=False, default=0)


class Queue(RuleBasedStateMachine):
    """Beside a plain list of those that wait, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Waiting] = FairQueue(MOST)
        self.there: list[Waiting] = []
        self.number = 0
        self.passed_over: Counter[tuple[int, str, str]] = Counter()
        """By rank: how often one caller went while another waited."""

    @rule(caller=_CALLERS, priority=_PRIORITIES)
    def put(self, caller: str, priority: Priority) -> None:
        self.number += 1
        item = Waiting(self.number, caller, priority, RANKS[priority])
        self.there.append(item)
        lost = self.queue.put(item, caller, priority)
        assert (lost is not None) == (len(self.there) > MOST)
        if lost is not None:
            last = max(each.rank for each in self.there)
            assert lost.rank == last
            counts = Counter(each.caller for each in self.there if each.rank == last)
            assert counts[lost.caller] == max(counts.values())
            own = [e for e in self.there if (e.rank, e.caller) == (lost.rank, lost.caller)]
            assert lost == own[-1]
            self.there.remove(lost)
            self._forget(lost)

    @rule()
    def take(self) -> None:
        item = self.queue.take()
        assert (item is None) == (not self.there)
        if item is None:
            return
        assert item.rank == min(each.rank for each in self.there)
        same = [each for each in self.there if each.rank == item.rank]
        assert item == next(each for each in same if each.caller == item.caller)
        for other in {each.caller for each in same} - {item.caller}:
            self.passed_over[item.rank, other, item.caller] += 1
            assert self.passed_over[item.rank, other, item.caller] <= 1, "not in turn"
        for key in [k for k in self.passed_over if k[:2] == (item.rank, item.caller)]:
            del self.passed_over[key]
        self.there.remove(item)
        self._forget(item)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.there))
        for _ in range(2):
            self.queue.remove(item, item.caller, item.priority)
        self.there.remove(item)
        self._forget(item)

    @invariant()
    def counts_right(self) -> None:
        assert len(self.queue) == len(self.there)

    def _forget(self, gone: Waiting) -> None:
        """A caller that has nothing left in a rank begins anew there."""
        if any((e.rank, e.caller) == (gone.rank, gone.caller) for e in self.there):
            return
        for key in [k for k in self.passed_over if k[0] == gone.rank and gone.caller in k[1:]]:
            del self.passed_over[key]


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_flood_by_one_does_not_delay_another() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for number in range(150):
        queue.put(f"flood {number}", "a", "normal")
    assert queue.put("other", "b", "normal") == "flood 99"  # those after it were lost before
    assert [queue.take(), queue.take()] == ["flood 0", "other"]
    assert len(queue) == 98
