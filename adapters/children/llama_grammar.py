"""Grammars as llama.cpp reads them (GBNF), of JSON schemas by llama-cpp-python.

Source: `grammars/README.md` of llama.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cpp.llama_grammar import json_schema_to_gbnf

from adapters.children import schemas
from adapters.children.generating import Form

# Texts, sets of characters and counts; or else the name of a rule.
_PIECE = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\{[^}]*\}|([a-zA-Z0-9-]+)')


def grammar_of(forms: Sequence[Form]) -> str:
    """The GBNF of texts in one of these forms; raises `ValueError` where there is none."""
    choices, rules = [], []
    for number, form in enumerate(forms):
        rules.append(_renamed(_of_schema(form.schema), f"f{number}-"))
        choices.append(f"{_quoted(form.before)} f{number}-root {_quoted(form.after)}")
    return "\n".join([f"root ::= {' | '.join(choices)}", *rules])


def _of_schema(schema: Mapping[str, Any]) -> str:
    try:
        grammar: str = json_schema_to_gbnf(json.dumps(schemas.bounded(schema)))
    except Exception as error:  # it asserts, indexes and recurses on whatever it is given
        raise ValueError(f"no grammar can be made of the schema: {error!r}") from None
    if len(grammar) > schemas.LARGEST_GRAMMAR:
        raise ValueError("the grammar of the schema would be too large")
    return grammar


def _quoted(text: str) -> str:
    """A text as JSON has it, and GBNF too."""
    return json.dumps(text, ensure_ascii=False)


def _renamed(grammar: str, prefix: str) -> str:
    """A grammar whose rules have names that begin with `prefix`."""
    return _PIECE.sub(lambda found: prefix + found[1] if found[1] else found[0], grammar)
