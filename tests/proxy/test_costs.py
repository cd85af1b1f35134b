"""What attempts can cost and did cost, where something besides tokens is billed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.base import Deadlines
from proxy import costs
from proxy.pricing import NO_UNITS, Price, Units, Usage
from proxy.targets import Target
from proxy.wire import chat, images, speech, transcriptions
from proxy.wire.dialect import Request
from proxy.wire.form import Form, Part

MINUTE = 6_000_000
BY_MINUTE = Price(input=0, output=0, per_minute=MINUTE, source="test")
BY_TOKEN = Price(input=2_500, output=10_000, source="test")
NOTHING = Usage(input_tokens=0, output_tokens=0)
TOKENS = Usage(input_tokens=10, output_tokens=5)
SECONDS = Usage(input_tokens=0, output_tokens=0, units=Units(audio_seconds=30))

CHAT = chat.parse(
    b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
)
SPEECH = speech.parse(b'{"model": "m", "input": "Hello", "voice": "v", "stream_format": "sse"}')


def _transcription(size: int) -> Request:
    part = Part(name="file", filename="a", content_type="", data=memoryview(bytes(size)))
    body, content_type = Form([part]).join({"model": "m"})
    return transcriptions.parse(body, {b"content-type": content_type.encode()})


HEARD = _transcription(60_000)  # at most two minutes


def _target(price: Price | None, **settings: Any) -> Target:
    fields: dict[str, Any] = {
        "name": "up/m",
        "provider": "up",
        "model": "m",
        "price": price,
        "context_length": None,
        "max_output_tokens": None,
        "capabilities": frozenset(),
        "tiers": frozenset(),
        "vector_space": None,
        "image_tokens": 1000,
        "max_tokens_field": "max_tokens",
        "stream_usage": True,
        "deadlines": Deadlines(),
        "demonstration": False,
        "metric_name": "up/m",
        "meterable": True,
    }
    return Target(**{**fields, **settings})


@pytest.mark.parametrize(
    ("longest", "hold"), [(None, 2 * MINUTE), (30, MINUTE // 2), (500, 2 * MINUTE)]
)
def test_sound_is_held_up_to_what_the_target_takes(longest: int | None, hold: int) -> None:
    target = _target(BY_MINUTE, max_audio_seconds=longest)
    assert costs.bounds_of(HEARD, target, None, None, metered=False).most == hold
    assert costs.cost_of(HEARD, target, NOTHING) == hold


def test_sound_is_held_in_tokens_too() -> None:
    target = _target(BY_TOKEN, max_audio_seconds=30, max_output_tokens=7)
    text = HEARD.input_bound(0)
    sound = 30 * costs.AUDIO_TOKENS_PER_SECOND
    most = costs.bounds_of(HEARD, target, None, None, metered=False).most
    assert most == -(-((text + sound) * 2_500 + 7 * 10_000) // 1_000_000)


@pytest.mark.parametrize("request_", [HEARD, SPEECH], ids=["transcription", "speech"])
def test_an_answer_that_no_request_can_cap_needs_the_targets_maximum(request_: Request) -> None:
    assert costs.unbounded(request_, _target(BY_TOKEN)) == costs.OUTPUT
    assert costs.unbounded(request_, _target(BY_TOKEN, max_output_tokens=7)) is None
    assert costs.unbounded(request_, _target(BY_MINUTE)) is None
    assert costs.unbounded(CHAT, _target(BY_TOKEN)) is None


@pytest.mark.parametrize("request_", [HEARD, SPEECH], ids=["transcription", "speech"])
def test_nothing_is_capped_or_metered_that_has_no_parameter_for_it(request_: Request) -> None:
    target = _target(BY_TOKEN, max_output_tokens=7)
    assert costs.default_maximum(request_, target) is None
    assert costs.affordable_maximum(request_, target, 10**9) is None
    assert not costs.is_metered(request_, target)
    assert costs.is_metered(CHAT, target)


@pytest.mark.parametrize(
    ("request_", "price", "told", "exact"),
    [
        (HEARD, BY_MINUTE, SECONDS, True),
        (HEARD, BY_MINUTE, NOTHING, False),
        (HEARD, BY_MINUTE, TOKENS, False),
        (HEARD, BY_TOKEN, TOKENS, True),
        (HEARD, BY_TOKEN, SECONDS, False),
        (HEARD, None, SECONDS, True),
        (HEARD, Price.free("test"), NOTHING, True),
        (CHAT, BY_TOKEN, TOKENS, True),
        (CHAT, BY_MINUTE, TOKENS, True),
        (CHAT, BY_TOKEN, None, False),
    ],
)
def test_an_answer_is_exact_where_it_tells_all_that_is_charged(
    request_: Request, price: Price | None, told: Usage | None, exact: bool
) -> None:
    assert costs.taken(request_, _target(price), told) == (told if exact else None)


def test_searches_that_depend_on_tokens_are_exact_only_where_they_are_told() -> None:
    price = Price(input=0, output=0, per_search=5, document_tokens=500, source="test")
    asked = Units(document_bytes=(800,))
    counted = Usage(input_tokens=0, output_tokens=0, units=asked)
    told = Usage(input_tokens=0, output_tokens=0, units=Units(document_bytes=(800,), searches=1))
    assert costs.taken(HEARD, _target(price), counted) is None
    assert costs.taken(HEARD, _target(price), told) == told


def test_an_image_that_nobody_tells_of_costs_what_was_asked_for() -> None:
    body = {"model": "m", "prompt": "a gate", "n": 2, "quality": "low"}
    request = images.parse(json.dumps(body).encode())
    prices = {"low": 100, "high": 900}
    target = _target(Price(input=0, output=0, per_generated_image=prices, source="test"))
    assert costs.cost_of(request, target, NOTHING) == 200
    assert costs.bounds_of(request, target, None, None, metered=False).most == 1800


def test_most_requests_have_no_units() -> None:
    assert CHAT.units is NO_UNITS


def test_a_text_is_not_counted_for_a_budget_that_could_not_pay_for_the_rest() -> None:
    text = {"role": "user", "content": "x" * 100_000}
    request = chat.parse(json.dumps({"model": "m", "messages": [text]}).encode())
    target = _target(Price(input=1_000_000, output=0, source="test"))
    rest = request.input_bound(0) - 100_000
    assert costs.may_fit(request, target, rest, uncounted=100_000)
    assert not costs.may_fit(request, target, rest - 1, uncounted=100_000)
