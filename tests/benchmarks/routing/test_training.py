"""The whole of the training, on outcomes made up here: no data are shipped."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

np = pytest.importorskip("numpy", reason="benchmarks/routing/requirements.txt is not installed")
pytest.importorskip("scipy", reason="benchmarks/routing/requirements.txt is not installed")
pyarrow = pytest.importorskip(
    "pyarrow", reason="benchmarks/routing/requirements.txt is not installed"
)

import msgspec  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from benchmarks.routing import evaluation, training  # noqa: E402
from benchmarks.routing.__main__ import main  # noqa: E402
from benchmarks.routing.metrics import figures  # noqa: E402
from benchmarks.routing.outcomes import FAMILIES, TEST_PAIR, TESTS, Outcomes, read  # noqa: E402
from policies.calibration import Calibration  # noqa: E402
from policies.difficulty import Difficulty, Weights  # noqa: E402

# Many of either, for a word in every tenth prompt is too common to be learned.
EASY = ("rainbow", "sunset", "meadow", "kitten", "picnic", "beach", "holiday", "cookie", "garden")
HARD = ("turbine", "tensor", "enzyme", "lattice", "orbit", "plasma", "kernel", "circuit", "isotope")
MODELS = sorted({model for _, *pair in evaluation.UNSEEN_PAIRS for model in pair})
ANY = Calibration(scores=(1.0, 0.0))


def _prompt(draw: random.Random, word: str) -> str:
    return " ".join([word, *(f"w{draw.randrange(10**6)}x" for _ in range(draw.randrange(3, 9)))])


def _set(name: str, groups: list[str], models: list[str], seed: int, rows: int = 60) -> Outcomes:
    """Prompts of which the weak half of the models, by their order here, fails the hard ones."""
    draw = random.Random(seed)
    words = [draw.choice((*EASY, *HARD)) for _ in range(rows)]
    weak = np.array([float(word in EASY) for word in words])
    return Outcomes(
        name=name,
        prompts=[_prompt(draw, word) for word in words],
        groups=[draw.choice(groups) for _ in words],
        worth={
            model: weak if place < len(models) / 2 else np.ones(rows)
            for place, model in enumerate(models)
        },
    )


def _write(folder: Path, outcomes: Outcomes, **columns: list[object]) -> None:
    table = {"prompt": outcomes.prompts, "group": outcomes.groups, **columns}
    table |= {f"s:{model}": worth.tolist() for model, worth in outcomes.worth.items()}
    parquet.write_table(pyarrow.table(table), folder / f"{outcomes.name}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weak = sorted({pair[1] for pair in evaluation.UNSEEN_PAIRS})
    strong = sorted({pair[2] for pair in evaluation.UNSEEN_PAIRS} - {*weak})
    for seed, (name, groups) in enumerate(FAMILIES.items()):
        _write(tmp_path, _set(name, list(groups), [*weak, *strong], seed))
    for seed, name in enumerate(TESTS):
        _write(tmp_path, _set(name, ["any"], list(TEST_PAIR), 100 + seed))
    return tmp_path


def test_learns_which_words_are_hard() -> None:
    name = "zeroeval_crux"
    made = _set(name, ["crux"], ["a", "b", "c", "d", "e", "f"], 1, rows=400)
    weights = training.train(training.prompts([made]), ANY)
    assert all(weights.terms[word] > 0 for word in HARD)
    assert all(weights.terms[word] < 0 for word in EASY)
    assert not any(term.endswith("x") for term in weights.terms), "words of one prompt are noise"
    difficulty = Difficulty(weights)
    other = _set(name, ["crux"], ["a", "b"], 2)
    score = np.array([difficulty.score(prompt) for prompt in other.prompts])
    assert figures(score, other.worth["a"], other.worth["b"]).auc > 0.8


def test_the_same_data_give_the_same_weights() -> None:
    made = [_set("zeroeval_crux", ["crux"], ["a", "b", "c"], seed) for seed in (1, 1)]
    one, other = (training.train(training.prompts([each]), ANY) for each in made)
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


def test_a_family_is_scored_by_weights_that_never_saw_it() -> None:
    made = _set("llmrouter_pool", ["trivia_qa", "mbpp"], ["a", "b", "c", "d"], 3, rows=200)
    rows = training.prompts([made])
    is_code = np.array([family == "code" for family in rows.families])
    without = Difficulty(training.train(rows.where(np.flatnonzero(~is_code)), ANY))
    expected = [without.of(rows.found[place]) for place in np.flatnonzero(is_code)]
    assert training.scores_unseen(rows)[is_code].tolist() == expected


def test_test_prompts_are_not_trained_on() -> None:
    made = _set("zeroeval_crux", ["crux"], ["a", "b"], 4)
    test = Outcomes(name="test", prompts=made.prompts[:3], groups=["any"] * 3, worth={})
    clean, left_out = training.without_tests([made], [test])
    assert left_out == 3
    assert clean[0].prompts == made.prompts[3:]


def test_reading_leaves_out_what_is_in_the_tests_collections(tmp_path: Path) -> None:
    made = _set("mmlu_pro", ["law"], ["a", "b", "c"], 5, rows=4)
    _write(tmp_path, made, src=["ori_mmlu-law", "stemez-Law", "stemez-Law", "ori_mmlu-law"])
    assert read(tmp_path, "mmlu_pro").prompts == made.prompts[1:3]
    made = _set("llmrouter_pool", ["gsm8k", "mbpp"], ["a", "b", "c"], 6)
    _write(tmp_path, made)
    assert set(read(tmp_path, "llmrouter_pool").groups) == {"mbpp"}
    made = _set("routellm_mmlu", ["law"], list(TEST_PAIR), 7, rows=3)
    _write(tmp_path, made, contaminated=[False, True, False])
    assert read(tmp_path, "routellm_mmlu").prompts == [made.prompts[0], made.prompts[2]]


def test_one_command_trains_judges_and_can_be_repeated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[bytes] = []
    for _ in range(2):
        target = folder / "weights.json"
        assert main(["--data", str(folder), "--weights", str(target), "--resamples", "20"]) == 0
        written.append(target.read_bytes())
    assert written[0] == written[1]
    weights = msgspec.json.decode(written[0], type=Weights)
    assert weights.calibration.quality
    printed = capsys.readouterr().out
    for name in ("random", "length of the prompt", "Tollway", "oracle", "RouteLLM", "Microseconds"):
        assert name in printed
    target.write_bytes(written[0])
    judge = ["--data", str(folder), "--weights", str(target), "--resamples", "20", "--keep"]
    assert main(judge) == 0
    assert target.read_bytes() == written[0]


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert "routellm_mtbench.parquet" in capsys.readouterr().err
