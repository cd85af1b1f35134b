"""What is installed, and what that does by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "tests/e2e/openai-2.lock",
    "tests/e2e/llmock.lock",
    "tests/fuzz/atheris.lock",
)

# Every module is imported while each attempt to reach anybody is an error.
IMPORT_ALL = """
import importlib, pkgutil, sys
def check(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        raise RuntimeError(f"{event}{arguments} on import")
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "urllib.Request"):
        raise RuntimeError(f"{event} on import")
sys.addaudithook(check)
import proxy, adapters, policies
count = 0
for package in (proxy, adapters, policies):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name.split(".")[0] not in ("proxy", "adapters", "policies"), error
        count += 1
print(count)
"""


@pytest.mark.negative(number=40)
@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_by_hash(name: str) -> None:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert pinned
    for line in pinned:
        assert re.match(r"[\w.\-]+==[^ ]+( ; [^-]+)?\s+--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.negative(number=40)
def test_the_wheel_has_our_packages_and_nothing_that_runs_by_itself(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names}
    assert {name for name in packages if "dist-info" not in name} == {
        "proxy",
        "adapters",
        "policies",
    }
    assert not [name for name in names if name.endswith((".pth", ".so", ".pyc", ".egg-link"))]
    assert "proxy/router.yaml" in names


@pytest.mark.negative(number=40)
def test_nothing_is_connected_to_on_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 150


@pytest.mark.negative(number=40)
def test_all_that_is_installed_is_listed(tmp_path: Path) -> None:
    """As `make sbom` does."""
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed")
    listed = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "requirements.lock"]
    subprocess.run(
        [*command, "--output-file", str(listed)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    components = json.loads(listed.read_text())["components"]
    pinned = re.findall(r"^([\w.\-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert sorted(each["name"] for each in components) == sorted(pinned)
    assert all(each["purl"] for each in components)
