"""Who is measured beside Tollway is asked what Tollway is asked, or is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from benchmarks import measure
from benchmarks.generator import generator
from benchmarks.measure import Bench
from benchmarks.subjects import ROOT, litellm, upstream
from benchmarks.workloads import all_workloads

# It understands what LiteLLM is started with, and relays.
_PROGRAM = """\
#!{python}
import os, sys
from urllib.parse import urlsplit
import yaml
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(told["--config"]) as file:
    model = yaml.safe_load(file)["model_list"][0]
upstream = urlsplit(model["litellm_params"]["api_base"]).port
os.chdir({root!r})
command = [sys.executable, "-m", "benchmarks.bare_relay", told["--port"], str(upstream)]
os.execv(sys.executable, command)
"""


def test_without_litellm_it_is_left_out(tmp_path: Path) -> None:
    for program in (None, tmp_path / "litellm"):
        with litellm(tmp_path, 9, program) as subject:
            assert subject is None


def test_litellm_is_asked_for_every_workload_and_saturated_alone(tmp_path: Path) -> None:
    program = tmp_path / "litellm"
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    with (
        upstream() as direct,
        generator() as load,
        litellm(tmp_path, direct.port, program) as subject,
    ):
        assert subject is not None
        bench = Bench(
            generator=load,
            effort=measure.QUICK,
            folder=tmp_path,
            upstream_port=direct.port,
            progress=lambda _: None,
        )
        found = measure.workload(
            bench, [direct], "json", saturated="json", at_rate="json", too_slow=[subject]
        )
        pid = subject.pid
    loads = [load.as_json() for load in found]
    assert [(load["subject"], load["load"]) for load in loads] == [
        ("direct", "saturated"),
        ("LiteLLM", "saturated"),
        ("direct", "200/s"),
    ]
    assert loads[1]["requests"] > 0
    assert loads[1]["cpu_ms"] > 0
    assert not Path(f"/proc/{pid}").exists()
    config = yaml.safe_load((tmp_path / "litellm.yaml").read_text())
    assert {model["model_name"] for model in config["model_list"]} == all_workloads().keys()
