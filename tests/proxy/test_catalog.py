from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import msgspec
import pytest

from proxy import catalog
from proxy.catalog import CATALOG, Catalog, Model, Provider
from proxy.price_book import PriceBook


@pytest.fixture(scope="module")
def known() -> Catalog:
    return catalog.load()


@pytest.fixture(scope="module")
def prices() -> PriceBook:
    return PriceBook.load()


def every_model(known: Catalog) -> list[tuple[Provider, Model]]:
    return [(provider, model) for provider in known.providers for model in provider.models]


def test_the_table_bears_a_date(known: Catalog) -> None:
    assert date(2026, 11, 20) <= known.as_of <= date.today()


def test_names_are_unique(known: Catalog) -> None:
    ids = Counter(provider.id for provider in known.providers)
    names = Counter((provider.id, model.name) for provider, model in every_model(known))
    variables = Counter(name for provider in known.providers for name in provider.api_key_env)
    assert max((ids | names | variables).values()) == 1


def test_every_model_has_a_price_today(known: Catalog, prices: PriceBook) -> None:
    for provider, model in every_model(known):
        if model.free:
            continue
        price = prices.find(provider.price_provider, model.name, known.as_of)
        assert price is not None, model.name
        assert price.dearest_input > 0, model.name


def test_no_model_claims_more_context_than_the_snapshot_knows(
    known: Catalog, prices: PriceBook
) -> None:
    for provider, model in every_model(known):
        if model.context_length is None:
            continue
        context = prices.context_length(provider.price_provider, model.name)
        assert context is not None, model.name
        assert model.context_length <= context, model.name
        assert (model.max_output_tokens or 0) < model.context_length, model.name


def test_every_provider_has_an_address(known: Catalog) -> None:
    for provider in known.providers:
        assert provider.address.startswith("https://"), provider.id


@pytest.mark.parametrize("tier", ["auto", "best", "cheap", "fast"])
def test_every_provider_serves_every_chat_tier(known: Catalog, tier: str) -> None:
    for provider in known.providers:
        serving = [model for model in provider.models if tier in model.tiers]
        assert serving, provider.id
        assert all("chat" in model.capabilities for model in serving), provider.id


def test_the_embed_tier_holds_embedding_models_of_one_space_a_provider(known: Catalog) -> None:
    for provider in known.providers:
        serving = [model for model in provider.models if "embed" in model.tiers]
        assert all("embeddings" in model.capabilities for model in serving)
        assert len({model.vector_space for model in serving}) == len(serving) <= 1


def test_openai_embeds_with_the_small_model_and_knows_the_large(known: Catalog) -> None:
    (openai,) = (provider for provider in known.providers if provider.id == "openai")
    assert [model.name for model in openai.models if "embed" in model.tiers] == [
        "text-embedding-3-small"
    ]
    assert "text-embedding-3-large" in {model.name for model in openai.models}


def test_cheap_is_never_dearer_than_best(known: Catalog, prices: PriceBook) -> None:
    for provider in known.providers:
        output = {
            tier: [
                price.output
                for model in provider.models
                if tier in model.tiers
                and (price := prices.find(provider.price_provider, model.name, known.as_of))
            ]
            for tier in ("cheap", "best")
        }
        assert max(output["cheap"]) <= min(output["best"]), provider.id


def test_the_providers_whose_keys_are_looked_for(known: Catalog) -> None:
    assert {provider.id: provider.api_key_env[0] for provider in known.providers} == {
        "openai": "OPENAI_API_KEY",
        "anthropic": "ANTHROPIC_API_KEY",
        "groq": "GROQ_API_KEY",
        "mistral": "MISTRAL_API_KEY",
        "deepseek": "DEEPSEEK_API_KEY",
        "xai": "XAI_API_KEY",
        "openrouter": "OPENROUTER_API_KEY",
        "gemini": "GEMINI_API_KEY",
        "together": "TOGETHER_API_KEY",
        "fireworks": "FIREWORKS_API_KEY",
        "cerebras": "CEREBRAS_API_KEY",
    }


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("as_of: 2026-11-20", "as_of: soon", r"\$\.as_of"),
        ("as_of: 2026-11-20", "as_of: 2026-11-20\nsurprise: 1", "surprise"),
        ("meterable: true", "meterabel: true", r"\$\.providers\[0\]"),
        ("https://generative", "http://generative", r"base_url"),
        ("tiers: [auto]", "tiers: [nicest]", r"models\[0\]\.tiers"),
        ("[chat, tools, vision, json_schema]", "[chat, telepathy]", "capabilities"),
        ("[chat, tools, vision, json_schema]", "[chat, embeddings]", "one of chat and embeddings"),
        ("max_output_tokens: 32768", "max_output_tokens: 0", "max_output_tokens"),
        ("        max_output_tokens: 32768\n", "", "max_output_tokens"),
        ("        dimensions: 1536\n", "", "dimensions"),
        ("        dimensions: 1536\n", "        max_output_tokens: 1\n", "max_output_tokens"),
    ],
)
def test_a_mistake_in_the_table_is_refused_with_its_place(
    tmp_path: Path, right: str, wrong: str, place: str
) -> None:
    text = CATALOG.read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "catalog.yaml"
    broken.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(msgspec.ValidationError, match=place):
        catalog.load(broken)
