"""Request bodies: what is refused, and that everything else goes upstream as it came."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.body import Body


def _members(body: Body) -> dict[str, bytes]:
    return {key: bytes(raw) for key, raw in body.members.items()}


# Numbers and strings as clients write them, which a round trip through a parser would change.
VERBATIM = [
    b"1.0",
    b"12345678901234567",
    b"123456789012345678901234567890",
    b"0.1e-7",
    b"1E400",
    b"-0",
    b"null",
    b"true",
    b'"\\u2028"',
    '"\u2028 \u0085"'.encode(),
    b'"\\/ \\u00E9 \\b"',
    rb'"\ud83d"',
    rb'{"a": "\udc4b", "b":[ 1 ,2]}',
    b"[ ]",
    b'{"b":1,"a":2}',
]


@pytest.mark.parametrize("value", VERBATIM)
@pytest.mark.parametrize("layout", ['{"x":%s,"model":"m"}', '{"x": %s, "model": "m"}'])
def test_values_go_upstream_byte_for_byte(value: bytes, layout: str) -> None:
    raw = layout.encode().replace(b"%s", value)
    joined = Body.parse(raw).join({"model": b'"other"'})
    assert joined == b'{"x":%b,"model":"other"}' % value


def test_order_of_keys_is_kept_and_additions_come_last() -> None:
    body = Body.parse(b'{"z":1,"model":"m","a":null}')
    joined = body.join({"new": b"2", "model": b'"n"'})
    assert joined == b'{"z":1,"model":"n","a":null,"new":2}'


def test_a_member_can_be_left_out() -> None:
    assert Body.parse(b'{"a":1,"b":2}').join({"a": None, "c": None}) == b'{"b":2}'


# JSON as clients lay it out: values, white space around everything, any way to escape a string.
_texts = st.text(st.characters() | st.sampled_from('\ud83d\udc4b\u2028\\"/\x7f'), max_size=8)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
# As they are refused in any other case, the names that money goes by stand for themselves.
_keys = _texts.filter(lambda key: key.islower() or key.casefold() not in wire_body._ONE_CASE)
_spaces = st.sampled_from(["", "", " ", "\n  ", "\t", "\r\n"])


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], list[bytes]]:
    """A body, its value, and its members' values as they are written."""
    value = draw(st.dictionaries(_keys, _values, max_size=6))
    members, written = [], []
    for key, item in value.items():
        ascii_only = draw(st.booleans()) or _is_lone(item)
        text = json.dumps(item, ensure_ascii=ascii_only)
        name = json.dumps(key, ensure_ascii=draw(st.booleans()) or _is_lone(key))
        if draw(st.booleans()):
            name = '"' + "".join(f"\\u{unit:04x}" for unit in _units(key)) + '"'
        around = [draw(_spaces) for _ in range(4)]
        members.append(f"{around[0]}{name}{around[1]}:{around[2]}{text}{around[3]}")
        written.append(text.encode())
    inside = draw(_spaces) if not members else ""
    raw = f"{draw(_spaces)}{{{inside}{','.join(members)}}}{draw(_spaces)}"
    return raw.encode(), value, written


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in pieces has many of them; a character of four bytes fits into one."""
    monkeypatch.setattr(wire_body, "_PIECE_BYTES", 4)


def _units(text: str) -> list[int]:
    encoded = text.encode("utf-16-le", "surrogatepass")
    return [int.from_bytes(encoded[i : i + 2], "little") for i in range(0, len(encoded), 2)]


def _is_lone(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _seen(key: str) -> str:
    """A key as it leaves: surrogates without their half are replaced."""
    return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(_layouts())
def test_an_unchanged_body_is_joined_to_the_same_members(
    layout: tuple[bytes, dict[str, Any], list[bytes]],
) -> None:
    raw, value, written = layout
    keys = [_seen(key) for key in value]
    if len(set(keys)) < len(keys):
        with pytest.raises(InvalidRequest):
            Body.parse(raw)
        return
    body = Body.parse(raw)
    assert list(_members(body).items()) == list(zip(keys, written, strict=True))
    joined = json.loads(body.join({}))
    assert list(joined.items()) == list(zip(keys, value.values(), strict=True))


@pytest.mark.usefixtures("small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab", min_size=5), st.booleans())
def test_a_large_value_counts_to_its_last_byte(text: str, is_other: bool) -> None:
    value = f'"{text}"'.encode()
    first = f'"{text[:-1]}~"'.encode() if is_other else value
    with pytest.raises(InvalidRequest, match="twice"):
        Body.parse(b'{ "x": %b, "x":%b}' % (first, value))
    assert _members(Body.parse(b'{ "x": %b}' % value)) == {"x": value}


@pytest.mark.usefixtures("small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace"))
        | st.binary(max_size=3)
    ).map(b"".join)
)
def test_what_is_not_utf8_is_named_by_its_first_byte(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(InvalidRequest, match=rf"UTF-8 \(byte {error.start}\)"):
            wire_body._check_utf8(text)
    else:
        wire_body._check_utf8(text)


@given(_layouts(), st.data())
def test_a_key_that_stands_twice_is_refused_wherever_and_however_it_is_written(
    layout: tuple[bytes, dict[str, Any], list[bytes]], data: st.DataObject
) -> None:
    raw, value, _ = layout
    if not value:
        return
    key = data.draw(st.sampled_from(list(value)))
    again = json.dumps(data.draw(_values)) if data.draw(st.booleans()) else json.dumps(value[key])
    name = '"' + "".join(f"\\u{unit:04x}" for unit in _units(key)) + '"'
    member = f"{name}:{again}".encode()
    text = raw.strip()
    doubled = (
        text[:-1] + b"," + member + b"}"
        if data.draw(st.booleans())
        else b"{" + member + b"," + text[1:]
    )
    with pytest.raises(InvalidRequest, match="twice"):
        Body.parse(doubled)


@pytest.mark.negative(number=26)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","x":1,"model":"a"}',
        b'{"n":12,"n":1}',
        b'{"n":1,"n":12}',
        b'{"n":1.5,"n":1,"m":2}',
        # As long as if each stood once, with a space behind every colon and comma.
        b'{"n":99,"a":1,"b":1,"c":1,"n":1}',
        b'{"model": "a", "model": "b"}',
        rb'{"mod\u0065l":"a","model":"b"}',
        b'{ "model":"a",\n"model":"a" }',
        b'{"":1,"":2}',
    ],
)
def test_duplicate_keys_are_refused_and_named(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice") as caught:
        Body.parse(raw)
    assert caught.value.param in ("model", "n", "")


def test_duplicate_keys_further_down_are_the_clients_own_affair() -> None:
    raw = b'{"metadata":{"a":1,"a":2},"messages":[{"role":"x","role":"y"}]}'
    assert Body.parse(raw).join({}) == raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a":1', "not valid JSON"),
        (b'{"a":1}}', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (rb'{"a":"\x"}', "not valid JSON"),
        (rb'{"a":"\ud83"}', "not valid JSON"),
        (rb'{"a":"\ud83d","b":NaN}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        ('{"a":1}'.encode("utf-16-le"), "not valid JSON"),
        (b'{"a":"\xff"}', "not valid UTF-8"),
        (b'{"a":"\xe4\xb8"}', "not valid UTF-8"),
        (b'{"a":"\xed\xa0\xbd"}', "not valid UTF-8"),
        (b"[1]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"5", "must be a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Body.parse(raw)


@pytest.mark.negative(number=26)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[ "])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_depth_bombs_are_refused_at_once(opening: bytes, depth: int) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidRequest, match=r"nested too deeply|not valid JSON"):
        Body.parse(b'{"x": ' + opening * depth + b"}")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("layout", ['{"x":%s}', '{"x": %s}'])
def test_every_depth_is_taken_or_refused(layout: str) -> None:
    for depth in range(1_100):
        raw = (layout % ("[" * depth + "1" + "]" * depth)).encode()
        try:
            assert Body.parse(raw).members
        except InvalidRequest as refused:
            assert "nested too deeply" in str(refused)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[{"content":"%b"}]}' % (b"A" * (8 << 20)),
        b'{\n  "model": "m",\n  "messages": [{"content": "%b"}]\n}' % (b"A" * (8 << 20)),
        b'{ "x":[%b] }' % b",".join([b"{}"] * 1_000_000),
        rb'{"x":"\ud83d%b"}' % (rb"\n" * (2 << 20)),
        b'{"x":{}%b}' % b"".join(b',"k%d":%d' % (i, i) for i in range(50_000)),
    ],
    ids=["compact", "pretty", "many values", "lone surrogate", "many members"],
)
def test_large_bodies_take_time_in_proportion(raw: bytes) -> None:
    began = time.perf_counter()
    body = Body.parse(raw)
    body.join({"model": b'"n"'})
    # Generous for a busy machine; anything quadratic takes minutes.
    assert time.perf_counter() - began < 2


def test_huge_keys_and_values_are_not_echoed() -> None:
    key = b"k" * 1_000_000
    with pytest.raises(InvalidRequest) as caught:
        Body.parse(b'{"%b":1,"%b":2}' % (key, key))
    assert len(caught.value.body()) < 1_000


class _Fields(msgspec.Struct):
    a: int = 0
    b: list[dict[str, int]] = []


@pytest.mark.parametrize(
    ("raw", "param"),
    [(b'{"a":"x"}', "a"), (b'{"b":[{},{"c":"x"}]}', "b[1][...]"), (b'{"a":1.5}', "a")],
)
def test_typed_fields_name_the_parameter(raw: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Body.parse(raw).decode(msgspec.json.Decoder(_Fields))
    assert caught.value.param == param


@settings(max_examples=200)
@given(st.binary(max_size=64) | st.text(max_size=32).map(str.encode))
def test_no_bytes_raise_anything_but_a_refusal(raw: bytes) -> None:
    try:
        Body.parse(raw)
    except InvalidRequest as error:
        assert error.status == 400
        error.body()


@pytest.mark.parametrize("name", ["N", "Max_Tokens", "MODEL", "max_to\u212aens", "\u017fpeed"])
def test_a_name_that_some_servers_would_read_in_another_case_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Body.parse(json.dumps({"model": "m", name: 5}).encode())
    assert refused.value.param == name


@pytest.mark.parametrize("name", ["guardrailConfig", "X", "max_tokens", "0", ""])
def test_other_names_are_written_as_anyone_likes(name: str) -> None:
    assert name in Body.parse(json.dumps({name: 5}).encode()).members
