"""Texts of the command line turned into values."""

from __future__ import annotations

import pytest

from proxy.cli import asking
from proxy.errors import StartError
from proxy.ledger.protocol import BudgetSettings, Limits


def test_budgets_have_the_default_window_or_their_own() -> None:
    assert asking.own_budgets(["20", "1.5/5h"], "month") == (
        BudgetSettings(20 * 10**9, window="month"),
        BudgetSettings(1_500_000_000, window="5h"),
    )
    assert asking.own_budgets(None, "nonsense") == ()


def test_an_empty_text_takes_away_and_none_is_no_option() -> None:
    assert asking.listed(None) is None
    assert asking.listed([""]) == ()
    assert asking.listed(["a", "b"]) == ("a", "b")
    assert asking.metadata(None) is None
    assert asking.metadata("") == {}
    assert asking.limit_changes("", "5", None) == {
        "requests_per_minute": None,
        "tokens_per_minute": 5,
    }
    assert asking.named(a=None, b=False, c="") == {"b": False, "c": ""}


def test_limits_that_are_not_named_stay() -> None:
    there = Limits(requests_per_minute=1, concurrent=2)
    assert asking.changed_limits(there, {"concurrent": None, "tokens_per_minute": 3}) == {
        "requests_per_minute": 1,
        "tokens_per_minute": 3,
        "concurrent": None,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asking.own_budgets(["x"], "day"), "--budget: an amount must be a number of USD"),
        (lambda: asking.own_budgets(["5/fortnight"], "day"), "--budget: unknown window"),
        (lambda: asking.own_budgets(["5"], "fortnight"), "--window: unknown window"),
        (lambda: asking.limit_changes("-1", None, None), "--rpm: '-1' is no number"),
        (lambda: asking.limit_changes(None, "1" * 13, None), "--tpm: "),
        (lambda: asking.limit_changes(None, None, "٣"), "--concurrent: "),
        (lambda: asking.metadata("[]"), "--metadata: "),
        (lambda: asking.metadata("{"), "--metadata: "),
        (lambda: asking.moment("soon", "--since"), "--since: 'soon' is no time"),
        (lambda: asking.later("soon", "--expires"), "--expires: 'soon' is no time"),
    ],
)
def test_nonsense_is_one_line_that_names_the_option(call: object, message: str) -> None:
    with pytest.raises(StartError) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
