"""The oldest messages of a conversation are left out where its virtual model sets a limit.

What is kept: instructions, wherever they stand; the first exchange, if it takes no more than half
of what is allowed; the last messages, with what the user said before them. A tool's result never
goes without its call, nor a call without its result.

The cut moves in steps of half of what is allowed, counted from the beginning of the
conversation, which every further request repeats: so it stays where it is for several turns, and
what a provider keeps of the prompt goes on to be found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import msgspec

from proxy.config import History
from proxy.wire import chat
from proxy.wire.chat import ChatRequest
from proxy.wire.dialect import Request
from proxy.wire.messages import request as messages
from proxy.wire.messages.request import MessagesRequest

MEDIA_TOKENS = 1_000
"""What an image, a file or a sound counts as, whatever its size."""

_BYTES_PER_TOKEN = 4
# Smaller steps cut less, but so often that what is cached is lost: see docs/routing.md.
_STEPS = 2
_INSTRUCTIONS = frozenset({"system", "developer"})
_MEDIA = frozenset({"image_url", "input_audio", "file", "image", "document"})
_EMPTY = msgspec.Raw(b"null")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What a cut goes by: who says it, how long it is, which calls it makes and answers."""

    is_instruction: bool = False
    is_asked: bool = False
    """Whether a user says something, and not only what a tool found."""
    tokens: int = 1
    calls: frozenset[str] = frozenset()
    answers: frozenset[str] = frozenset()
    is_result: bool = False
    """Whether it holds the result of a call, named or not."""


def trimmed(request: Request, history: History) -> tuple[Request, int]:
    """The request without its oldest messages, and how many those are; itself where it is short.

    Only chats and Anthropic's messages are cut.
    """
    if not isinstance(request, ChatRequest | MessagesRequest):
        return request, 0
    has_room = history.max_tokens is None or _bound(request) <= history.max_tokens
    if has_room and history.max_messages is None:
        return request, 0
    raws = request.body.decode(_raw_messages).messages
    if has_room and len(raws) <= (history.max_messages or 0):
        return request, 0
    try:
        said = [_read(raw) for raw in raws]
    except msgspec.ValidationError:  # a call's id that is a number ...: the provider will say so
        return request, 0
    kept = cut(said, max_tokens=history.max_tokens, max_messages=history.max_messages)
    dropped = len(raws) - len(kept)
    if not dropped:
        return request, 0
    texts = b",".join(bytes(raws[place]) for place in kept)
    body = request.body.join({"messages": b"[%b]" % texts})
    if isinstance(request, ChatRequest):
        return chat.parse(body), dropped
    return replace(messages.parse_prompt(body), headers=request.headers), dropped


def cut(
    said: Sequence[Message], *, max_tokens: int | None = None, max_messages: int | None = None
) -> list[int]:
    """The places of those that are kept, in order.

    Of tokens, all messages count; of messages, all but instructions. The last message stays, and so
    do the instructions and what hangs together with the last, though they be too long.
    """
    talk = [place for place, message in enumerate(said) if not message.is_instruction]
    sizes = [said[place].tokens for place in talk]
    total = sum(message.tokens for message in said)
    tokens_to_drop = _in_steps(total, max_tokens)
    messages_to_drop = _in_steps(len(talk), max_messages)
    if not tokens_to_drop and not messages_to_drop:
        return list(range(len(said)))
    turns = [said[place] for place in talk]
    cuts = _safe_cuts(turns)
    first = _first_exchange(turns, cuts, max_tokens, max_messages)
    before = [0, *accumulate(sizes)]
    begin, head = 0, range(0)
    for place, asked in zip(cuts, _asked_before(turns, cuts), strict=True):
        if place < first:
            continue
        begin, head = place, range(max(first, asked.start), max(first, asked.stop))
        gone = before[begin] - before[first] - (before[head.stop] - before[head.start])
        if gone >= tokens_to_drop and begin - first - len(head) >= messages_to_drop:
            break
    kept = {talk[place] for place in (*range(first), *head, *range(begin, len(turns)))}
    return [place for place, message in enumerate(said) if message.is_instruction or place in kept]


