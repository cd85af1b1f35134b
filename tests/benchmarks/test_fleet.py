"""The simulated fleet: the same day each time, and figures that can be."""

from pathlib import Path

import pytest

from benchmarks.fleet.assumptions import BASELINE, VIRTUAL_MODELS
from benchmarks.fleet.day import Row, fleet
from benchmarks.fleet.histories import LIMITS, histories
from benchmarks.fleet.publish import PAGE, published
from benchmarks.fleet.traffic import traffic


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    return {row.model: row for row in fleet(tmp_path_factory.mktemp("fleet"), requests=300)}


def test_every_policy_has_its_day(rows: dict[str, Row]) -> None:
    assert [*rows] == [*VIRTUAL_MODELS]
    for row in rows.values():
        assert 0 < row.answered <= 1 <= row.attempts
        assert 0 < row.worth <= 1
        assert 0 < row.first_token_ms < row.whole_ms
        # A request is lost only if every target failed.
        assert row.answered == 1 or row.model == BASELINE or "strong" in row.model
    assert rows[BASELINE].cost_saved == rows[BASELINE].whole_saved == 0


def test_policies_do_what_they_say(rows: dict[str, Row]) -> None:
    cheapest, learned = rows["cheapest"], rows["learned, share 0.3"]
    assert cheapest.cost_usd_per_1000 == min(row.cost_usd_per_1000 for row in rows.values())
    assert cheapest.strong == 0
    assert 0 < learned.strong < 1
    assert cheapest.worth < learned.worth
    assert rows["weighted"].worth < rows["weighted, for quality"].worth
    with_fallbacks = rows["ordered, strong first"]
    assert with_fallbacks.answered >= rows[BASELINE].answered


def test_the_same_day_comes_again(tmp_path: Path, rows: dict[str, Row]) -> None:
    again = {row.model: row for row in fleet(tmp_path, requests=300)}
    assert again == rows
    first, same, second = (
        [(asked.at_s, asked.input_tokens) for asked in traffic(50, per_second=1.0, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == same != second


def test_a_lower_limit_saves_more() -> None:
    found = histories(conversations=4)
    for kind in {saved.conversations for saved in found}:
        tokens = [saved.tokens for saved in found if saved.conversations == kind]
        assert len(tokens) == len(LIMITS)
        assert tokens == sorted(tokens, reverse=True)
        assert 0 <= tokens[-1] <= tokens[0] < 1


def test_the_page_has_places_for_the_figures(rows: dict[str, Row]) -> None:
    results = {
        "fleet": [row.as_json() for row in rows.values()],
        "histories": [saved.as_json() for saved in histories(conversations=1)],
    }
    page = PAGE.read_text()
    changed = published(page, results)
    assert published(changed, results) == changed
    assert page.splitlines()[:5] == changed.splitlines()[:5]
    assert page.splitlines()[-3:] == changed.splitlines()[-3:]
    for name in VIRTUAL_MODELS:
        assert f"| {name} |" in page
