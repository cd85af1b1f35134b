"""Exact counts: they agree with the tokenizer, and never fall short where a text is cut."""

from __future__ import annotations

import asyncio

import bpe_openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import tokens


def count(model: str, *texts: str) -> int | None:
    return asyncio.run(tokens.count(model, texts))


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-5-mini", "o200k_base"),
        ("openai/gpt-oss-20b", "o200k_base"),
        ("text-embedding-3-small", "cl100k_base"),
    ],
)
def test_a_known_model_is_counted_with_its_own_vocabulary(model: str, encoding: str) -> None:
    text = "Zwölf Boxkämpfer jagen Viktor; def f(x): return x ** 2  👋"
    expected = len(bpe_openai.get_encoding(encoding).encode_ordinary(text))
    assert count(model, text) == expected
    assert count(model, text, text) == 2 * expected
    assert tokens.is_countable(model)


@pytest.mark.parametrize("model", ["claude-opus-5", "gemini-3-pro", "llama3.2:3b", ""])
def test_any_other_model_is_not_counted(model: str) -> None:
    assert count(model, "text") is None
    assert not tokens.is_countable(model)


@given(st.text(max_size=200), st.integers(1, 400))
def test_a_text_that_is_cut_is_never_counted_too_low(text: str, times: int) -> None:
    long = text * times
    whole = len(bpe_openai.get_encoding("o200k_base").encode_ordinary(long[:100_000]))
    counted = count("gpt-4o", long[:100_000])
    assert counted is not None
    assert counted >= whole


def test_what_looks_like_a_special_token_is_text() -> None:
    counted = count("gpt-4o", "<|endoftext|>")
    assert counted is not None
    assert counted > 1


def test_others_get_their_turn_while_a_long_text_is_counted() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        await tokens.count("gpt-4o", ["warm"])
        task = asyncio.create_task(other())
        before = turns
        await tokens.count("gpt-4o", ["some text " * 50_000])
        task.cancel()
        assert turns - before >= 50

    asyncio.run(run())
