"""OpenAI's SDK, the newest and the one before it, as programs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.tollway import Tollway


def run_sdk_checks(tollway: Tollway, script: str, version: str) -> None:
    """Run checks of ours in a process that has this version of OpenAI's SDK."""
    environ = dict(os.environ)
    if version != "3":
        older = Path(sys.prefix) / f"openai-{version}"
        if not older.exists():
            pytest.skip(f"the openai SDK {version}.x is not installed (make test does it)")
        environ["PYTHONPATH"] = str(older)
    key = tollway.admin("POST", "/keys", {"name": f"{script} {version}"})["key"]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), f"{tollway.url}/v1", key],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + tollway.log()
    assert f"openai {version}." in done.stdout
