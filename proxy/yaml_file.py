"""A YAML file with the line of every value, for messages that point at the mistake.

Safe by construction: plain data only (five kinds of scalars, lists, mappings), a key twice in one
mapping refused, and depth and number of values bounded however often anchors repeat them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from proxy.errors import StartError

Path_ = tuple[str | int, ...]

# Both far above any real file. An alias bomb reaches the first in milliseconds; the parser in C
# has no bound of its own for the second, and crashes.
_MAX_VALUES = 50_000
_MAX_DEPTH = 50
_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_TAGS = "tag:yaml.org,2002:"
_SCALARS = frozenset(f"{_TAGS}{kind}" for kind in ("str", "int", "float", "bool", "null"))

# YAML reads a date where it sees one. It stays the text that it is: settings that are dates read it
# themselves, and a name that looks like one needs no quotes.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A parsed file: its plain value, and where each part of it stands."""

    name: str
    value: Any = field(repr=False)  # a file may hold secrets
    lines: Mapping[Path_, int] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Read a file; raises `StartError`."""
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> YamlFile:
        """Parse a text; `name` is what messages call it. Raises `StartError`."""
        try:
            _check_depth(text, name)
            node = yaml.compose(text, Loader=_Loader)
            lines: dict[Path_, int] = {}
            value = _Values(name, lines).value(node, ()) if node is not None else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            problem = ", ".join(filter(None, (error.context, error.problem)))
            raise StartError(f"{name}{line}: is not valid YAML: {problem}") from None
        except yaml.YAMLError as error:
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


def read_text(path: Path) -> str:
    """The text of a file; raises `StartError`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StartError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    except UnicodeDecodeError as error:
        raise StartError(f"{path}: is not UTF-8 (byte {error.start})") from None


def dotted(path: Path_) -> str:
    """`("a", 0, "b")` -> `a[0].b`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}` from the environment.

    Raises `KeyError` with the name of a variable that is missing or empty, `ValueError` for what
    looks like a variable and is none (`${NAME:-default}`).
    """
    return _VARIABLE.sub(lambda found: _variable(found, environ), text)


def _variable(found: re.Match[str], environ: Mapping[str, str]) -> str:
    if not _NAME.match(found[1]) or not found[0].endswith("}"):
        # Not quoted: it may be a key that was put there in place of a name.
        raise ValueError("has a '${' that begins no variable; only ${NAME} is understood")
    value = environ.get(found[1])
    if not value:
        raise KeyError(found[1])
    return value


def _check_depth(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise StartError(f"{name}{line}: is nested deeper than {_MAX_DEPTH} levels")


class _Values:
    """Builds plain values and notes their lines."""

    def __init__(self, name: str, lines: dict[Path_, int]) -> None:
        self._name = name
        self._lines = lines
        self._count = 0
        self._plain = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise StartError(
                f"{self._name}: has more than {_MAX_VALUES} values or {_MAX_DEPTH} levels; "
                "are its anchors nested?"
            )
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAGS}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAGS}seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        if node.tag == f"{_TAGS}timestamp" and _DATE.match(node.value):
            return node.value
        if node.tag not in _SCALARS or not isinstance(node, yaml.ScalarNode):
            tag = node.tag.removeprefix(_TAGS)
            problem = f"is read as {tag!r}, which has no place here; quote it, or remove its tag"
        else:
            try:
                return self._plain.construct_object(node)
            except ValueError:
                problem = "is no number that can be read"
        where = f"{dotted(path)}: " if path else ""
        raise StartError(f"{self._name}:{node.start_mark.line + 1}: {where}{problem}")

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise StartError(f"{self._name}:{line}: '<<' is not read here; repeat the values")
            key = key_node.value
            if key_node.tag != f"{_TAGS}str":
                shown = f"the key {key!r}" if isinstance(key, str) else "a key"
                raise StartError(f"{self._name}:{line}: {shown} must be text; quote it")
            if key in mapping:
                raise StartError(
                    f"{self._name}:{line}: {dotted((*path, key))}: stands there twice; remove one"
                )
            mapping[key] = self.value(value_node, (*path, key))
            self._lines[(*path, key)] = line
        return mapping
