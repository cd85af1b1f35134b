"""Cascades and consensuses: whole answers are looked at before anything leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, completion

HAS_SCHEMAS = find_spec("jsonschema") is not None
MODELS = ("cheap", "middle", "dear", "judge")
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def says(text: str, *, logprobs: float | None = None, **changes: Any) -> Script:
    """Answer with a text in one piece, whatever is asked for; streams are not expected."""

    async def script(call: Call, line: Line) -> None:
        assert not call.body.get("stream") and "stream_options" not in call.body
        answer = completion(text, **changes)
        if logprobs is not None and call.body.get("logprobs"):
            tokens = [{"token": "x", "logprob": logprobs, "bytes": None, "top_logprobs": []}] * 3
            answer["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
        await line.json(answer)

    return script


def calls(name: str, arguments: str) -> Script:
    async def script(call: Call, line: Line) -> None:
        answer = completion()
        function = {"name": name, "arguments": arguments}
        answer["choices"][0]["message"] = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call_{call.model}", "type": "function", "function": function}],
        }
        answer["choices"][0]["finish_reason"] = "tool_calls"
        await line.json(answer)

    return script


async def fail(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "out of order", "type": "server_error"}}, "500 Oops")


async def hang(call: Call, line: Line) -> None:
    await line.until_closed()


@pytest.fixture(scope="module")
def weighing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, *MODELS, "eye1", "eye2", "embed", retries={"tries": 1})
    for target, factor in zip(config["targets"], (1, 2, 10, 1, 1, 1, 1), strict=True):
        target["price"] = {"input": factor, "output": 2 * factor}
        if "eye" in target["target"]:
            target["capabilities"] = ["chat", "vision"]
    climbing = ["up/dear", "up/cheap", "up/middle"]
    voting = ["up/cheap", "up/middle", "up/dear"]
    judge = {"target": "up/judge", "prompt": "It is polite."}
    config["models"] = {
        name: {"targets": climbing, "policy": {"name": "cascade", **options}}
        for name, options in {
            "plain": {},
            "listed": {"order": "listed"},
            "regex": {"regex": "^[0-9]+$"},
            "forever": {"regex": "^(a+)+$"},
            "schema": {"schema": SCHEMA},
            "sure": {"confidence": 0.8},
            "judged": {"judge": judge},
        }.items()
        if name != "schema" or HAS_SCHEMAS
    } | {
        "vote": {"targets": voting, "policy": "consensus"},
        "two": {"targets": voting, "policy": {"name": "consensus", "targets": 2}},
        "picked": {"targets": voting, "policy": {"name": "consensus", "judge": judge}},
        "pair": {"targets": voting, "policy": "race"},
        "seeing": {"targets": ["up/eye1", "up/eye2"], "policy": "consensus"},
        "vectors": {"targets": ["up/embed"], "policy": "consensus"},
    }
    with serving(tmp_path_factory.mktemp("weighing"), config) as running:
        yield running


def text_of(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def asked(upstream: Upstream) -> list[str]:
    return [call.model for call in upstream.calls]


# --- cascades ------------------------------------------------------------------------------------


def test_the_cheapest_target_is_asked_first_and_its_good_answer_taken(
    upstream: Upstream, weighing: Tollway
) -> None:
    reply = weighing.chat("plain")
    assert text_of(reply) == "Hello there"
    assert asked(upstream) == ["cheap"]
    assert reply.headers["x-tollway-attempts"] == "1"
    weighing.chat("listed")
    assert asked(upstream) == ["cheap", "dear"]


@pytest.mark.parametrize(
    ("model", "bad", "good"),
    [
        ("plain", says(""), says("Yes")),
        ("plain", fail, says("Yes")),
        ("regex", says("four"), says("4")),
        ("schema", says('{"town": "Rome"}'), says('{"city": "Rome"}')),
        ("schema", says("Rome"), says('{"city": "Rome"}')),
        ("sure", says("Perhaps", logprobs=-0.9), says("Surely", logprobs=-0.01)),
        ("sure", says("Perhaps"), says("Surely", logprobs=-0.01)),
    ],
)
def test_what_does_not_pass_is_escalated(
    upstream: Upstream, weighing: Tollway, model: str, bad: Script, good: Script
) -> None:
    if model == "schema" and not HAS_SCHEMAS:
        pytest.skip("the extra `swaps` is not installed")
    upstream.scripts.update(cheap=bad, middle=good)
    reply = weighing.chat(model)
    assert reply.headers["x-tollway-model"] == "up/middle"
    assert reply.headers["x-tollway-attempts"] == "2"
    assert asked(upstream) == ["cheap", "middle"]
    request_id = reply.headers["x-tollway-request-id"]
    rows = [row for row in weighing.rows() if row["request_id"] == request_id]
    assert {row["route_reason"] for row in rows} == {"cascade"}
    cost = sum(row["cost_nanousd"] for row in rows)
    assert float(reply.headers["x-tollway-cost-usd"]) == pytest.approx(cost / 1e9)
    # Nobody asked for log probabilities.
    assert reply.json()["choices"][0]["logprobs"] is None


def test_the_last_answer_is_taken_as_it_is_and_an_earlier_one_where_there_is_none(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(cheap=says("one"), middle=says("two"), dear=says("three"))
    assert text_of(weighing.chat("regex")) == "three"
    upstream.scripts.update(dear=fail)
    reply = weighing.chat("regex")
    assert text_of(reply) == "two"
    assert reply.headers["x-tollway-model"] == "up/middle"
    upstream.scripts.update(cheap=fail, middle=fail)
    assert weighing.chat("regex").status_code == 502


def test_an_expression_that_never_ends_holds_nobody_up(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(cheap=says("a" * 40 + "!"), middle=says("aaa"))
    for _ in range(2):
        reply = weighing.chat("forever")
        assert reply.headers["x-tollway-model"] == "up/middle"


def test_a_judge_is_asked_and_billed(upstream: Upstream, weighing: Tollway) -> None:
    verdicts = iter(["It is rude.\nFAIL", "Good. PASS"])

    async def judge(call: Call, line: Line) -> None:
        await line.json(completion(next(verdicts)))

    upstream.scripts.update(cheap=says("No."), middle=says("No, thank you."), judge=judge)
    reply = weighing.chat("judged")
    assert text_of(reply) == "No, thank you."
    assert asked(upstream) == ["cheap", "judge", "middle", "judge"]
    prompt = upstream.calls[1].body["messages"]
    assert "It is polite." in prompt[0]["content"]
    assert json.loads(prompt[1]["content"]) == {"request": ["Hello"], "answer": "No."}
    request_id = reply.headers["x-tollway-request-id"]
    rows = [row for row in weighing.rows() if row["request_id"] == request_id]
    assert [row["route_reason"] for row in rows] == ["cascade", "judge", "cascade", "judge"]
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert all(row["cost_nanousd"] > 0 for row in rows)
    said = {"request_id": request_id, "metric": "thumbs", "value": 1}
    assert weighing.post("/v1/feedback", said).status_code == 200
    judged = weighing.admin("GET", "/feedback")["data"]
    assert [each["target"] for each in judged] == ["up/middle"]


def test_without_its_judge_nothing_passes_but_the_last(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(judge=fail, dear=says("the best there is"))
    assert text_of(weighing.chat("judged")) == "the best there is"


def test_a_tool_call_is_passed_on_unchanged(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=calls("weather", '{"city": "Rome"}'))
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    for streams in (False, True):
        client = openai.OpenAI(base_url=f"{weighing.url}/v1", api_key="none", max_retries=0)
        body: dict[str, Any] = {
            "model": "regex",
            "messages": [{"role": "user", "content": "Weather?"}],
            "tools": tools,
        }
        if streams:
            with client.chat.completions.stream(**body) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**body).choices[0].message
        (call,) = message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    assert asked(upstream) == ["cheap", "cheap"]


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_is_made_of_the_answer_that_was_taken(
    upstream: Upstream, weighing: Tollway, wants_usage: bool
) -> None:
    upstream.scripts.update(cheap=says("four"), middle=says("4"))
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    reply = weighing.chat("regex", stream=True, **options)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(reply.text)
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "4"
    assert choices[-1]["finish_reason"] == "stop"
    assert bool(chunks[-1].get("usage")) == wants_usage


def test_other_dialects_are_answered_in_their_own(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=says("four"), middle=says("4"))
    for path, body in (
        ("/v1/messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
    ):
        for streams in (False, True):
            reply = weighing.post(path, {"model": "regex", "stream": streams, **body})
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-tollway-model"] == "up/middle"
            assert '"4"' in reply.text and "four" not in reply.text


# --- consensuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["regex", "vote"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_the_models_of_a_request_only_stand_in(
    upstream: Upstream, weighing: Tollway, name: str, streams: bool
) -> None:
    """No answer is checked or voted on for their sake."""
    for model in ("cheap", "middle", "dear"):
        upstream.scripts[model] = says(f"No number by {model}")
    weighing.chat(name, models=["up/judge"])
    assert "judge" not in asked(upstream)
    for model in ("cheap", "middle", "dear"):
        upstream.scripts[model] = fail
    reply = weighing.chat(name, models=["up/judge"], stream=streams)
    assert (reply.status_code, reply.headers["x-tollway-model"]) == (200, "up/judge")
    assert asked(upstream)[-1] == "judge"


def test_the_majority_wins_after_normalisation(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=says("Five"), middle=says("**Four.**"), dear=says("four"))
    reply = weighing.chat("vote")
    assert text_of(reply) == "**Four.**"
    assert reply.headers["x-tollway-model"] == "up/middle"
    assert reply.headers["x-tollway-attempts"] == "3"
    request_id = reply.headers["x-tollway-request-id"]
    rows = [row for row in weighing.rows() if row["request_id"] == request_id]
    assert {row["route_reason"] for row in rows} == {"consensus"}
    cost = sum(row["cost_nanousd"] for row in rows)
    assert float(reply.headers["x-tollway-cost-usd"]) == pytest.approx(cost / 1e9)


def test_of_ties_the_first_in_order_wins(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=says("1"), middle=says("2"), dear=says("3"))
    assert text_of(weighing.chat("vote")) == "1"
    assert text_of(weighing.chat("two")) == "1"


def test_what_is_decided_is_not_waited_for(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=hang, middle=says("4"), dear=says("4"))
    reply = weighing.chat("vote")
    assert reply.headers["x-tollway-model"] == "up/middle"
    rows = {row["target"]: row for row in weighing.rows()[-3:]}
    assert rows["up/cheap"]["outcome"] == "cancelled"


def test_calls_agree_by_name_and_arguments(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(
        cheap=calls("weather", '{"city": "Paris"}'),
        middle=calls("weather", '{"days": 1, "city": "Rome"}'),
        dear=calls("weather", '{"city":"Rome","days":1}'),
    )
    message = weighing.chat("vote").json()["choices"][0]["message"]
    assert message["tool_calls"][0]["id"] == "call_middle"


def test_who_fails_has_no_vote_and_others_are_asked_where_all_do(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(cheap=fail, middle=says("2"), dear=says("3"))
    assert text_of(weighing.chat("vote")) == "2"
    upstream.scripts.update(middle=fail)
    assert text_of(weighing.chat("two")) == "3"
    upstream.scripts.update(dear=fail)
    assert weighing.chat("two", stream=True).status_code == 502


def test_a_judge_picks_and_the_majority_counts_where_it_does_not(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(cheap=says("1"), middle=says("1"), dear=says("Please: 1"))
    upstream.scripts["judge"] = says("The politest is\n3")
    assert text_of(weighing.chat("picked")) == "Please: 1"
    upstream.scripts["judge"] = says("None of them.")
    assert text_of(weighing.chat("picked")) == "1"
    upstream.scripts["dear"] = says(" 1 ")
    upstream.calls.clear()
    weighing.chat("picked")
    assert "judge" not in asked(upstream), "there is nothing to choose"


def test_a_consensus_never_overspends_a_hard_budget(upstream: Upstream, tmp_path: Path) -> None:
    """Who is refused has no vote; where there is money for nobody, the refusal is the answer."""
    config = provider(upstream.base_url, "a", "b", "c", meterable=False)
    config["models"] = {"auto": {"targets": ["up/a", "up/b", "up/c"], "policy": "consensus"}}
    config["budgets"] = [{"scope": "global", "limit_usd": 0.005, "window": "lifetime"}]
    upstream.scripts.update(dict.fromkeys("abc", says("4", output=1000)))
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("auto", max_tokens=1000)
        assert reply.status_code == 200
        assert reply.headers["x-tollway-attempts"] == "2"
        refused = tollway.chat("auto", max_tokens=1000)
        assert refused.json()["error"]["code"] == "insufficient_quota"
        (budget,) = tollway.admin("GET", "/budgets")["data"]
        assert budget["overrun_usd"] == 0
        assert budget["spent_usd"] <= 0.005


# --- both ----------------------------------------------------------------------------------------


def test_several_answers_pass_through_and_must_all_pass(
    upstream: Upstream, weighing: Tollway
) -> None:
    def several(*texts: str) -> Script:
        async def script(call: Call, line: Line) -> None:
            assert call.body["n"] == 2
            answer = completion()
            (choice,) = answer["choices"]
            answer["choices"] = [
                {**choice, "index": i, "message": {"role": "assistant", "content": text}}
                for i, text in enumerate(texts)
            ]
            await line.json(answer)

        return script

    upstream.scripts.update(cheap=several("1", "two"), middle=several("3", "4"))
    client = openai.OpenAI(base_url=f"{weighing.url}/v1", api_key="none", max_retries=0)
    asked_for: dict[str, Any] = {
        "model": "regex",
        "messages": [{"role": "user", "content": "Hi"}],
        "n": 2,
    }
    whole = client.chat.completions.create(**asked_for)
    assert [choice.message.content for choice in whole.choices] == ["3", "4"]
    with client.chat.completions.stream(**asked_for) as stream:
        streamed = stream.get_final_completion()
    assert [choice.message.content for choice in streamed.choices] == ["3", "4"]


def test_images_reach_every_target(upstream: Upstream, weighing: Tollway) -> None:
    url = "data:image/png;base64,AAAA"
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    body = {"model": "seeing", "messages": [{"role": "user", "content": parts}]}
    assert weighing.post("/v1/chat/completions", body).status_code == 200
    assert all(call.body["messages"][0]["content"] == parts for call in upstream.calls)
    assert len(upstream.calls) == 2


def test_a_client_that_wants_log_probabilities_has_them(
    upstream: Upstream, weighing: Tollway
) -> None:
    upstream.scripts.update(cheap=says("Surely", logprobs=-0.01))
    reply = weighing.chat("sure", logprobs=True)
    assert reply.headers["x-tollway-attempts"] == "1"
    assert len(reply.json()["choices"][0]["logprobs"]["content"]) == 3


@pytest.mark.parametrize("model", ["judged", "picked", "vote", "pair"])
def test_what_is_asked_in_advance_says_how_and_what_it_costs_at_most(
    upstream: Upstream, weighing: Tollway, model: str
) -> None:
    """The worst case covers what is held for a live request."""
    upstream.scripts.update(cheap=says("1"), middle=says("2"), dear=says("3"), judge=says("FAIL"))
    if model == "pair":
        upstream.scripts.clear()
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    dry = weighing.post("/v1/route", body).json()
    strategy = dry["strategy"]
    assert strategy["kind"] == {"judged": "cascade", "pair": "race"}.get(model, "consensus")
    assert (strategy.get("judge") == "up/judge") == (model in ("judged", "picked"))
    assert "polite" not in json.dumps(dry), "what the judge is told is the operator's"
    live = weighing.post("/v1/chat/completions", body)
    assert live.headers["x-tollway-decision"] == dry["decision"]
    request_id = live.headers["x-tollway-request-id"]
    held = sum(row["hold_nanousd"] for row in weighing.rows() if row["request_id"] == request_id)
    assert 0 < held <= strategy["worst_case_cost_usd"] * 1e9
    assert weighing.post("/v1/route", {**body, "model": "up/cheap"}).json()["strategy"] is None


def test_embeddings_are_asked_one_after_the_other(upstream: Upstream, weighing: Tollway) -> None:
    """There is nothing in vectors to agree on."""
    upstream.scripts["embed"] = fail
    reply = weighing.post("/v1/embeddings", {"model": "vectors", "input": "Hi"})
    assert reply.status_code == 502
    del upstream.scripts["embed"]
    assert (
        weighing.post("/v1/embeddings", {"model": "vectors", "input": "Hi"}).headers[
            "x-tollway-attempts"
        ]
        == "1"
    )


def test_a_judge_sees_nothing_that_it_may_not(upstream: Upstream, weighing: Tollway) -> None:
    """What keeps a request in a region keeps it from a judge elsewhere, too."""
    upstream.scripts.update(cheap=says("1"), middle=says("1"), dear=says("3"), judge=says("3"))
    body = {"messages": [{"role": "user", "content": "Hi"}], "provider": {"ignore": ["up/judge"]}}
    for model, taken in (("judged", "3"), ("picked", "1")):
        dry = weighing.post("/v1/route", {"model": model, **body}).json()
        assert [each["target"] for each in dry["rejections"]] == ["up/judge"]
        assert text_of(weighing.post("/v1/chat/completions", {"model": model, **body})) == taken
    assert "judge" not in asked(upstream)


def test_feedback_is_of_the_answer_that_was_taken(upstream: Upstream, weighing: Tollway) -> None:
    upstream.scripts.update(cheap=says("No"), middle=says("Yes"), dear=says("No"))
    upstream.scripts["judge"] = says("2")
    for name, target in (("vote", "up/cheap"), ("picked", "up/middle")):
        reply = weighing.chat(name)
        assert reply.headers["x-tollway-model"] == target
        request_id = reply.headers["x-request-id"]
        body = {"request_id": request_id, "metric": "thumbs", "value": True}
        assert weighing.post("/v1/feedback", body).status_code == 200
        found = weighing.query(
            "SELECT a.target FROM feedback AS f JOIN attempts AS a ON a.id = f.attempt "
            f"WHERE f.request_id = '{request_id}'"
        )
        assert found == [{"target": target}]
