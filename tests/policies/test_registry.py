"""How policies are found, and get their options: ours, a package's, one in a file."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from policies import registry
from policies.balanced import BalancedOptions
from policies.base import Analysis, Candidate, Question
from policies.constraints import Constraints, ResourceLimits
from policies.rules import Rule, When
from policies.weighted import Reserve, Scales, WeightedOptions
from policies.weights import Weights
from proxy import config_file
from proxy.config import Expectation
from proxy.errors import StartError

DOCS = Path(__file__).parents[2] / "docs" / "policies.md"


def _example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.S)
    assert found
    return found[1]


def _config(folder: Path, policy: str) -> Path:
    file = folder / "router.yaml"
    file.write_text(
        "providers: {up: {base_url: 'http://127.0.0.1:9/v1'}}\n"
        "targets: [{target: up/m}]\n"
        f"models:\n  auto:\n    targets: [up/m]\n    policy: {policy}\n"
    )
    return file


def test_the_policy_of_the_docs_works(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(_example("python"))
    policy = registry.make(str(file), {"code_goes_to": "b"})
    found = [
        Candidate(
            name=name, capabilities=frozenset({"chat"}), context_length=None,
            input_nanousd=1, output_nanousd=1,
        )
        for name in ("a/x", "b/y")
    ]  # fmt: skip
    analysis = Analysis(
        task="coding", complexity="simple", domain="software", language="en", modality="text",
        output_tokens=100, latency_sensitivity="normal",
    )  # fmt: skip
    question = Question(needs=frozenset({"chat"}), input_tokens=10)
    asked = Question(needs=frozenset({"chat"}), input_tokens=10, analysis=analysis)
    assert [choice.target for choice in policy.decide(question, found)] == ["a/x", "b/y"]
    assert [choice.target for choice in policy.decide(asked, found)] == ["b/y", "a/x"]
    config_file.load(_config(tmp_path, f"{{name: {file}, code_goes_to: b}}"), {})


def test_a_policy_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installed package has it: its metadata beside its module."""
    (tmp_path / "thrifty_policy.py").write_text(_example("python"))
    metadata = tmp_path / "thrifty_policy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: thrifty-policy\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[tollway.policies]\nthrifty = thrifty_policy:Policy\n"
    )
    with pytest.raises(KeyError):
        registry.make("thrifty", {"code_goes_to": "b"})
    monkeypatch.syspath_prepend(tmp_path)
    assert "thrifty" in registry.names()
    assert registry.make("thrifty", {"code_goes_to": "b"}).name == "mine"
    with pytest.raises(ValueError, match="code_goes_to"):
        registry.make("thrifty", {})
    folder = tmp_path / "configuration"
    folder.mkdir()
    config_file.load(_config(folder, "{name: thrifty, code_goes_to: b}"), {})
    with pytest.raises(StartError, match=r"models\.auto\.policy"):
        config_file.load(_config(folder, "{name: thrifty, code_goes: b}"), {})


def test_the_configuration_of_the_docs_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(_example("yaml"))
    assert config_file.load(file, {}).models["auto"].constraints.max_cost_per_request == 0.5


@pytest.mark.parametrize(
    ("policy", "place", "problem"),
    [
        ("nobody", "models.auto.policy", "known: ordered, cheapest"),
        ("{weights: {cost: 1}}", "models.auto.policy.name", "is missing"),
        ("{name: ordered, by: cost}", "models.auto.policy.by", "is no setting"),
        ("{name: weighted, weights: {price: 1}}", "models.auto.policy.weights.price", "no setting"),
        ("{name: weighted, weights: {cost: 0}}", "models.auto.policy.weights", "above 0"),
        ("{name: balanced, by: magic}", "models.auto.policy.by", "round_robin"),
        ("{name: balanced, by: weighted, shares: {m: 2}}", "models.auto.policy", "write provider"),
        ("{name: learned, strong: [up/typo]}", "models.auto.policy", "no target 'up/typo'"),
        ("./missing.py", "models.auto.policy", "missing.py"),
        ("{name: race, targets: 1}", "models.auto.policy.targets", ">= 2"),
        ("{name: race, stagger_s: -1}", "models.auto.policy.stagger_s", ">= 0"),
        ("{name: consensus, judge: {prompt: x}}", "models.auto.policy.judge.target", "missing"),
        ("{name: consensus, judge: {target: up/typo}}", "models.auto.policy", "no target"),
        ("{name: cascade, regex: '('}", "models.auto.policy", "no regular expression"),
        pytest.param(
            "{name: cascade, schema: {type: 7}}",
            "models.auto.policy",
            "no JSON Schema",
            marks=pytest.mark.skipif(find_spec("jsonschema") is None, reason="the extra `swaps`"),
        ),
        ("{name: cascade, confidence: 2}", "models.auto.policy.confidence", "<= 1"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, policy: str, place: str, problem: str
) -> None:
    with pytest.raises(StartError) as error:
        config_file.load(_config(tmp_path, policy), {})
    assert f" {place}: " in str(error.value)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("x = 1", "no class 'Policy'"),
        ("Policy = 1", "no class"),
    ],
)
def test_a_file_that_is_no_policy_is_told(tmp_path: Path, code: str, problem: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(StartError) as error:
        config_file.load(_config(tmp_path, str(file)), {})
    assert problem in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        *(Weights, WeightedOptions, Scales, Reserve, BalancedOptions),
        *(Constraints, ResourceLimits, Rule, When, Expectation),
    ],
)
def test_every_option_is_documented(settings: type[msgspec.Struct]) -> None:
    text = DOCS.read_text()
    missing = [name for name in settings.__struct_encode_fields__ if name not in text]
    assert not missing


def test_a_policy_of_ones_own_may_have_a_strategy(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    lines = _example("python").replace('name = "mine"', 'name = "mine"\n    strategy = STRATEGY')
    file.write_text(f"from policies.strategies import Race\nSTRATEGY = Race(targets=2)\n{lines}")
    config_file.load(_config(tmp_path, f"{{name: {file}, code_goes_to: b}}"), {})
    wrong = tmp_path / "wrong.py"
    wrong.write_text(f"STRATEGY = 'race'\n{lines}")
    with pytest.raises(StartError, match="its strategy is a str"):
        config_file.load(_config(tmp_path, f"{{name: {wrong}, code_goes_to: b}}"), {})
