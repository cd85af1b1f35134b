"""What processes count in a folder is added up, whatever becomes of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from proxy.errors import StartError
from proxy.tallies import Tallies, ended, exposition

_BOUNDS = (0.01, 0.5, 1, 30)


def _shown(folder: Path) -> dict[str, float]:
    text, kind = exposition(folder)
    assert kind.startswith("text/plain")
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def _in_a_process(counts: Callable[[], None]) -> int:
    """Run it in a child that is killed in the middle of what it does next."""
    child = os.fork()
    if child == 0:
        try:
            counts()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0) == (child, signal.SIGKILL)
    return child


def test_what_is_counted_is_shown_at_once(tmp_path: Path) -> None:
    own = Tallies(tmp_path)
    taken = own.counter("taken_total", "What is taken.", "who", "what")
    own.gauge("open", "What is open.", merged="sum").labels()
    taken.labels("a", "b").inc()
    taken.labels("a", "b").inc(2)
    assert taken.labels("a", "b") is taken.labels("a", "b")
    taken.labels('"ü\n', "\\").cell[0] += 0.5
    assert _shown(tmp_path) == {
        "open": 0,
        "taken_total what=b who=a": 3,
        'taken_total what=\\ who="ü\n': 0.5,
    }
    help_texts = [line for line in exposition(tmp_path)[0].decode().splitlines() if "HELP" in line]
    assert "# HELP taken_total What is taken." in help_texts
    assert own.names == {"taken_total": ("who", "what"), "open": ()}


def test_a_killed_process_has_counted_what_it_counted(tmp_path: Path) -> None:
    def count() -> None:
        own = Tallies(tmp_path)
        own.counter("taken_total", "", "who").labels("a").inc(5)
        own.histogram("took", "", bounds=_BOUNDS).labels().observe(0.2)
        own.gauge("open", "", merged="sum").labels().set(7)
        own.gauge("revision", "", merged="min").labels().set(3)

    first, second = _in_a_process(count), _in_a_process(count)
    both = {
        "took_bucket le=0.01": 0,
        "took_bucket le=0.5": 2,
        "took_bucket le=1.0": 2,
        "took_bucket le=30.0": 2,
        "took_bucket le=+Inf": 2,
        "took_count": 2,
        "took_sum": 0.4,
        "taken_total who=a": 10,
    }
    assert _shown(tmp_path) == {**both, "open": 14, "revision": 3}
    ended(tmp_path, first)
    assert _shown(tmp_path) == {**both, "open": 7, "revision": 3}
    ended(tmp_path, second)
    assert _shown(tmp_path) == both


def test_a_process_with_the_number_of_a_dead_one_adds_to_it(tmp_path: Path) -> None:
    for _ in range(3):  # one after another, as if each were another process with this number
        Tallies(tmp_path).counter("taken_total", "", "who").labels("a").inc()
    assert _shown(tmp_path) == {"taken_total who=a": 3}


@pytest.mark.parametrize("labels", [1, 2_000])
def test_there_is_room_for_more_than_was_thought(tmp_path: Path, labels: int) -> None:
    own = Tallies(tmp_path, reserve_bytes=8)
    taken = own.counter("taken_total", "", "who")
    for each in range(labels):
        taken.labels(str(each)).inc()
    taken.labels("0").inc()  # its memory is that of the file as it was
    shown = _shown(tmp_path)
    assert len(shown) == labels
    assert shown["taken_total who=0"] == 2


def test_where_there_is_no_room_at_first_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no-such-folder: cannot be written"):
        Tallies(tmp_path / "no-such-folder")


def test_where_there_is_no_room_later_it_counts_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    own = Tallies(folder, reserve_bytes=1_000)
    taken = own.counter("taken_total", "", "who")
    taken.labels("first").inc()
    folder.rename(tmp_path / "gone")
    for each in range(100):
        taken.labels(str(each)).inc()
    shown = _shown(tmp_path / "gone")
    assert shown["taken_total who=first"] == 1
    assert 1 < len(shown) < 100


def test_where_its_file_was_removed_it_counts_for_itself(tmp_path: Path) -> None:
    own = Tallies(tmp_path, reserve_bytes=100_000)
    taken = own.counter("taken_total", "", "who")
    taken.labels("first").inc()
    for path in tmp_path.iterdir():
        path.unlink()
    for each in range(5_000):
        taken.labels(str(each)).inc()
    assert _shown(tmp_path) == {}


@settings(max_examples=30)
@given(st.lists(st.one_of(st.sampled_from(_BOUNDS), st.floats(0, 100)), max_size=30))
def test_a_distribution_is_that_of_prometheus(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("counted")
    ours = Tallies(folder).histogram("took", "How long.", bounds=_BOUNDS).labels()
    registry = CollectorRegistry()
    theirs = Histogram("took", "How long.", buckets=_BOUNDS, registry=registry)
    for amount in amounts:
        ours.observe(amount)
        theirs.observe(amount)
    (family,) = registry.collect()
    expected = {
        sample.name + "".join(f" {k}={v}" for k, v in sample.labels.items()): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert _shown(folder) == pytest.approx(expected)


def test_without_a_folder_it_counts_for_itself() -> None:
    own = Tallies(None)
    number = own.gauge("open", "", merged="sum").labels()
    number.inc()
    number.inc()
    number.dec()
    assert number.cell[0] == 1
    own.histogram("took", "", bounds=_BOUNDS).labels().observe(31)
