from __future__ import annotations

import pytest

from proxy.ledger.protocol import Reserve
from proxy.ledger.waiting import Waiting, WaitingRoom
from tests.proxy.ledger.making import an_attempt

Room = WaitingRoom[object]


@pytest.fixture
def room() -> Room:
    return WaitingRoom()


def waits(room: Room, hold: int, *, budget: int = 1, client: object = None) -> Waiting[object]:
    waiting = Waiting(client=client, reserve=Reserve(1, an_attempt(1, hold)), budget_id=budget)
    room.add(waiting)
    return waiting


def test_whoever_fits_is_admitted_in_order_counting_those_before(room: Room) -> None:
    first, large, last = waits(room, 40), waits(room, 90), waits(room, 60)
    assert room.admit({1: 100}.get) == [first, last]
    assert room.admit({1: 89}.get) == []
    assert room.admit({1: 90}.get) == [large]
    assert room.admit({1: 90}.get) == []


def test_budgets_have_queues_of_their_own(room: Room) -> None:
    waits(room, 50, budget=1)
    other = waits(room, 50, budget=2)
    assert room.admit({1: 49, 2: 50}.get) == [other]


def test_a_budget_that_is_gone_admits_everyone(room: Room) -> None:
    everyone = [waits(room, 10**9), waits(room, 10**9)]
    assert room.admit(lambda _: None) == everyone


def test_who_left_is_not_admitted(room: Room) -> None:
    here, gone = object(), object()
    stays = waits(room, 1, client=here)
    waits(room, 1, client=gone)
    out = waits(room, 1, client=here)
    room.leave(gone)
    assert room.remove(out)
    assert not room.remove(out)
    assert room.empty() == [stays]
    assert room.empty() == []
