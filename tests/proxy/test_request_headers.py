"""Headers of ours: those that something reads, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy import attempts, attribution, deadlines, engine, priorities, wishes
from proxy.errors import InvalidRequest
from proxy.request_headers import KNOWN, check
from proxy.swaps import conversations

ROOT = Path(__file__).parents[2]


def test_those_that_are_known_are_those_that_are_read() -> None:
    assert {
        attempts.CLAMP_HEADER,
        attribution.TAGS_HEADER,
        attribution.USER_HEADER,
        conversations.CONVERSATION_HEADER,
        deadlines.HEADER,
        engine.DROP_HEADER,
        priorities.PRIORITY_HEADER,
        wishes.WEIGHTS_HEADER,
        *wishes.LIMITS,
    } == KNOWN


def test_each_is_documented() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert not [name for name in KNOWN if name.decode() not in text]


def test_another_one_is_refused_by_its_name() -> None:
    check(dict.fromkeys([b"x-tollway-user", b"x-request-id", b"user-agent", b"tollway-x"], b"?"))
    with pytest.raises(InvalidRequest, match="x-tollway-max-cost: is no header") as caught:
        check({b"x-tollway-user": b"me", b"x-tollway-max-cost": b"1"})
    assert caught.value.param == "x-tollway-max-cost"


@pytest.mark.parametrize(
    ("header", "good", "bad"),
    [
        (attempts.CLAMP_HEADER, b"True", b"1"),
        (engine.DROP_HEADER, b"false", b"yes"),
        (priorities.PRIORITY_HEADER, b"low", b"urgent"),
    ],
)
def test_a_value_that_would_be_ignored_is_refused(header: bytes, good: bytes, bad: bytes) -> None:
    check({header: good})
    with pytest.raises(InvalidRequest, match="must be one of") as caught:
        check({header: bad})
    assert caught.value.param == header.decode()
