"""docs/security.md has forty attacks, and each has the tests that it says it has."""

from __future__ import annotations

import re
from pathlib import Path

from tests.marked import marked

PAGE = (Path(__file__).parent.parent / "docs/security.md").read_text()
ATTACKS = {
    int(number): answer
    for number, answer in re.findall(r"^\| (\d+) \| .* \| ([^|]*) \|$", PAGE, re.MULTILINE)
}
"""By number, what is answered."""


def test_the_page_has_forty_attacks() -> None:
    assert list(ATTACKS) == list(range(1, 41))


def test_every_attack_is_tried() -> None:
    assert set(marked("negative")) == set(ATTACKS)
