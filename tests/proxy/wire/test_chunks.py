"""Repaired streams: one row per deviation that providers send and clients choke on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from adapters.base import MalformedAnswer, UpstreamError
from proxy.pricing import Usage
from tests.proxy.wire.streams import (
    HEAD,
    ROLE,
    STOP,
    USAGE,
    USAGE_CHUNK,
    call,
    calls_of,
    chunk,
    client_of,
    decoded,
    encode,
    entry,
    failing,
    finishes,
    relayed,
    say,
    stream,
    text_of,
)

CANONICAL: list[Any] = [
    ROLE,
    say("Hel"),
    say("lo"),
    say(' \u2028\u0085 👋 \\ " \n'),
    say("!"),
    STOP,
]


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in names}


# --- what passes as it is -------------------------------------------------------------------------


def test_a_canonical_stream_passes_byte_for_byte() -> None:
    expected = b"".join(b"data: %b\n\n" % encode(item) for item in CANONICAL)
    assert relayed(CANONICAL) == expected + b"data: [DONE]\n\n"


def test_openais_own_stream_with_padding_and_usage_passes_byte_for_byte() -> None:
    """As the API sends it: usage null in each chunk, and padding of a random length last."""
    rest = {"service_tier": "default", "system_fingerprint": "fp_1"}
    sent = [
        {**HEAD, **rest, "choices": item["choices"], "usage": None, "obfuscation": "x" * (i + 1)}
        for i, item in enumerate(CANONICAL)
    ]
    sent.append({**HEAD, **rest, "choices": [], "usage": USAGE, "obfuscation": "yy"})
    expected = b"".join(b"data: %b\n\n" % encode(item) for item in sent) + b"data: [DONE]\n\n"
    assert relayed(sent, wants_usage=True) == expected
    stripped = [without(item, "usage") for item in sent[:-1]]
    assert client_of(sent) == stripped


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "Hi", "annotations": [{"type": "url_citation"}]},
        {"refusal": "No"},
        {"audio": {"id": "audio_1", "data": "AAAA"}},
        {"reasoning_content": "Hm"},
        {"reasoning": "Hm", "reasoning_details": [{"type": "text", "text": "Hm"}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    ],
)
def test_every_kind_of_payload_passes_and_counts_as_one(delta: dict[str, Any]) -> None:
    relay = stream()
    relay.feed(encode(ROLE))
    assert not relay.has_payload
    sent = encode(chunk(delta, service_tier="flex", moderation={"a": 1.0}, x=12345678901234567))
    assert relay.feed(sent) == b"data: %b\n\n" % sent
    assert relay.has_payload
    assert relay.output_bytes > 0


def test_numbers_and_escapes_of_a_canonical_chunk_are_not_rewritten() -> None:
    sent = encode(ROLE).replace(b'"model"', rb'"x":[1.0,1E2,"\/\u00e9\ud83d"],"model"')
    assert stream().feed(sent) == b"data: %b\n\n" % sent


def test_lone_surrogates_in_two_chunks_make_one_character() -> None:
    pieces = [encode(say("@")).replace(b"@", half) for half in (rb"\ud83d", rb"\udc4b")]
    read = client_of([ROLE, say("a"), *pieces, say("b"), STOP])
    text = text_of(read).encode("utf-16", "surrogatepass").decode("utf-16")
    assert text == "a👋b"


def test_logprobs_have_both_keys() -> None:
    sent = say("Hi")
    sent["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5}]}
    read = client_of([ROLE, sent, STOP])
    assert read[1]["choices"][0]["logprobs"]["refusal"] is None
    assert read[1]["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5


def test_a_text_elsewhere_does_not_pass_for_the_content() -> None:
    sent = [
        encode(say(text, error=None))
        .replace(b'"content"', rb'"c\u006fntent"')
        .replace(b"{", first, 1)
        for text, first in (("a", b'{"x":{"content":"1"},'), ("a", b'{"x":{"content":"2"},'))
    ]
    assert text_of(client_of([ROLE, *sent, STOP])) == "aa"


def test_the_providers_own_signs_are_not_taken_for_ours() -> None:
    odd = {"model": "\u2261text\u2261", "error": None}
    read = client_of([ROLE, *(say(text) | odd for text in ("a", "b", "c")), STOP])
    assert text_of(read) == "abc"
    assert {item["model"] for item in read[1:4]} == {odd["model"]}


# --- identity, role, finish -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "other"}, {"id": "chatcmpl-1"}),
        ({"id": ""}, {"id": "chatcmpl-1"}),
        ({"id": None}, {"id": "chatcmpl-1"}),
        ({"id": 7}, {"id": "chatcmpl-1"}),
        ({"created": 1700000009}, {"created": 1700000000}),
        ({"created": 0}, {"created": 1700000000}),
        ({"created": 1.7e9}, {"created": 1700000000}),
        ({"object": "chat.completion"}, {"object": "chat.completion.chunk"}),
        ({"object": ""}, {"object": "chat.completion.chunk"}),
        ({"model": ""}, {"model": "gpt-x"}),
        ({"model": None}, {"model": "gpt-x"}),
        ({"model": "gpt-y"}, {"model": "gpt-y"}),
        ({"error": None}, {}),
        ({"error": {}}, {}),
        ({"error": ""}, {}),
    ],
)
def test_each_chunk_has_the_streams_identity(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    for position in (1, 2, 3):
        sent = [ROLE, say("a"), say("b"), say("c"), STOP]
        sent[position] = sent[position] | changes
        read = client_of(sent)
        assert text_of(read) == "abc"
        assert "error" not in read[position]
        assert read[position] == without(sent[position], "error") | expected


@pytest.mark.parametrize("missing", ["id", "object", "created", "model"])
def test_what_an_upstream_leaves_out_is_filled_in_the_same_everywhere(missing: str) -> None:
    read = client_of([without(item, missing) for item in CANONICAL])
    assert len({item[missing] for item in read}) == 1
    assert read[0][missing]


def test_an_identity_that_comes_late_does_not_change_the_streams() -> None:
    read = client_of([without(ROLE, "id", "created"), say("a"), say("b"), STOP])
    assert {item["id"] for item in read} == {"chatcmpl-req_0123456789abcdef"}
    assert {item["created"] for item in read} == {1234567890}


def test_azures_first_chunk_does_not_reach_the_client() -> None:
    first = {
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [],
        "prompt_filter_results": [{"prompt_index": 0}],
    }
    assert client_of([first, *CANONICAL]) == CANONICAL


@pytest.mark.parametrize("choices", [None, [], {}, "x"])
def test_a_chunk_without_choices_does_not_reach_the_client(choices: object) -> None:
    assert client_of([ROLE, {**HEAD, "choices": choices}, say("a"), HEAD, STOP]) == [
        ROLE,
        say("a"),
        STOP,
    ]


@pytest.mark.parametrize("order", [["role", "content"], ["content", "role"]])
def test_a_role_in_every_chunk_stands_in_the_first_only(order: list[str]) -> None:
    deltas = [{"role": "assistant", "content": text} for text in ("a", "b", "c", "")]
    sent = [chunk({name: delta[name] for name in order}) for delta in deltas]
    sent.append(chunk({"role": "assistant"}, "stop"))
    read = client_of(sent)
    assert [item["choices"][0]["delta"].get("role") for item in read] == ["assistant"] + [None] * 4
    assert text_of(read) == "abc"


@pytest.mark.parametrize("role", [None, "", "model", 5])
def test_a_missing_or_odd_role_is_put_right(role: object) -> None:
    first = {"content": "a"} if role is None else {"role": role, "content": "a"}
    read = client_of([chunk(first), say("b"), STOP])
    assert read[0]["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert "role" not in read[1]["choices"][0]["delta"]


def test_chunks_that_say_nothing_are_left_out() -> None:
    nothing = [chunk({}), chunk(None), chunk({"role": "assistant"}), chunk({"tool_calls": []})]
    assert client_of([ROLE, *nothing, say("a"), *nothing, STOP, *nothing]) == [ROLE, say("a"), STOP]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        *((reason, reason) for reason in ("stop", "length", "tool_calls", "content_filter")),
        ("function_call", "function_call"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("something new", "stop"),
    ],
)
def test_finish_reasons_are_openais(sent: str, expected: str) -> None:
    assert finishes(client_of([ROLE, say("a"), chunk({}, sent)])) == {0: [expected]}


@pytest.mark.parametrize("unfinished", ["", None, 0, False, {}, []])
def test_what_is_no_finish_reason_finishes_nothing(unfinished: object) -> None:
    read = client_of(
        [chunk({"content": "a"}, unfinished), chunk({"content": "b"}, unfinished), STOP]
    )
    assert [item["choices"][0]["finish_reason"] for item in read] == [None, None, "stop"]
    relay = stream()
    relay.feed(encode(chunk({"content": "a"}, unfinished)))
    assert not relay.is_finished


def test_a_choice_finishes_once() -> None:
    assert finishes(client_of([ROLE, say("a"), STOP, STOP, chunk({}, "length")])) == {0: ["stop"]}


@pytest.mark.parametrize("reason", ["error", "ERROR", "abort", "network_error"])
def test_an_answer_that_broke_off_does_not_look_finished(reason: str) -> None:
    events, failure = failing([ROLE, say("a"), chunk({}, reason)])
    assert isinstance(failure, UpstreamError)
    assert text_of(decoded(events + b"data: [DONE]\n\n")) == "a"


def test_a_stream_without_a_finish_reason_is_not_finished() -> None:
    relay = stream()
    for item in CANONICAL[:-1]:
        relay.feed(encode(item))
    assert relay.has_payload
    assert not relay.is_finished


def test_several_choices_finish_in_any_order() -> None:
    sent = [
        chunk({"role": "assistant", "content": "a"}, index=1),
        chunk({"content": "x"}, index=0),
        chunk({}, "length", index=0),
        chunk({"content": "b"}, index=1),
        chunk({"content": "c"}, index=1),
        chunk({}, "stop", index=1),
    ]
    read = client_of(sent)
    assert text_of(read, index=0) == "x"
    assert text_of(read, index=1) == "abc"
    assert finishes(read) == {0: ["length"], 1: ["stop"]}
    relay = stream()
    for item in sent[:-1]:
        relay.feed(encode(item))
    assert not relay.is_finished


@pytest.mark.parametrize("index", [None, "0", True, 0.0])
def test_a_missing_choice_index_is_its_place(index: object) -> None:
    two = {**HEAD, "choices": [{"index": index, "delta": {"content": t}} for t in ("a", "b")]}
    ends = {**HEAD, "choices": [{"index": index, "finish_reason": "stop"} for _ in range(2)]}
    read = client_of([two, two, ends])
    assert (text_of(read, index=0), text_of(read, index=1)) == ("aa", "bb")
    assert finishes(read) == {0: ["stop"], 1: ["stop"]}


# --- usage ----------------------------------------------------------------------------------------

FINISH_WITH_USAGE = {**STOP, "usage": USAGE}
USAGES: dict[str, list[Any]] = {
    "a chunk of its own": [*CANONICAL, USAGE_CHUNK],
    "null elsewhere": [*(item | {"usage": None} for item in CANONICAL), USAGE_CHUNK],
    "in the finish chunk": [*CANONICAL[:-1], FINISH_WITH_USAGE],
    "in every chunk": [
        *(
            item | {"usage": {"prompt_tokens": 3, "completion_tokens": i, "total_tokens": 3 + i}}
            for i, item in enumerate(CANONICAL)
        ),
        USAGE_CHUNK,
    ],
    "in every chunk, the last the finish": [
        *(item | {"usage": USAGE | {"completion_tokens": 0}} for item in CANONICAL[:-1]),
        FINISH_WITH_USAGE,
    ],
    "the same in every chunk": [item | {"usage": USAGE} for item in CANONICAL],
    "choices missing": [*CANONICAL, without(USAGE_CHUNK, "choices")],
    "choices null": [*CANONICAL, {**USAGE_CHUNK, "choices": None}],
    "an empty delta": [*CANONICAL, {**USAGE_CHUNK, "choices": [{"delta": {}}]}],
    "an empty delta with its index": [*CANONICAL, chunk({}, usage=USAGE)],
    "x_groq": [*CANONICAL[:-1], {**STOP, "x_groq": {"id": "req_1", "usage": USAGE}}],
    "x_groq without choices": [*CANONICAL, {"x_groq": {"usage": USAGE}}],
    "no identity": [*CANONICAL, {"choices": [], "usage": USAGE}],
    "zeros behind it": [*CANONICAL, USAGE_CHUNK, {**USAGE_CHUNK, "usage": dict.fromkeys(USAGE, 0)}],
}


@pytest.mark.parametrize("upstream", USAGES.values(), ids=USAGES.keys())
def test_usage_comes_last_in_a_chunk_of_its_own_if_asked_for(upstream: list[Any]) -> None:
    *said, last = client_of(upstream, wants_usage=True)
    assert last["choices"] == []
    assert last["usage"] == USAGE
    assert {key: last[key] for key in HEAD} == HEAD
    assert all(item["usage"] is None and item["choices"] for item in said)
    assert text_of(said) == text_of(CANONICAL)


@pytest.mark.parametrize("upstream", USAGES.values(), ids=USAGES.keys())
def test_usage_that_nobody_asked_for_is_counted_and_not_shown(upstream: list[Any]) -> None:
    read = client_of(upstream)
    assert all("usage" not in item and item["choices"] for item in read)
    assert [without(item, "x_groq") for item in read] == CANONICAL
    relay = stream()
    for item in upstream:
        relay.feed(encode(item))
    assert relay.usage == Usage(input_tokens=3, output_tokens=2)


@pytest.mark.parametrize("usage", [None, {}, [], "none", {"prompt_tokens": 0}])
def test_an_upstream_that_does_not_count_says_nothing(usage: object) -> None:
    relay = stream()
    for item in [*CANONICAL, {**USAGE_CHUNK, "usage": usage}]:
        relay.feed(encode(item))
    assert relay.usage is None
    assert relay.output_bytes == len(text_of(CANONICAL).encode())


def test_of_usages_that_repeat_the_last_counts() -> None:
    other = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    relay = stream()
    for usage in (other, other, USAGE, other):
        relay.feed(encode(say("a", usage=usage)))
    assert relay.usage == Usage(input_tokens=9, output_tokens=9)


@pytest.mark.parametrize(("reads_cost", "expected"), [(True, 250_000_000), (False, None)])
def test_the_cost_of_the_last_usage_is_read_where_the_providers_word_counts(
    reads_cost: bool, expected: int | None
) -> None:
    relay = stream(reads_cost=reads_cost)
    for item in (*CANONICAL, {**USAGE_CHUNK, "usage": {**USAGE, "cost": 0.25}}, USAGE_CHUNK):
        relay.feed(encode(item))
    assert (relay.cost and relay.cost.nanousd) == expected


def test_the_service_tier_is_the_last_that_was_named() -> None:
    relay = stream()
    for item in (ROLE, say("a", service_tier="auto"), say("b", service_tier="auto")):
        relay.feed(encode(item))
    assert relay.service_tier == "auto"
    for item in (say("c", service_tier="flex"), say("d", service_tier=None), STOP):
        relay.feed(encode(item))
    assert relay.service_tier == "flex"


def test_bytes_of_output_are_counted_for_every_kind_of_text() -> None:
    relay = stream()
    relay.feed(encode(chunk({"reasoning_content": "é"})))
    relay.feed(encode(chunk({"content": "中", "refusal": "no"})))
    relay.feed(encode(call(entry(0, "a", "f", "{}"), entry(1, "b", "g", {"x": 1}))))
    assert relay.output_bytes == 2 + 3 + 2 + 2 + len('{"x":1}')


# --- tool calls -----------------------------------------------------------------------------------

F, G = ("call_a", "f"), ("call_b", "g")
ONE = [{"id": "call_a", "kind": "function", "name": "f", "arguments": '{"x":1}'}]
TWO = [*ONE, {"id": "call_b", "kind": "function", "name": "g", "arguments": '{"y":2}'}]

ANONYMOUS = [ONE[0] | {"id": f"call_456789abcdef_0_{number}"} for number in range(2)]
PIECES = ["", '{"x"', ":", "1", "}"]

CALLS: dict[str, tuple[list[Any], list[Any]]] = {
    "canonical": (
        [
            call(entry(0, *F, "", type="function")),
            call(entry(0, arguments='{"x"')),
            call(entry(0, arguments=":")),
            call(entry(0, arguments="1}")),
        ],
        ONE,
    ),
    "whole in one chunk": ([call(entry(0, *F, '{"x":1}'), entry(1, *G, '{"y":2}'))], TWO),
    "parallel, one after the other": (
        [
            call(entry(0, *F, "")),
            call(entry(0, arguments='{"x":1}')),
            call(entry(1, *G, "")),
            call(entry(1, arguments='{"y"')),
            call(entry(1, arguments=":2}")),
        ],
        TWO,
    ),
    "parallel, interleaved": (
        [
            call(entry(0, *F, ""), entry(1, *G, "")),
            call(entry(0, arguments='{"x"')),
            call(entry(1, arguments='{"y"')),
            call(entry(0, arguments=":1}")),
            call(entry(1, arguments=":2}")),
        ],
        TWO,
    ),
    "missing index": (
        [
            call(entry(None, *F, "")),
            call(entry(arguments='{"x"')),
            call(entry(arguments=":1")),
            call(entry(arguments="}")),
            call(entry(None, *G, "")),
            call(entry(arguments='{"y":2}')),
        ],
        TWO,
    ),
    "missing index, whole": ([call(entry(None, *F, '{"x":1}'), entry(None, *G, '{"y":2}'))], TWO),
    "index in the continuation only": (
        [call(entry(None, *F, "")), call(entry(0, arguments='{"x":1}'))],
        ONE,
    ),
    "first index 1": (
        [
            call(entry(1, *F, "")),
            call(entry(1, arguments='{"x":1}')),
            call(entry(5, *G, '{"y":2}')),
        ],
        TWO,
    ),
    "nulls in continuations": (
        [
            call(entry(0, *F, "")),
            *(
                call(
                    {
                        "index": 0,
                        "id": None,
                        "type": None,
                        "function": {"name": None, "arguments": part},
                    }
                )
                for part in ('{"x"', ":", "1}")
            ),
        ],
        ONE,
    ),
    "empty id and name in continuations": (
        [call(entry(0, *F, "")), *(call(entry(0, "", "", part)) for part in ('{"x"', ":", "1}"))],
        ONE,
    ),
    "repeated id and name": (
        [call(entry(0, *F, part, type="function")) for part in ("", '{"x"', ":", "1", "}")],
        ONE,
    ),
    "repeated name without id": (
        [call(entry(0, name="f", arguments=piece)) for piece in PIECES],
        [ANONYMOUS[0]],
    ),
    "one function twice, without ids": (
        [
            *[call(entry(0, name="f")), *(call(entry(0, arguments=p)) for p in PIECES)] * 2,
        ],
        [ANONYMOUS[0], ANONYMOUS[1]],
    ),
    "one function twice, without ids, the name in every piece": (
        [call(entry(0, name="f", arguments=p)) for p in (*PIECES, *PIECES)],
        [ANONYMOUS[0], ANONYMOUS[1]],
    ),
    "a new id in every piece": (
        [
            call(entry(0, *F, "")),
            *(call(entry(0, f"id-{i}", None, part)) for i, part in enumerate(('{"x"', ":", "1}"))),
        ],
        ONE,
    ),
    "two calls at index 0": ([call(entry(0, *F, '{"x":1}')), call(entry(0, *G, '{"y":2}'))], TWO),
    "two calls at index 0, in pieces": (
        [
            call(entry(0, *F, "")),
            call(entry(0, arguments='{"x"')),
            call(entry(0, arguments=":1")),
            call(entry(0, arguments="}")),
            call(entry(0, *G, "")),
            call(entry(0, arguments='{"y"')),
            call(entry(0, arguments=":2")),
            call(entry(0, arguments="}")),
        ],
        TWO,
    ),
    "arguments as an object": (
        [call(entry(0, *F, {"x": 1})), call(entry(0, *G, {"y": 2}))],
        TWO,
    ),
    "null arguments first": (
        [
            call({"index": 0, "id": "call_a", "function": {"name": "f", "arguments": None}}),
            call(entry(0, arguments='{"x":1}')),
        ],
        ONE,
    ),
    "name after the id": (
        [call(entry(0, "call_a")), call(entry(0, name="f")), call(entry(0, arguments='{"x":1}'))],
        ONE,
    ),
    "no arguments": (
        [call(entry(0, *F))],
        [ONE[0] | {"arguments": "{}"}],
    ),
    "empty arguments": (
        [call(entry(0, *F, "")), call(entry(1, *G, '{"y":2}'))],
        [ONE[0] | {"arguments": "{}"}, TWO[1]],
    ),
    "no function": (
        [call({"index": 0, "id": "call_a", "type": "function", "function": None})],
        [{"id": "call_a", "kind": "function", "name": "", "arguments": "{}"}],
    ),
    "a custom tool": (
        [
            call(
                {
                    "index": 0,
                    "id": "call_a",
                    "type": "custom",
                    "custom": {"name": "sql", "input": ""},
                }
            ),
            call({"index": 0, "custom": {"input": "SELECT"}}),
            call({"index": 0, "custom": {"input": " 1"}}),
            call({"index": 0, "custom": {"input": ";"}}),
        ],
        [{"id": "call_a", "kind": "custom", "name": "sql", "input": "SELECT 1;"}],
    ),
}


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(("upstream", "expected"), CALLS.values(), ids=CALLS.keys())
def test_tool_calls_arrive_as_openai_sends_them(
    upstream: list[Any], expected: list[Any], learns: bool, finish: str
) -> None:
    read = client_of([ROLE, *upstream, chunk({}, finish)], learns=learns)
    assert calls_of(read) == expected
    assert finishes(read) == {0: ["tool_calls"]}


def test_calls_without_ids_are_told_apart() -> None:
    """By their name, or by arguments that were complete; and each gets an id of its own."""
    read = client_of(
        [
            call(entry(0, name="f", arguments={"x": 1})),
            call(entry(0, name="f", arguments={"x": 1})),
            call(entry(0, name="g", arguments="")),
            call(entry(0, name="h", arguments="{}")),
            chunk({}, "stop"),
        ]
    )
    calls = calls_of(read)
    assert [(c["name"], c["arguments"]) for c in calls] == [
        ("f", '{"x":1}'),
        ("f", '{"x":1}'),
        ("g", "{}"),
        ("h", "{}"),
    ]
    assert len({c["id"] for c in calls}) == 4


def test_a_repeated_name_in_every_piece_does_not_end_a_call_early() -> None:
    pieces = ['{"a":', '{"b":{}', "}", ',"c":"}', '"', "}"]
    read = client_of([*(call(entry(0, name="f", arguments=p)) for p in pieces), STOP])
    assert [c["arguments"] for c in calls_of(read)] == ["".join(pieces)]


def test_calls_of_several_choices_are_numbered_apart() -> None:
    sent = [
        chunk({"tool_calls": [entry(0, f"id-{index}", "f", "{}")]}, index=index) for index in (1, 0)
    ]
    read = client_of([*sent, chunk({}, "stop", index=0), chunk({}, "stop", index=1)])
    assert [c["id"] for c in calls_of(read, 0)] == ["id-0"]
    assert [c["id"] for c in calls_of(read, 1)] == ["id-1"]


def test_geminis_signature_stays_with_its_call() -> None:
    signed = entry(0, *F, "{}", type="function") | {
        "extra_content": {"google": {"thought_signature": "abc=="}}
    }
    read = client_of([call(signed), STOP])
    assert read[0]["choices"][0]["delta"]["tool_calls"][0] == signed


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_other_finish_reasons_stay_when_tools_were_called(finish: str) -> None:
    read = client_of([call(entry(0, *F, '{"x"')), chunk({}, finish)])
    assert finishes(read) == {0: [finish]}


def test_a_call_that_comes_with_the_finish_is_completed_there() -> None:
    read = client_of([ROLE, call(entry(0, *F), finish="stop")])
    assert calls_of(read) == [ONE[0] | {"arguments": "{}"}]
    assert finishes(read) == {0: ["tool_calls"]}


@pytest.mark.parametrize("bad", [None, "x", 5, []])
def test_what_is_no_tool_call_is_malformed(bad: object) -> None:
    assert isinstance(failing([call(bad)])[1], MalformedAnswer)


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "message", "kind", "code"),
    [
        ({"error": {"message": "No", "type": "t", "code": "c"}}, "No", "t", "c"),
        ({"error": {"message": "No", "code": 429}}, "No", None, "429"),
        ({"error": "No"}, "No", None, None),
        ({**say("x"), "error": {"message": "No"}}, "No", None, None),
        ({"object": "error", "message": "No", "code": 400}, "No", None, "400"),
        ({"type": "error", "message": "No"}, "No", "error", None),
        ({"error": {"message": "\ud83d"}}, "?", None, None),
        ({"error": [1]}, "[1]", None, None),
    ],
)
def test_an_error_in_the_stream_is_raised_in_its_words(
    sent: dict[str, Any], message: str, kind: str | None, code: str | None
) -> None:
    events, failure = failing([ROLE, say("a"), sent, say("b")])
    assert isinstance(failure, UpstreamError)
    assert (failure.message, failure.type, failure.code) == (message, kind, code)
    assert text_of(decoded(events + b"data: [DONE]\n\n")) == "a"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"Bad gateway",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        encode(say("a"))[:-1],
        encode(say("a")) + b"}",
        encode(say("@")).replace(b"@", b"\xff"),
        encode(say("@")).replace(b"@", b"\xe4\xb8"),
        encode(say("@")).replace(b"@", b"\xed\xa0\xbd"),
        encode(say("@")).replace(b"@", b"\n"),
        encode(say("@")).replace(b"@", b"\x00"),
        encode(say("@")).replace(b"@", rb"\x"),
        encode(say("@")).replace(b"@", rb"\u12"),
        encode(say("@")).replace(b"@", b'"'),
        encode(say("@")).replace(b'"@"', b"NaN"),
        encode(say("@")).replace(b'"@"', rb'"\ud83d","x":Infinity'),
        encode(say("@")).replace(b'"@"', rb'"\ud83d","x":1e999'),
        encode(say("@")).replace(b'"@"', b"[" * 100_000),
        encode({**HEAD, "choices": [None]}),
        encode({**HEAD, "choices": ["x"]}),
    ],
)
@pytest.mark.parametrize("before", [[], [ROLE, say("a"), say("b")]], ids=["first", "learned"])
def test_what_is_no_chunk_is_malformed(payload: bytes, before: list[Any]) -> None:
    events, failure = failing([*before, payload, say("lost")])
    assert isinstance(failure, MalformedAnswer)
    assert b"lost" not in events


@pytest.mark.parametrize("padding", [{}, {"obfuscation": "xx"}], ids=["plain", "padded"])
@pytest.mark.parametrize("first", [{}, {"object": "x"}], ids=["passed on", "written anew"])
@pytest.mark.parametrize(
    "odd",
    [
        [b'{"content":"@"}'],
        [b'{"content":""}'],
        [b'{"content":"@","x":"y"}'],
        [b'{"content":"@"},"logprobs":{"content":[],"refusal":"y"}'],
        [b'{"content":"\\ud83d"}', b'{"content":"\\udc4b"}'],
        [b'{"content":"\\u00"}', b'{"content":"41"}'],
        [b'{"content":"\\"}', b'{"content":"n"}'],
        [b'{"content":"\xe4\xb8"}', b'{"content":"\xad"}'],
        [b'{"content":"\xff"}'],
        [b'{"content":"a\x1fb"}'],
        [b'{"content":"a\nb"}'],
        [b'{"content":"}'],
        [b'{"content":"@"}$'],
        [b'{"content":1}'],
        [b'{"content":"@"},"index":1'],
    ],
)
def test_events_leave_together_as_they_would_one_by_one(
    odd: list[bytes], first: dict[str, Any], padding: dict[str, Any]
) -> None:
    says = [encode({**say(f"\\ é{n}"[n % 3 :]), **first, **padding}) for n in range(80)]
    head, _, tail = encode({**say("@"), **first, **padding}).partition(b'{"content":"@"}')
    # Cut off behind a dollar sign.
    odd = [(head + delta + tail).partition(b"$")[0] for delta in odd]
    for at in (40, 41, 79):
        unpadded = encode({**say("@"), **first})
        payloads = [encode(ROLE), *says[:at], *odd, unpadded, *says[at:], encode(STOP)]
        together, alone, decoding = stream(), stream(), stream(learns=False)
        events, failure = together.feed_all(payloads)
        decoding.feed_all(payloads)
        came = []
        for payload in payloads:
            one, same_failure = alone.feed_all([payload])
            came.append(one)
            if same_failure is not None:
                break
        assert events == b"".join(came)
        assert type(failure) is type(same_failure)
        assert together.output_bytes == alone.output_bytes == decoding.output_bytes
        assert together.output_events == alone.output_events == decoding.output_events


def test_nesting_up_to_the_limit_never_breaks_the_stream() -> None:
    for depth in range(100, 1_500, 7):
        payload = encode(say("a")).replace(b'"id"', b'"x":%b,"id"' % (b"[" * depth + b"]" * depth))
        relay = stream()
        _, failure = relay.feed_all([payload, payload])
        assert failure is None or isinstance(failure, MalformedAnswer)


def test_json_over_several_lines_leaves_on_one() -> None:
    pretty = json.dumps(say("a\nb"), indent=2).encode()
    read = client_of([ROLE, pretty, pretty, STOP])
    assert text_of(read) == "a\nba\nb"


def test_many_calls_take_time_in_proportion() -> None:
    begun = [encode(call(entry(n, f"c{n}", "f", "{"))) for n in range(20_000)]
    began = time.process_time()
    _, failure = stream().feed_all(begun)
    assert failure is None
    assert time.process_time() - began < 4  # looking through all calls took half a minute
