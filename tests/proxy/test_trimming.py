"""Trimming: what must stay stays, what belongs together stays together, and the cut stays put."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.trimming import MEDIA_TOKENS, Message, cut, trimmed
from proxy.wire import chat, embeddings
from proxy.wire.messages import request as messages


def _user(text: str = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str = "Hi") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _calls(*names: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _result(name: str, text: str = "found") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": text}


def _sent(said: list[dict[str, Any]], **limits: int) -> tuple[list[dict[str, Any]], int]:
    """What of a conversation is sent, and how many messages are not."""
    body = {"model": "m", "messages": said, "temperature": 0.5}
    request = chat.parse(json.dumps(body).encode())
    short, dropped = trimmed(request, config.History(**limits))
    assert isinstance(short, chat.ChatRequest)
    sent = json.loads(bytes(short.body.members["messages"]))
    assert json.loads(bytes(short.body.members["temperature"])) == 0.5
    assert len(sent) == len(said) - dropped
    return sent, dropped


# --- examples -------------------------------------------------------------------------------------


def test_a_short_conversation_is_left_as_it_is() -> None:
    request = chat.parse(json.dumps({"model": "m", "messages": [_user()]}).encode())
    assert trimmed(request, config.History(max_tokens=1000)) == (request, 0)
    assert trimmed(request, config.History(max_messages=2))[0] is request


def test_instructions_the_first_exchange_and_the_last_turns_stay() -> None:
    said = [{"role": "system", "content": "Be kind."}]
    for number in range(10):
        said += [_user(f"question {number}"), _assistant(f"answer {number}")]
    said += [{"role": "developer", "content": "Be brief."}, _user("the last")]
    sent, dropped = _sent(said, max_messages=8)
    texts = [message["content"] for message in sent]
    assert texts[:3] == ["Be kind.", "question 0", "answer 0"]
    assert texts[-2:] == ["Be brief.", "the last"]
    assert dropped == len(said) - len(sent) > 0
    assert len(sent) - 2 <= 8
    # What is left of the middle begins with a question.
    assert texts[3].startswith("question")


def test_a_long_first_exchange_goes() -> None:
    said = [_user("x" * 4000), _assistant("y"), *([_user("z" * 400), _assistant("w")] * 10)]
    sent, _ = _sent(said, max_tokens=1000)
    assert all("x" not in message["content"] for message in sent)


def test_within_a_turn_of_many_calls_the_task_stays_and_old_calls_go() -> None:
    said = [_user("Mend the tests")]
    for number in range(20):
        said += [_calls(f"a{number}", f"b{number}")]
        said += [_result(f"a{number}", "x" * 400), _result(f"b{number}", "y" * 400)]
    sent, dropped = _sent(said, max_tokens=1500)
    assert sent[0] == said[0]
    assert dropped % 3 == 0
    assert sent[1:] == said[1 + dropped :]


def test_results_in_anthropics_dialect_stay_with_their_calls() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "x" * 3000}
    said = [
        _user("first " * 500),
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
        _assistant("done"),
        *([_user("more"), _assistant("y" * 800)] * 4),
        _user("the last"),
    ]
    body = {"model": "m", "max_tokens": 10, "messages": said, "system": "Be kind."}
    headers = {b"anthropic-version": b"2023-06-01"}
    request = messages.parse(json.dumps(body).encode(), headers)
    for limit in range(100, 3000, 50):
        short, dropped = trimmed(request, config.History(max_tokens=limit))
        assert isinstance(short, messages.MessagesRequest)
        sent = json.loads(bytes(short.body.members["messages"]))
        assert short.headers == request.headers
        assert short.max_output_tokens == 10
        assert len(sent) == len(said) - dropped
        assert sent[-1] == said[-1]
        assert (said[1] in sent) == (said[2] in sent)
        if dropped:
            assert short.input_tokens < request.input_tokens


def test_pictures_do_not_count_by_their_bytes() -> None:
    url = "data:image/png;base64," + "A" * 40_000
    picture = {"type": "image_url", "image_url": {"url": url}}
    said = [{"role": "user", "content": [picture]}, _assistant(), _user()]
    assert _sent(said, max_tokens=MEDIA_TOKENS + 500)[1] == 0
    assert _sent(said, max_tokens=MEDIA_TOKENS // 2)[1] > 0


def test_what_is_no_chat_is_left_alone() -> None:
    request = embeddings.parse(json.dumps({"model": "m", "input": "x" * 9000}).encode())
    assert trimmed(request, config.History(max_tokens=1)) == (request, 0)


@pytest.mark.parametrize(
    "odd",
    [
        {"role": "assistant", "tool_calls": [{"id": 5}]},
        {"role": "assistant", "tool_calls": "none"},
        {"role": "user", "content": [{"type": "text", "text": "a", "id": 7}]},
    ],
)
def test_what_cannot_be_read_is_for_the_provider_to_refuse(odd: dict[str, Any]) -> None:
    said = [odd, _user("x" * 4000), _user()]
    assert _sent(said, max_tokens=100) == (said, 0)


def test_a_history_must_say_something() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        config.History()


def test_the_trimmed_request_is_the_one_that_is_held_and_priced() -> None:
    said = [_user("x" * 4000), _assistant(), _user("Hello")]
    request = chat.parse(json.dumps({"model": "m", "messages": said}).encode())
    short, _ = trimmed(request, config.History(max_tokens=100))
    alone = chat.parse(json.dumps({"model": "m", "messages": said[2:]}).encode())
    assert short.input_tokens <= alone.input_tokens
    assert short.input_bound(0) <= alone.input_bound(0)


def test_thousands_of_messages_take_a_moment() -> None:
    """Whatever a client sends is cut in one pass: more than that would stop a worker."""
    said = [Message(is_asked=place % 2 == 0, tokens=5) for place in range(200_000)]
    assert len(cut(said, max_tokens=100)) <= 20
    nested = [
        *(Message(calls=frozenset({str(place)})) for place in range(50_000)),
        *(Message(answers=frozenset({str(place)}), is_result=True) for place in range(50_000)),
        Message(is_asked=True),
    ]
    assert cut(nested, max_tokens=100) == [len(nested) - 1]


# --- whatever is said -----------------------------------------------------------------------------

ids = st.sampled_from(("a", "b", "c", "d"))
conversations = st.lists(
    st.one_of(
        st.builds(Message, is_asked=st.just(True), tokens=st.integers(1, 50)),
        st.builds(Message, tokens=st.integers(1, 50)),
        st.builds(Message, is_instruction=st.just(True), tokens=st.integers(1, 50)),
        st.builds(Message, calls=st.frozensets(ids, min_size=1), tokens=st.integers(1, 50)),
        st.builds(
            Message,
            answers=st.frozensets(ids, max_size=1),
            is_result=st.just(True),
            tokens=st.integers(1, 50),
        ),
    ),
    min_size=1,
    max_size=40,
)
limits = st.fixed_dictionaries(
    {},
    optional={"max_tokens": st.integers(1, 400), "max_messages": st.integers(2, 30)},
).filter(bool)


def _pairs(said: list[Message]) -> list[tuple[int, int]]:
    """Each result with the message that has its call."""
    found: list[tuple[int, int]] = []
    called: dict[str, int] = {}
    for place, message in enumerate(said):
        found += [(called[name], place) for name in message.answers if name in called]
        called |= dict.fromkeys(message.calls, place)
    return found


def _last_safe_cut(said: list[Message]) -> int:
    """The last place before which all talk may go."""
    talk = [place for place, each in enumerate(said) if not each.is_instruction]
    pairs = _pairs(said)
    answered = {result for _, result in pairs}
    lone = {place for place in talk if said[place].is_result and place not in answered}
    pairs += [(talk[max(0, talk.index(place) - 1)], place) for place in lone]
    safe = [at for at in talk if not any(call < at <= result for call, result in pairs)]
    return safe[-1] if safe else 0


@given(conversations, limits)
def test_nothing_is_torn_apart(said: list[Message], limits: dict[str, int]) -> None:
    kept = cut(said, **limits)
    assert kept == sorted(set(kept))
    for call, result in _pairs(said):
        assert (call in kept) == (result in kept)
    assert {place for place, each in enumerate(said) if each.is_instruction} <= set(kept)
    talk = [place for place, each in enumerate(said) if not each.is_instruction]
    if talk:
        assert talk[-1] in kept
    if any(each.is_asked for each in said):  # what is left still has a question
        assert any(said[place].is_asked for place in kept)


@given(conversations, limits)
def test_it_is_as_short_as_it_must_be_where_that_can_be(
    said: list[Message], limits: dict[str, int]
) -> None:
    kept = cut(said, **limits)
    whole = sum(each.tokens for each in said)
    tokens = sum(said[place].tokens for place in kept)
    talk = [place for place in kept if not said[place].is_instruction]
    fits = tokens <= limits.get("max_tokens", whole) and len(talk) <= limits.get(
        "max_messages", len(said)
    )
    if not fits:
        # Nothing more could go: before what hangs together with the last message there is only a
        # question, and a first exchange of half of the limit at most.
        last = _last_safe_cut(said)
        rest = [place for place in talk if place < last and not said[place].is_asked]
        assert 2 * sum(said[place].tokens for place in rest) <= limits.get("max_tokens", 10**9)
        assert 2 * len(rest) <= limits.get("max_messages", 10**9)


@given(conversations)
def test_without_need_nothing_goes(said: list[Message]) -> None:
    everything = list(range(len(said)))
    assert cut(said, max_tokens=sum(each.tokens for each in said)) == everything
    assert cut(said, max_messages=max(2, len(said))) == everything


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=80),
    st.integers(40, 400),
)
def test_while_a_conversation_grows_its_beginning_seldom_changes(
    sizes: list[int], most: int
) -> None:
    """A provider's cache is by the beginning of a prompt: it changes once for half of `most`."""
    said = [Message(is_asked=place % 2 == 0, tokens=size) for place, size in enumerate(sizes)]
    beginnings: dict[int, set[int]] = {}
    for end in range(1, len(said) + 1, 2):
        kept = cut(said[:end], max_tokens=most)
        gone = sorted(set(range(end)) - set(kept))
        too_many = sum(sizes[:end]) - most
        steps = -(-too_many // (most // 2))
        # What hangs together with the last message stays, and may leave too little that can go.
        if gone and sum(sizes[place] for place in gone) >= steps * (most // 2):
            beginnings.setdefault(steps, set()).add(gone[-1])
    assert all(len(places) == 1 for places in beginnings.values())
