from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
from openapi_schema_validator import OAS31Validator
from starlette.routing import Route

from proxy.admin.app import OPENAPI_PATH
from tests.proxy.admin.desk import Desk


@pytest.fixture(scope="module")
def document(shared_desk: Desk) -> Any:
    return shared_desk.get(OPENAPI_PATH)


def _operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_is_a_valid_openapi_document(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)


def test_it_has_every_route_and_no_other(document: Any, shared_desk: Desk) -> None:
    routes = {
        (method, route.path)
        for route in shared_desk.app.routes
        if isinstance(route, Route)
        for method in (route.methods or ())
        if method != "HEAD"
    }
    documented = {
        (method, path)
        for method, path, operation in _operations(document)
        if operation["tags"] != ["callers"]
    }
    assert documented == routes - {("GET", OPENAPI_PATH)}


def test_every_route_is_in_the_docs(document: Any) -> None:
    text = (Path(__file__).parents[3] / "docs/admin.md").read_text()
    paths = [
        (m, p) for m, p, operation in _operations(document) if operation["tags"] != ["callers"]
    ]
    missing = [f"{m} {p}" for m, p in paths if not re.search(rf"`{m} {re.escape(p)}[`?]", text)]
    assert not missing


def test_operations_have_names_of_their_own(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(set(names)) == len(names)


def test_every_route_needs_the_admin_token(document: Any, shared_desk: Desk) -> None:
    asked = [
        (m, p) for m, p, operation in _operations(document) if operation["tags"] != ["callers"]
    ]
    assert len(asked) > 40
    for method, path in [*asked, ("GET", OPENAPI_PATH)]:
        path = re.sub(r"{\w+}", "1", path)
        for token in (None, "wrong", "sk-tw-someone"):
            reply = shared_desk.ask(method, path, {}, token=token)
            assert reply.status_code == 401, (method, path)
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_replies_are_what_the_document_says(desk: Desk) -> None:
    """A few of them, against their schemas."""
    document = desk.get(OPENAPI_PATH)
    asked: list[tuple[str, str, object]] = [
        ("POST", "/admin/v1/keys", {"name": "a", "budget_usd": 1}),
        ("GET", "/admin/v1/keys", None),
        ("POST", "/admin/v1/teams", {"name": "t"}),
        ("GET", "/admin/v1/budgets", None),
        ("GET", "/admin/v1/spend", None),
        ("POST", "/key/generate", {"key_alias": "b", "max_budget": 3}),
        ("GET", "/team/list", None),
    ]
    for method, path, body in asked:
        operation = document["paths"][path][method.lower()]
        reply = desk.ask(method, path, body)
        assert str(reply.status_code) in operation["responses"], (path, reply.text)
        schema = operation["responses"][str(reply.status_code)]["content"]["application/json"]
        _check(document, schema["schema"], reply.json())


def _check(document: Any, schema: Any, instance: Any) -> None:
    whole = {**schema, "components": document["components"]}
    OAS31Validator(whole).validate(instance)
