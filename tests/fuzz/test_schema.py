"""What schemathesis makes of our own OpenAPI document: the answers are those that it describes.

`TOLLWAY_EXAMPLES` says how many requests each operation gets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings

from proxy.ledger.audit import audit
from tests.e2e.test_unpriced import PATHS
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Upstream

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

EXAMPLES = int(os.environ.get("TOLLWAY_EXAMPLES", "4"))
DESCRIBED = [checks.status_code_conformance, checks.response_schema_conformance]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def tollway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "embed")
    with serving(tmp_path_factory.mktemp("schema"), config) as running:
        yield running
        assert "Traceback" not in running.log()
        assert running.rows() is not None
        assert audit(running.data / "ledger.db") == []


@pytest.fixture(scope="module")
def document(tollway: Tollway) -> Any:
    bearer = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return tollway.get("/admin/v1/openapi.json", headers=bearer).json()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
        yield session


def test_every_operation_answers_as_it_is_described(
    document: Any, tollway: Tollway, session: requests.Session
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 60
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers(case: Any) -> None:
            answer = case.call(base_url=tollway.url, session=session, timeout=60)
            assert answer.status_code != 500, answer.text
            case.validate_response(answer, checks=DESCRIBED)

        answers()


def test_every_path_that_costs_money_is_described(document: Any) -> None:
    described = {path for path, methods in document["paths"].items() if "post" in methods}
    assert not set(PATHS) - described


def test_every_path_of_callers_is_there(document: Any, tollway: Tollway) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"] != ["callers"]:
                continue
            url = tollway.url + re.sub(r"{\w+}", "x", path)
            reply = requests.request(method, url, timeout=60)
            assert reply.status_code != 405, path
            if reply.status_code == 404:
                assert "there is no" not in reply.json()["error"]["message"], path
