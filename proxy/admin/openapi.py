"""The OpenAPI 3.1 document, made from the operations themselves.

OpenAPI 3.1 schemas are JSON Schema 2020-12, which is what msgspec makes of our types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import proxy
from proxy.admin.operations import Operation

_ERROR = {
    "title": "Error",
    "type": "object",
    "description": "OpenAI's error object; `docs/errors.md` lists types and codes.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_REF = "#/components/schemas/{name}"
_ANYTHING = {"type": "object", "description": "As OpenAI's API has it."}

# The paths on which callers, not operators, are answered: path, method, id, what it is, has a body.
_CALLERS_PATHS = (
    ("/v1/chat/completions", "post", "create_chat_completion", "Chat completions", True),
    ("/v1/embeddings", "post", "create_embeddings", "Embeddings", True),
    ("/v1/models", "get", "list_models", "Models that this key may name", False),
    ("/v1/models/{model}", "get", "get_model", "One of them", False),
    ("/v1/feedback", "post", "give_feedback", "What an answer was worth", True),
    ("/api/v1/key", "get", "get_own_key", "The key this request is made with", False),
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document, ready to be written as JSON."""
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, method, name, summary, has_body in _CALLERS_PATHS:
        paths.setdefault(path, {})[method] = _callers_operation(path, name, summary, has_body)
    for operation in operations:
        methods = paths.setdefault(operation.path, {})
        methods[operation.method.lower()] = _described(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollway",
            "version": proxy.__version__,
            "description": "The admin API, and the paths that callers use.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "admin": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The admin token of the data folder.",
                },
                "key": {"type": "http", "scheme": "bearer", "description": "A caller's key."},
            },
        },
    }


def _types(operations: Sequence[Operation]) -> list[Any]:
    types: dict[Any, None] = {}
    for operation in operations:
        for kind in (operation.body, operation.reply):
            if kind is not None:
                types[kind] = None
        if operation.query is not None:
            types.update((field.type, None) for field in msgspec.structs.fields(operation.query))
    return list(types)


def _described(operation: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [{"admin": []}],
        "parameters": _parameters(operation, schema_of),
        "responses": _responses(str(operation.status), schema_of[operation.reply]),
    }
    if operation.body is not None:
        described["requestBody"] = _body(schema_of[operation.body])
    return described


def _parameters(operation: Operation, schema_of: Mapping[Any, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if kind is int else "string"},
        }
        for name, kind in operation.path_types.items()
    ]
    for field in () if operation.query is None else msgspec.structs.fields(operation.query):
        schema = dict(schema_of[field.type])
        if not field.required and field.default is not None:
            schema["default"] = field.default
        parameters.append(
            {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        )
    return parameters


def _callers_operation(path: str, name: str, summary: str, has_body: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["callers"],
        "security": [{"key": []}],
        "parameters": [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
            for parameter in re.findall(r"{(\w+)}", path)
        ],
        "responses": _responses("200", _ANYTHING),
    }
    if has_body:
        described["requestBody"] = _body(_ANYTHING)
    return described


def _body(schema: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(status: str, schema: Any) -> dict[str, Any]:
    error = {"$ref": _REF.format(name="Error")}
    return {
        status: {
            "description": "Done",
            "content": {"application/json": {"schema": schema}},
        },
        "default": {
            "description": "Refused, or failed",
            "content": {"application/json": {"schema": error}},
        },
    }
