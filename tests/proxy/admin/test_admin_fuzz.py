"""Whatever is sent to whichever operation: an answer or a refusal, and the ledger goes on."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admin.app import all_operations
from proxy.admin.models import ModelsApi
from proxy.admin.operations import Operation
from proxy.swaps.moves import Moves
from tests.proxy.admin.desk import Desk, nothing_to_reload

_TEXTS = st.sampled_from(
    ["", "global", "k_1", "1d", "30d", "month", "5h", "2026-11-20", "UTC", "auto", "hard", "sk-x"]
) | st.text(max_size=20)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-2, 2**31) | _FLOATS
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXTS
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_body_is_our_fault_or_breaks_the_ledger(shared_desk: Desk, data: st.DataObject) -> None:
    operations = all_operations(
        shared_desk.books,
        ModelsApi(None),
        shared_desk.targets,
        Moves(shared_desk.ledger, b""),
        nothing_to_reload(),
    )
    operation: Operation = data.draw(st.sampled_from([o for o in operations if o.body is not None]))
    known = {"key_id": _a_key(shared_desk), "team_id": _a_team(shared_desk)}
    reply = shared_desk.ask(
        operation.method,
        re.sub(r"{(\w+)}", lambda found: known.get(found[1], "1"), operation.path),
        _body(data, operation.body, st.sampled_from(list(known.values()))),
    )
    assert reply.status_code < 500, reply.text
    for path in ("keys", "teams", "organisations", "budgets"):
        shared_desk.get(f"/admin/v1/{path}")


def _a_key(desk: Desk) -> str:
    keys = desk.books.all_keys()
    return keys[0].key_id if keys else str(desk.post("/admin/v1/keys", {"name": "a"})["id"])


def _a_team(desk: Desk) -> str:
    teams = desk.get("/admin/v1/teams")["data"] or [desk.post("/admin/v1/teams", {"name": "a"})]
    return str(teams[0]["id"])


def _body(data: st.DataObject, kind: Any, ids: st.SearchStrategy[str]) -> dict[str, Any]:
    """Few fields, so that some bodies get as far as the ledger."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    required = {name for name, field in fields.items() if field.required}
    chosen = required | data.draw(st.sets(st.sampled_from(sorted(fields)), max_size=2))
    return {name: data.draw(_fitting(fields[name].type, ids) | _VALUES) for name in sorted(chosen)}


def _fitting(kind: Any, ids: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Values that the field is more likely to accept."""
    schema = str(msgspec.json.schema(kind))
    if "'string'" in schema and "'array'" not in schema and "'number'" not in schema:
        return _TEXTS | ids
    return _NUMBERS if "'integer'" in schema or "'number'" in schema else _VALUES
