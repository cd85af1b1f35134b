from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, UnsupportedEncoding
from proxy.wire.form import MOST_PARTS, Form, Part

TYPE = b"multipart/form-data; boundary=xyz"

# Without what is escaped: quotes and backslashes.
letters = st.characters(exclude_categories=["C", "Z"], exclude_characters='"\\')
names = st.text(letters, min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


def _body(*parts: bytes, end: bytes = b"--xyz--\r\n") -> bytes:
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + end


def _part(name: str, data: bytes, more: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{more}'
    return head.encode() + b"\r\n\r\n" + data


def _parts(form: Form) -> list[tuple[str, str | None, str, bytes]]:
    return [(p.name, p.filename, p.content_type, bytes(p.data)) for p in form.parts]


def test_parts_are_read() -> None:
    file = (
        b'Content-Disposition: form-data; name="file"; filename="a b.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n\x00\r\n--xy\r\n\xff"
    )
    form = Form.parse(_body(_part("model", "gr\u00fc\u00df".encode()), file), TYPE)
    assert _parts(form) == [
        ("model", None, "", "gr\u00fc\u00df".encode()),
        ("file", "a b.wav", "audio/wav", b"\x00\r\n--xy\r\n\xff"),
    ]
    assert form.text("model") == "gr\u00fc\u00df"
    assert form.text("nothing") is None


@st.composite
def parts(draw: st.DrawFn) -> Part:
    return Part(
        name=draw(names),
        filename=draw(st.none() | names),
        content_type=draw(st.sampled_from(["", "audio/wav", 'text/plain; charset="utf-8"'])),
        data=memoryview(draw(st.binary(max_size=200))),
    )


@given(st.lists(parts(), max_size=8), st.dictionaries(names, texts, max_size=3))
def test_what_is_written_is_what_was_read_but_for_the_changes(
    parts: list[Part], changes: dict[str, str]
) -> None:
    first = {part.name: index for index, part in reversed(list(enumerate(parts)))}
    expected = [(p.name, p.filename, p.content_type, bytes(p.data)) for p in parts]
    for name, text in changes.items():
        if name in first:
            at = first[name]
            expected[at] = (*expected[at][:3], text.encode())
        else:
            expected.append((name, None, "", text.encode()))
    body, content_type = Form(parts).join(changes)
    assert _parts(Form.parse(body, content_type.encode())) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=3))
def test_no_body_breaks_the_reader(noise: bytes, places: list[int]) -> None:
    body = bytearray(_body(_part("model", b"m"), _part("file", b"data", '; filename="f"')))
    for place, byte in zip(places, noise, strict=False):
        body[place % len(body)] = byte
    for text in (noise, bytes(body)):
        try:
            Form.parse(text, TYPE)
        except InvalidRequest:
            continue


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_body(_part("model", b"m"), end=b""), "no end"),
        (_body(b'Content-Disposition: form-data; filename="f"\r\n\r\nx'), "no name"),
        (_body(b'Content-Disposition: attachment; name="f"\r\n\r\nx'), "no name"),
        (_body(b"Content-Type: text/plain\r\n\r\nx"), "no name"),
        (
            _body(_part("model", b"m").replace(b"\r\n\r\n", b"\r\ncontent-disposition: x\r\n\r\n")),
            "twice",
        ),
        (
            _body(
                _part("m", b"m").replace(
                    b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                )
            ),
            "base64",
        ),
        (_body(*[_part("a", b"")] * (MOST_PARTS + 1)), "more than 100 parts"),
        (b"", "no end"),
        (b"{}", "cannot be read"),
    ],
)
def test_a_body_that_could_be_read_two_ways_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Form.parse(body, TYPE)


@pytest.mark.parametrize(
    "content_type",
    [b"", b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=xyz"],
)
def test_other_bodies_are_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedEncoding):
        Form.parse(_body(), content_type)


def test_a_part_that_is_there_twice_is_refused() -> None:
    form = Form.parse(_body(_part("model", b"cheap"), _part("model", b"dear")), TYPE)
    with pytest.raises(InvalidRequest, match="twice"):
        form.text("model")


@pytest.mark.parametrize("parts", [(), (_part("model", b""),)])
def test_a_part_that_is_required_is_missed(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidRequest, match="missing required parameter: 'model'"):
        Form.parse(_body(*parts), TYPE).required("model")
