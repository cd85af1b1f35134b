"""A YAML file with the line of every value, for messages that point at the mistake.

Safe by construction: plain data only (the safe constructor), a key twice in one mapping refused,
and the number of values bounded however often anchors repeat them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from proxy.errors import StartError

Path_ = tuple[str | int, ...]

# Far above any real file; an alias bomb reaches it in milliseconds.
_MAX_VALUES = 100_000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A parsed file: its plain value, and where each part of it stands."""

    name: str
    value: Any
    lines: Mapping[Path_, int]

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Read a file; raises `StartError`."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise StartError(
                f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        except UnicodeDecodeError as error:
            raise StartError(f"{path}: is not UTF-8 (byte {error.start})") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> YamlFile:
        """Parse a text; `name` is what messages call it. Raises `StartError`."""
        try:
            node = yaml.compose(text, Loader=_Loader)
            lines: dict[Path_, int] = {}
            value = _Values(name, lines).value(node, ()) if node is not None else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise StartError(f"{name}{line}: is not valid YAML: {error.problem}") from None
        except (yaml.YAMLError, RecursionError) as error:
            problem = " ".join(str(error).split())
            raise StartError(f"{name}: is not valid YAML: {problem}") from None
        return cls(name, value, lines)

    def error(self, path: Path_, problem: str) -> StartError:
        """`router.yaml:12: models.auto.policy: <problem>`, at the nearest known line."""
        nearest = path
        while nearest not in self.lines and nearest:
            nearest = nearest[:-1]
        line = f":{self.lines[nearest]}" if nearest in self.lines else ""
        where = f"{dotted(path)}: " if path else ""
        return StartError(f"{self.name}{line}: {where}{problem}")


def dotted(path: Path_) -> str:
    """`("a", 0, "b")` -> `a[0].b`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}` from the environment; raises `KeyError` with the missing name."""
    return _VARIABLE.sub(lambda found: environ[found.group(1)], text)


class _Values:
    """Builds plain values and notes their lines."""

    def __init__(self, name: str, lines: dict[Path_, int]) -> None:
        self._name = name
        self._lines = lines
        self._count = 0
        self._plain = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise StartError(
                f"{self._name}: has more than {_MAX_VALUES} values; are its anchors nested?"
            )
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._plain.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise StartError(f"{self._name}:{line}: '<<' is not read here; repeat the values")
            key = self._plain.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise StartError(f"{self._name}:{line}: the key {key!r} must be text; quote it")
            if key in mapping:
                raise StartError(
                    f"{self._name}:{line}: {dotted((*path, key))}: stands there twice; remove one"
                )
            mapping[key] = self.value(value_node, (*path, key))
            self._lines[(*path, key)] = line
        return mapping
