"""JSON Schema, by the package of that name: an extra, and so in a module of its own."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing.exceptions import Unresolvable


def schema_problem(schema: dict[str, Any]) -> str | None:
    """What is wrong with a schema; None where there is nothing."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON Schema: {error.message}"
    except RecursionError:
        return "is nested too deeply"
    return None


def misfit(value: object, schema: dict[str, Any]) -> str | None:
    """Where a value breaks a schema worst; None where it fits. Nothing is fetched for it."""
    try:
        error = best_match(Draft202012Validator(schema).iter_errors(value))
    except Unresolvable as problem:
        return f"the schema refers to what is not in it: {problem.ref}"
    return None if error is None else f"{error.json_path}: {error.message}"
