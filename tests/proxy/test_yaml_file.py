"""YAML read as plain data, with the place of every value and of every mistake."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import StartError
from proxy.yaml_file import YamlFile, dotted, expand


def parse(text: str) -> YamlFile:
    return YamlFile.parse(text, "file.yaml")


_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_values)
def test_plain_data_is_read_as_it_was_written(value: Any) -> None:
    assert parse(yaml.safe_dump(value)).value == value


def test_every_value_has_its_line() -> None:
    file = parse("a:\n  b:\n    - 1\n    - c: 2\n\nd: {e: 3,\n  f: 4}\n")
    expected = {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
        ("d",): 6,
        ("d", "e"): 6,
        ("d", "f"): 7,
    }
    assert dict(file.lines) == expected
    assert str(file.error(("a", "b", 1, "c"), "no")) == "file.yaml:4: a.b[1].c: no"
    assert str(file.error(("a", "b", 9, "z"), "no")) == "file.yaml:2: a.b[9].z: no"
    assert str(file.error((), "no")) == "file.yaml:1: no"


def test_paths_are_written_as_people_read_them() -> None:
    assert dotted(("a", 0, "b", "c", 1)) == "a[0].b.c[1]"
    assert dotted(()) == ""


def test_anchors_of_plain_values_are_understood() -> None:
    assert parse("a: &x [1, 2]\nb: *x\nc: &y {d: 1}\ne: *y").value == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": 1},
        "e": {"d": 1},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "file.yaml:3: a: stands there twice"),
        ("x:\n  a: 1\n  'a': 2", "file.yaml:3: x.a: stands there twice"),
        ("1: x", "file.yaml:1: the key '1' must be text"),
        ("true: x", "file.yaml:1: the key 'true' must be text"),
        ("null: x", "file.yaml:1: the key 'null' must be text"),
        ("? [a]\n: x", "file.yaml:1: a key must be text"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "file.yaml:3: '<<' is not read here"),
        ("a: !!python/object/apply:os.system ['x']", "file.yaml:1: a: is read as 'python/"),
        ("a:\n- !!python/name:os.system", "file.yaml:2: a[0]: is read as 'python/"),
        ("a: !!python/object:os.x {b: 1}", "file.yaml:1: a: is read as 'python/"),
        ("!!python/tuple [1]", "file.yaml:1: is read as 'python/"),
        ("!!python/none x: 1", "file.yaml:1: the key 'x' must be text"),
        ("a: !custom x", "file.yaml:1: a: is read as '!custom'"),
        ("a: !!set {x}", "file.yaml:1: a: is read as 'set'"),
        ("a: !!binary aGk=", "file.yaml:1: a: is read as 'binary'"),
        ("a: !!str [1]", "file.yaml:1: a: is read as 'str'"),
        ("a: 2026-11-20 10:00:00", "file.yaml:1: a: is read as 'timestamp'"),
        ("a: !!int x", "file.yaml:1: a: is no number"),
        ("a: !!float x", "file.yaml:1: a: is no number"),
        ("a: " + "1" * 5000, "file.yaml:1: a: is no number"),
        ("a: 1\n---\nb: 2", "file.yaml:2: is not valid YAML: expected a single document"),
        ("a: *x", "file.yaml:1: is not valid YAML: found undefined alias"),
        ("a:\n\t- b", "file.yaml:2: is not valid YAML"),
        ("a: [1\nb: 2", "file.yaml:2: is not valid YAML"),
        ("a: '", "file.yaml:1: is not valid YAML"),
        ("a: \0", "file.yaml: is not valid YAML"),
        ('a: "\\ud83d"', "file.yaml:1: is not valid YAML"),
    ],
)
def test_what_is_not_read_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(StartError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.negative(number=18)
@pytest.mark.parametrize(
    "text",
    [
        _bomb(12, 10),
        _bomb(45, 2),
        "&a [*a, *a]",
        "&a {b: *a}",
        "a: " + "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000 + "x",
        "".join(f"{' ' * n}a:\n" for n in range(2_000)),
    ],
    ids=["wide", "deep", "itself", "itself in a mapping", "lists", "mappings", "block", "lines"],
)
def test_bombs_are_refused_at_once(text: str) -> None:
    """In a process of its own: the parser in C has no bound of its own, and would crash."""
    code = (
        "import sys, time\n"
        "from proxy.errors import StartError\n"
        "from proxy.yaml_file import YamlFile\n"
        "text = sys.stdin.read(); began = time.process_time()\n"
        "try: YamlFile.parse(text, 'file.yaml')\n"
        "except StartError as error: print(time.process_time() - began, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True
    )
    seconds, _, message = done.stdout.strip().partition(" ")
    assert float(seconds) < 0.1
    assert "levels" in message
    assert message.count("\n") == 0


def test_values_are_bounded_without_anchors_too() -> None:
    with pytest.raises(StartError, match="50000 values"):
        parse("[" + "x," * 60_000 + "]")


def test_a_large_file_is_read_in_time() -> None:
    text = "targets:\n" + "".join(f"  - {{target: a/{n}, tiers: [x]}}\n" for n in range(2_000))
    began = time.process_time()
    assert len(parse(text).value["targets"]) == 2_000
    assert time.process_time() - began < 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"none\.yaml: cannot be read"):
        YamlFile.read(tmp_path / "none.yaml")
    with pytest.raises(StartError, match="cannot be read"):
        YamlFile.read(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff")
    with pytest.raises(StartError, match=r"binary\.yaml: is not UTF-8 \(byte 3\)"):
        YamlFile.read(binary)
    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert YamlFile.read(marked).value == {"a": 1, "b": 2}


def test_a_files_secrets_do_not_show() -> None:
    assert "sk-secret" not in repr(parse("api_key: sk-secret"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "1"),
        ("x${A}y${LONG_NAME_2}", "1".join(["x", "y"]) + "two"),
        ("$A $ {A} $", "$A $ {A} $"),
        ("${REFERS}", "${A}"),
    ],
)
def test_variables_are_replaced_once(text: str, expected: str) -> None:
    environ = {"A": "1", "LONG_NAME_2": "two", "REFERS": "${A}"}
    assert expand(text, environ) == expected


@pytest.mark.parametrize("text", ["${NONE}", "x${NONE}", "${EMPTY}"])
def test_missing_and_empty_variables_are_named(text: str) -> None:
    with pytest.raises(KeyError) as caught:
        expand(text, {"EMPTY": ""})
    assert caught.value.args[0] in ("NONE", "EMPTY")


@pytest.mark.parametrize("text", ["${}", "${A-B}", "${A:-default}", "${A", "${1A}", "${A }"])
def test_what_only_looks_like_a_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="only"):
        expand(text, {"A": "1"})


def test_a_date_is_the_text_that_it_is() -> None:
    assert YamlFile.parse("from: 2026-12-01", "x").value == {"from": "2026-12-01"}
