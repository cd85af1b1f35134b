"""What `deploy/` says to systemd, containers and clusters is so of the product.

Neither an engine nor a cluster is at hand: what they make of these files is not tested.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from proxy import cli, config, config_file
from proxy.app import health_routes

DEPLOY = Path(__file__).parents[1] / "deploy"
UNIT = DEPLOY / "systemd" / "tollway.service"
PATHS = set(health_routes(lambda: ""))


def options_of(arguments: Sequence[str]) -> set[str]:
    """The options of a command line of ours, which are known to its command."""
    name, *rest = arguments
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    given = {each for each in rest if each.startswith("--")}
    assert given <= {option for parameter in command.params for option in parameter.opts}
    return given


def directives() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign] # names keep their case
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_the_systemd_unit_runs_commands_of_ours_on_the_same_files() -> None:
    service = directives()
    start, again = (shlex.split(service[name]) for name in ("ExecStart", "ExecReload"))
    assert start[0] == again[0]
    assert (start[1], again[1]) == ("serve", "reload")
    assert options_of(start[1:]) == options_of(again[1:]) == {"--config", "--data"}
    assert start[2:] == again[2:]
    waits_s = config.Server().drain_s + config.Server().unready_s
    assert int(service["TimeoutStopSec"]) > waits_s
    assert service["KillMode"] == "mixed"  # workers are told by their supervisor alone


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd at hand")
def test_systemd_understands_the_unit_and_thinks_it_safe(tmp_path: Path) -> None:
    unit = tmp_path / "tollway.service"
    text = UNIT.read_text().replace("/opt/tollway/bin/tollway", sys.executable)
    text = re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.M)  # somebody who is there
    unit.write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr.strip()) == (0, "")
    unit.write_text(re.sub(r"^(User|Group)=root$", r"\1=tollway", text, flags=re.M))
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stdout[-200:]


def test_the_compose_file_starts_a_command_of_ours() -> None:
    file = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    service = file["services"]["tollway"]
    assert (DEPLOY / "compose" / service["build"] / "Dockerfile").resolve().exists()
    assert options_of(service["command"]) == {"--config"}
    named = service["command"][service["command"].index("--config") + 1]
    mounts = dict(each.split(":")[:2] for each in service["volumes"])
    assert mounts["./configuration"] == str(Path(named).parent)
    assert mounts["tollway"] == "/data"
    assert "tollway" in file["volumes"]
    assert int(service["stop_grace_period"].removesuffix("s")) > config.Server().drain_s


def test_keys_beside_the_compose_file_are_in_no_commit_and_no_image() -> None:
    root = DEPLOY.parent
    assert {".env", "deploy/compose/configuration/"} <= set(
        (root / ".gitignore").read_text().splitlines()
    )
    assert "deploy" in (root / ".dockerignore").read_text().splitlines()


def documents() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes" / "tollway.yaml").read_text()
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_the_pod_asks_paths_that_are_there_and_waits_long_enough(tmp_path: Path) -> None:
    found = documents()
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert options_of(container["args"]) == {"--config"}
    file = tmp_path / "router.yaml"
    file.write_text(found["ConfigMap"]["data"]["router.yaml"])
    server = config_file.load(file, {}).server
    assert pod["terminationGracePeriodSeconds"] > server.unready_s + server.drain_s
    probes = {name: each for name, each in container.items() if name.endswith("Probe")}
    assert set(probes) == {"startupProbe", "readinessProbe", "livenessProbe"}
    assert {each["httpGet"]["path"] for each in probes.values()} == PATHS
    ready = probes["readinessProbe"]
    noticed_s = ready["periodSeconds"] * ready["failureThreshold"]
    assert noticed_s < server.unready_s
    assert server.reload == "auto"
    assert "subPath" not in str(container["volumeMounts"])


def test_the_pod_mounts_what_it_has() -> None:
    found = documents()
    stateful = found["StatefulSet"]["spec"]
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    claimed = {each["metadata"]["name"] for each in stateful["volumeClaimTemplates"]}
    volumes = {each["name"] for each in pod["volumes"]} | claimed
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    assert stateful["replicas"] == 1
    ports = {each["name"] for each in container["ports"]}
    assert {each["targetPort"] for each in found["Service"]["spec"]["ports"]} <= ports


def test_the_pod_has_a_key_before_it_starts_and_no_port_of_its_service(tmp_path: Path) -> None:
    found = documents()
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    (first,) = pod["initContainers"]
    for _ in range(2):  # a pod starts more than once
        subprocess.run(
            first["command"],
            check=True,
            cwd=tmp_path,
            env={
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "TOLLWAY_DATA": str(tmp_path),
            },
            timeout=120,
        )
    key, _ = (tmp_path / "first-key").read_text().splitlines()
    assert key.startswith("sk-tw-")
    assert (tmp_path / "first-key").stat().st_mode & 0o077 == 0
    listed = subprocess.run(
        [sys.executable, "-m", "proxy", "keys", "list", "--json", "--data", str(tmp_path)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert [each["name"] for each in json.loads(listed.stdout)] == ["first"]
