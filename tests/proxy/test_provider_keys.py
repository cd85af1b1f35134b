"""Keys take turns, rest as long as they are told, and are out once they are refused."""

from __future__ import annotations

import logging
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Adapter, Overloaded, RateLimited, UpstreamAuth
from proxy.provider_keys import REST_S, ProviderKeys
from tests.proxy.test_figures import Hands


def _keys(count: int) -> tuple[ProviderKeys, Hands]:
    hands = Hands()
    return ProviderKeys("up", [cast(Adapter, object())] * count, hands), hands


def _limited(**headers: str) -> RateLimited:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return RateLimited("slow down", status=429, headers=named)


def test_they_take_turns() -> None:
    keys, _ = _keys(3)
    assert [keys.take().number for _ in range(7)] == [1, 2, 3, 1, 2, 3, 1]


def test_one_key_is_always_of_use_and_has_no_number() -> None:
    keys, _ = _keys(1)
    key = keys.take()
    assert not keys.failed(key, _limited(retry_after="60"))
    assert not keys.failed(key, UpstreamAuth("no", status=401))
    assert keys.after(key) is None
    assert keys.take() is key
    assert (key.number, keys.are_all_resting) == (0, False)


def test_a_limited_key_rests_as_long_as_the_provider_says() -> None:
    keys, hands = _keys(2)
    first = keys.take()
    assert keys.failed(first, _limited(retry_after="30"))
    second = keys.after(first)
    assert second is not None and second.number == 2
    assert [keys.take().number for _ in range(3)] == [2, 2, 2]
    assert keys.failed(second, _limited())  # it does not say
    assert keys.after(second) is None
    assert keys.are_all_resting
    assert [keys.take().number for _ in range(2)] == [2, 2]  # the one nearest to use
    hands.now += REST_S
    assert not keys.are_all_resting
    assert keys.take() is second
    hands.now += 20.0
    assert {keys.take().number for _ in range(2)} == {1, 2}


def test_a_refused_key_is_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    keys, hands = _keys(2)
    first = keys.take()
    with caplog.at_level(logging.WARNING, "tollway"):
        for _ in range(3):
            assert keys.failed(first, UpstreamAuth("no", status=401))
    (record,) = caplog.records
    assert "providers.up.api_keys[0]: the provider refuses this key (401)" in record.getMessage()
    hands.now += 1e6
    assert [keys.take().number for _ in range(3)] == [2, 2, 2]


def test_other_failures_are_not_of_the_key() -> None:
    keys, _ = _keys(2)
    assert not keys.failed(keys.take(), Overloaded("busy", status=503))


@given(data=st.data(), count=st.integers(2, 5))
def test_a_key_of_use_is_taken_wherever_there_is_one(data: st.DataObject, count: int) -> None:
    keys, hands = _keys(count)
    refused: set[int] = set()
    rests = dict.fromkeys(range(1, count + 1), 0.0)
    for _ in range(data.draw(st.integers(1, 30))):
        hands.now += data.draw(st.floats(0, 20))
        key = keys.take()
        usable = {n for n, until in rests.items() if until <= hands.now} - refused
        assert keys.are_all_resting == (not usable)
        assert key.number in usable or not usable
        match data.draw(st.sampled_from(("ok", "limited", "refused"))):
            case "limited":
                rest_s = data.draw(st.integers(0, 60))
                keys.failed(key, _limited(retry_after=str(rest_s)))
                rests[key.number] = max(rests[key.number], hands.now + rest_s)
            case "refused":
                keys.failed(key, UpstreamAuth("no", status=403))
                refused.add(key.number)
