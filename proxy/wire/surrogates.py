r"""JSON with UTF-16 surrogates that stand alone, such as `"\ud83d"`.

Clients and servers that cut text by UTF-16 units really send them. Python's and JavaScript's own
parsers take them; fast ones, and everything that needs UTF-8, do not.
"""

from __future__ import annotations

import json
import re

import msgspec

# A pair of backslashes is matched so that what follows it is not taken for an escape.
_ESCAPE = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_REPLACEMENT = rb"\ufffd"


def without_lone(text: bytes) -> bytes:
    """The JSON with every lone surrogate escape made U+FFFD: same length, same structure."""
    return _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], text)


def encode(value: object) -> bytes:
    """The JSON of a value whose texts may have lone surrogates, which are escaped then."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
