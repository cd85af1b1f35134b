"""How a conversation is told from another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.auth import ANONYMOUS, Caller
from proxy.http import Exchange
from proxy.swaps.conversations import Conversation, conversation_of
from proxy.wire import chat, embeddings
from proxy.wire.messages import request as messages
from proxy.wire.responses import request as responses

SECRET = b"s" * 32


async def _nothing(*_: object) -> Any:
    raise AssertionError


def of(
    request: Any, *, caller: Caller = ANONYMOUS, named: str = "", secret: bytes = SECRET
) -> Conversation:
    headers = [(b"x-tollway-conversation", named.encode())] if named else []
    exchange = Exchange({"type": "http", "headers": headers}, _nothing, _nothing)
    found = conversation_of(caller, exchange, request, secret)
    assert found is not None
    return found


def a_chat(*said: tuple[str, Any], **fields: Any) -> Any:
    turns = [{"role": role, "content": content} for role, content in said]
    return chat.parse(msgspec.json.encode({"model": "auto", "messages": turns, **fields}))


BEGIN = (("system", "Be kind"), ("user", "Hello"))
GO_ON = (*BEGIN, ("assistant", "Hi"), ("user", "How are you?"))


def test_it_is_the_same_as_it_goes_on() -> None:
    begun, continued = of(a_chat(*BEGIN)), of(a_chat(*GO_ON))
    assert begun.number == continued.number
    assert (begun.continues, continued.continues) == (False, True)


def test_the_answers_do_not_matter() -> None:
    other = (*BEGIN, ("assistant", "Something else"), ("user", "Go on"))
    assert of(a_chat(*GO_ON)) == of(a_chat(*other))


@pytest.mark.parametrize(
    "other",
    [
        (("system", "Be rude"), ("user", "Hello")),
        (("system", "Be kind"), ("user", "Hello!")),
        (("system", "Be kindHello"), ("user", "")),
        (("user", "Hello"),),
    ],
)
def test_another_beginning_is_another_conversation(other: Any) -> None:
    assert of(a_chat(*other)).number != of(a_chat(*BEGIN)).number


def test_another_caller_has_another_conversation_and_another_server_too() -> None:
    caller = Caller(key_id="k_1", name="a", scopes=("global",))
    numbers = {
        of(a_chat(*BEGIN)).number,
        of(a_chat(*BEGIN), caller=caller).number,
        of(a_chat(*BEGIN), secret=b"t" * 32).number,
    }
    assert len(numbers) == 3
    assert all(0 <= number < 2**62 for number in numbers)


def test_an_id_of_the_clients_own_is_what_counts() -> None:
    one, other = a_chat(("user", "a")), a_chat(("user", "b"))
    assert of(one, named="c").number == of(other, named="c").number
    assert of(one, named="c").number != of(one, named="d").number
    keyed = [a_chat(("user", text), prompt_cache_key="c") for text in "ab"]
    assert of(keyed[0]).number == of(keyed[1]).number != of(one).number
    assert of(a_chat(("user", "a"), prompt_cache_key=None)) == of(one)


def test_how_a_text_is_cut_and_where_a_cache_ends_does_not_matter() -> None:
    plain = a_chat(("user", "Hello"))
    parts = a_chat(("user", [{"type": "text", "text": "Hello"}]))
    marked = a_chat(
        ("user", [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}])
    )
    assert of(plain) == of(parts) == of(marked)


def test_every_dialect_has_conversations() -> None:
    turns = [{"role": "user", "content": "Hello"}]
    later = [*turns, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "So?"}]

    def in_messages(said: Any) -> Any:
        body = {"model": "auto", "max_tokens": 9, "messages": said, "system": "Be kind"}
        return messages.parse(msgspec.json.encode(body), {})

    def in_responses(said: Any) -> Any:
        return responses.parse(msgspec.json.encode({"model": "auto", "input": said}))

    for parse in (in_messages, in_responses):
        begun, continued = of(parse(turns)), of(parse(later))
        assert begun.number == continued.number
        assert (begun.continues, continued.continues) == (False, True)


def test_what_asks_for_vectors_is_of_none() -> None:
    request = embeddings.parse(b'{"model":"auto","input":"a"}', {})
    exchange = Exchange({"type": "http", "headers": []}, _nothing, _nothing)
    assert conversation_of(ANONYMOUS, exchange, request, SECRET) is None
