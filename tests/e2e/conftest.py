from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import matrix
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def tollway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server for a whole module: models m1, m2, m3 and embed at one upstream."""
    config = provider(upstream.base_url, "m1", "m2", "m3", "embed")
    config["models"] |= {
        "cheap": {"policy": "cheapest", "targets": ["up/m2", "up/m1"]},
        "vectors": {"targets": ["up/embed"]},
        "nothing": {"targets": ["tier:local"]},
    }
    config["discover"] = False
    with serving(tmp_path_factory.mktemp("tollway"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh_upstream(request: pytest.FixtureRequest) -> None:
    if "upstream" in request.fixturenames:
        upstream: Upstream = request.getfixturevalue("upstream")
        upstream.calls.clear()
        upstream.scripts.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The matrix of clients and providers, as far as it was run."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    found = [value for r in reports for name, value in r.user_properties if name == "matrix"]
    if found:
        terminalreporter.section("clients, and what they do not get from which providers")
        for line in matrix.summary(dict(found)):
            terminalreporter.write_line(line)