def _in_steps(size: int, most: int | None) -> int:
    """How much must go, in whole steps."""
    if most is None or size <= most:
        return 0
    step = max(1, most // _STEPS)
    return -(-(size - most) // step) * step


def _first_exchange(
    turns: Sequence[Message],
    cuts: Sequence[int],
    max_tokens: int | None,
    max_messages: int | None,
) -> int:
    """Where the first exchange ends, if it is kept; 0 if not."""
    asked = next((place for place, turn in enumerate(turns) if turn.is_asked), 0)
    begins = (
        place
        for place in range(asked + 1, len(turns))
        if turns[place].is_asked and not turns[place - 1].is_asked
    )
    end = next(begins, 0)
    is_small = (
        max_tokens is None or 2 * sum(turn.tokens for turn in turns[:end]) <= max_tokens
    ) and (max_messages is None or 2 * end <= max_messages)
    return end if is_small and end in cuts else 0


def _asked_before(turns: Sequence[Message], cuts: Sequence[int]) -> Iterable[range]:
    """For each cut what the user said at the beginning of the turn it is within; else nothing."""
    asked, seen = range(0), 0
    for at in cuts:
        for place in range(seen, at):
            if turns[place].is_asked:
                asked = range(asked.start if asked.stop == place else place, place + 1)
        seen = at
        yield range(0) if turns[at].is_asked else asked


def _safe_cuts(turns: Sequence[Message]) -> list[int]:
    """The places before which all may go: no result stands behind one whose call is before it."""
    called: dict[str, int] = {}
    reach = list(range(len(turns)))
    for place, turn in enumerate(turns):
        begins = [called[name] for name in turn.answers if name in called]
        if turn.is_result and not begins:  # it does not say whose result it is: the last one's
            begins = [max(0, place - 1)]
        for begin in begins:
            reach[begin] = max(reach[begin], place)
        called |= dict.fromkeys(turn.calls, place)
    cuts, furthest = [], -1
    for place, last in enumerate(reach):
        if place > furthest:
            cuts.append(place)
        furthest = max(furthest, last)
    return cuts


class _Messages(msgspec.Struct):
    messages: list[msgspec.Raw]


class _Call(msgspec.Struct):
    id: str | None = None


class _Said(msgspec.Struct):
    role: str
    content: msgspec.Raw = _EMPTY
    tool_calls: list[_Call] | None = None
    function_call: msgspec.Raw = _EMPTY
    tool_call_id: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    tool_use_id: str | None = None


_raw_messages = msgspec.json.Decoder(_Messages)
_said = msgspec.json.Decoder(_Said)
_blocks = msgspec.json.Decoder(list[msgspec.Raw])
_block = msgspec.json.Decoder(_Block)


def _bound(request: ChatRequest | MessagesRequest) -> int:
    """What its messages count as at most, without a look at them: the body holds more."""
    media = request.chat.media if isinstance(request, MessagesRequest) else request.media
    return request.input_tokens + media * MEDIA_TOKENS


def _read(raw: msgspec.Raw) -> Message:
    said = _said.decode(raw)
    blocks = list(_blocks_of(said.content))
    media = [size for block, size in blocks if block.type in _MEDIA]
    results = [block for block, _ in blocks if block.type == "tool_result"]
    calls = {call.id for call in said.tool_calls or ()}
    calls |= {block.id for block, _ in blocks if block.type.endswith("tool_use")}
    answers = {said.tool_call_id, *(block.tool_use_id for block, _ in blocks)}
    size = len(memoryview(raw)) - sum(media)
    return Message(
        is_instruction=said.role in _INSTRUCTIONS,
        is_asked=said.role == "user" and not results,
        tokens=size // _BYTES_PER_TOKEN + len(media) * MEDIA_TOKENS,
        calls=frozenset(filter(None, calls)),
        answers=frozenset(filter(None, answers)),
        is_result=bool(results) or said.role in ("tool", "function"),
    )


def _blocks_of(content: msgspec.Raw) -> Iterable[tuple[_Block, int]]:
    """The parts of a content, each with its length in bytes; none of a text."""
    if memoryview(content)[0] == ord("["):
        for raw in _blocks.decode(content):
            yield _block.decode(raw), len(memoryview(raw))
