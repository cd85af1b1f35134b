"""`python -m tests.fuzz.guided NAME [libFuzzer's options]`: one parser, guided by its coverage."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["adapters", "proxy"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
