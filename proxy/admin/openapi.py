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
_ANTHROPIC_ERROR = {
    "title": "AnthropicError",
    "type": "object",
    "description": "Anthropic's error object, on its paths.",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
            "required": ["type", "message"],
        },
        "request_id": {"type": "string"},
    },
    "required": ["type", "error"],
}
_REF = "#/components/schemas/{name}"
_ANYTHING = {"type": "object", "description": "As OpenAI's API has it."}

_JSON = "application/json"
_FORM = "multipart/form-data"

# The paths on which callers, not operators, are answered: path, method, id, what it is, and of what
# type its body is, if it has one.
_CALLERS_PATHS = (
    ("/v1/chat/completions", "post", "create_chat_completion", "Chat completions", _JSON),
    ("/v1/completions", "post", "create_completion", "Completions of a text", _JSON),
    ("/v1/messages", "post", "create_message", "Messages, as Anthropic has them", _JSON),
    ("/v1/messages/count_tokens", "post", "count_tokens", "The tokens of a prompt", _JSON),
    ("/v1/responses", "post", "create_response", "Responses", _JSON),
    ("/v1/responses/{response}", "get", "get_response", "One that is kept", None),
    ("/v1/responses/{response}", "delete", "delete_response", "Forget it", None),
    ("/v1/responses/{response}/input_items", "get", "list_input_items", "What it answers", None),
    ("/v1/responses/{response}/cancel", "post", "cancel_response", "End it", None),
    ("/v1/embeddings", "post", "create_embeddings", "Embeddings", _JSON),
    ("/v1/moderations", "post", "create_moderation", "Moderations", _JSON),
    ("/v1/images/generations", "post", "create_image", "Images", _JSON),
    ("/v1/audio/transcriptions", "post", "create_transcription", "Transcriptions", _FORM),
    ("/v1/audio/speech", "post", "create_speech", "Speech", _JSON),
    ("/v1/rerank", "post", "rerank", "Documents by how well they fit a query", _JSON),
    ("/v2/rerank", "post", "rerank_v2", "The same, as Cohere has it", _JSON),
    ("/v1/route", "post", "explain_route", "Which targets a request would go to, and why", _JSON),
    ("/v1/recommend", "post", "recommend_targets", "The best targets for a task", _JSON),
    ("/v1/feedback", "post", "give_feedback", "What an answer was worth", _JSON),
    ("/v1/models", "get", "list_models", "Models that this key may name", None),
    ("/v1/models/{model}", "get", "get_model", "One of them", None),
    ("/api/v1/key", "get", "get_own_key", "The key this request is made with", None),
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document, ready to be written as JSON."""
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, method, name, summary, body in _CALLERS_PATHS:
        paths.setdefault(path, {})[method] = _callers_operation(path, name, summary, body)
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
            "schemas": {**components, "Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR},
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


def _callers_operation(path: str, name: str, summary: str, body: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["callers"],
        "security": [{"key": []}],
        "parameters": [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
            for parameter in re.findall(r"{(\w+)}", path)
        ],
        "responses": _responses(
            "200", _ANYTHING, "AnthropicError" if path.startswith("/v1/messages") else "Error"
        ),
    }
    if body is not None:
        described["requestBody"] = _body(_ANYTHING, body)
    return described


def _body(schema: Any, kind: str = _JSON) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _responses(status: str, schema: Any, error_name: str = "Error") -> dict[str, Any]:
    error = {"$ref": _REF.format(name=error_name)}
    return {
        status: {
            "description": "Done",
            "content": {_JSON: {"schema": schema}},
        },
        "default": {
            "description": "Refused, or failed",
            "content": {_JSON: {"schema": error}},
        },
    }
