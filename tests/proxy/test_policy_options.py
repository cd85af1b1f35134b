"""Tiers in the options of policies: each target once, where it is named first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Route
from proxy import config_file, serve
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.errors import StartError
from proxy.explain import parse
from proxy.figures import Figures
from proxy.policy_options import spelt_out
from proxy.price_book import PriceBook
from proxy.routing import Router

TIERS = {"tier:x": ["a", "b"], "tier:y": ["b", "c"], "tier:none": []}
HARD = (
    "Prove that there are infinitely many primes, then derive the asymptotic density of primes, "
    "and discuss every assumption step by step."
)


def test_tiers_are_their_targets_each_once() -> None:
    options = {
        "strong": ["tier:x"],
        "weak": ["tier:y", "z"],
        "shares": {"tier:y": 2, "a": 1},
        "share": 0.3,
        "by": "tier:x",
        "odd": [{"a": 1}, 5],
    }
    assert spelt_out(options, TIERS.__getitem__) == {
        "strong": ["b"],  # `a` is named below
        "weak": ["c", "z"],
        "shares": {"a": 1},
        "share": 0.3,
        "by": "tier:x",
        "odd": [{"a": 1}, 5],
    }
    assert spelt_out({"weak": ["tier:none"]}, TIERS.__getitem__) == {"weak": []}


@given(
    st.dictionaries(
        st.sampled_from(("strong", "weak")),
        st.lists(st.sampled_from((*TIERS, "a", "b", "c", "d")), unique=True),
    )
)
def test_a_tier_never_doubles_a_target(options: dict[str, list[str]]) -> None:
    spelt = spelt_out(options, TIERS.__getitem__)
    for name in "abcd":
        named = sum(value.count(name) for value in options.values())
        found = sum(value.count(name) for value in spelt.values())
        behind = any(name in TIERS.get(t, ()) for value in options.values() for t in value)
        assert found == (named or int(behind))


def _config(strong: str) -> dict[str, object]:
    return {
        "providers": {"openai": {"adapter": "openai", "api_key": "k"}},
        "targets": [
            {"target": f"openai/{name}"} for name in ("gpt-6.1-terra", "gpt-6-astra", "gpt-6-luna")
        ],
        "models": {
            "auto": {
                "targets": ["tier:auto", "tier:best", "tier:cheap"],
                "policy": {"name": "learned", "strong": [strong], "weak": ["tier:auto"]},
            }
        },
    }


def test_the_dial_of_auto_goes_by_tiers(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump(_config("tier:best")))
    loaded = config_file.load(file, {})
    tables = serve.resolve(loaded, {}, PriceBook.load(), looks=False).tables
    clock = SystemClock()
    router = Router(
        table=tables,
        figures=Figures(clock),
        circuits=Circuits(loaded.circuit, clock),
        secret=b"",
        clock=clock,
    )

    def route(text: str) -> list[str]:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        request = parse(json.dumps(body).encode())
        outcome = router.decide(router.find(ANONYMOUS, "auto"), request).outcome
        assert isinstance(outcome, Route)
        return [choice.target.removeprefix("openai/") for choice in outcome.choices]

    assert route("Hi")[0] == "gpt-6.1-terra"
    assert route(HARD)[0] == "gpt-6-astra"
    assert "gpt-6-luna" in route("Hi")[1:]  # of neither tier: a fallback


@pytest.mark.parametrize("strong", ["tier:nothing", "gpt-6-astra", "openai/*"])
def test_what_is_neither_a_tier_nor_a_target_is_refused(tmp_path: Path, strong: str) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump(_config(strong)))
    with pytest.raises(StartError, match=r"models\.auto\.policy"):
        config_file.load(file, {})
