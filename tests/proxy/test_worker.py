"""A worker's memory does not grow, though its cycles are looked for less often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process of its own: a collector is a whole process's.
CYCLES = """
import weakref
from proxy.worker import look_less_often

class Cycle:
    def __init__(self):
        self.itself = self

look_less_often()
alive, most = weakref.WeakSet(), 0
for _ in range(100_000):
    alive.add(Cycle())
    most = max(most, len(alive))
print(most)
"""


def test_cycles_are_collected() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert 1 <= int(done.stdout) <= 10_000
