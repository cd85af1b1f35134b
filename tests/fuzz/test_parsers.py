"""The parsers of what strangers send, by hypothesis and, in `make fuzz`, by atheris.

`TOLLWAY_FUZZ_S` says for how many seconds atheris is to look at each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).parents[2]
ATHERIS = ROOT / ".venv/atheris"
SECONDS = int(os.environ.get("TOLLWAY_FUZZ_S", "0"))
EXAMPLES = int(os.environ.get("TOLLWAY_EXAMPLES", "60"))
_BREAKS = st.sampled_from(
    [b"\r\n", b"\n", b"\r\n\r\n", b"0", b":", b" ", b'"', b"\\", b"\0", b"\xff"]
)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Some of the seeds, one behind the other, with faults in them."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(_BREAKS | st.binary(max_size=4))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(changed(SEEDS[name]) | st.binary(max_size=200)))


@pytest.mark.skipif(not SECONDS, reason="TOLLWAY_FUZZ_S says for how long; `make fuzz` does")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_new_that_is_reached_breaks_a_parser(name: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ATHERIS)])}
    if subprocess.run(
        [sys.executable, "-c", "import atheris"], env=environ, check=False
    ).returncode:
        pytest.skip("atheris is not installed: there may be no wheel for this machine")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    limits = (f"-max_total_time={SECONDS}", "-timeout=20", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run(
        [*(sys.executable, "-m", "tests.fuzz.guided", name, str(corpus)), *limits],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 300,
        check=False,
    )
    print(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-4000:]
