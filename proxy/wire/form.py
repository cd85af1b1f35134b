"""A `multipart/form-data` body: its parts, and the body again with some of them changed.

Source: RFC 7578. A body is written anew, with a boundary and part headers of our own, so that what
was read here is what the provider reads. What a part holds is passed on as it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from proxy import steering
from proxy.errors import InvalidRequest, UnsupportedEncoding

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS = 100
_MULTIPART = b"multipart/form-data"
# How RFC 7578 has names that would end the quotes they stand in.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\\": "%5C"})
_LONGEST_QUOTE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part; a file has a `filename`."""

    name: str
    filename: str | None
    content_type: str
    data: memoryview

    @property
    def text(self) -> str:
        """What the part says; raises `InvalidRequest` where that is no text."""
        try:
            return str(self.data, "utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name!r} is not valid UTF-8", param=self.name) from None


class Form:
    """The parts of a form, in order."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    @classmethod
    def parse(cls, body: bytes, content_type: bytes) -> Self:
        """Read a body; raises `InvalidRequest`."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != _MULTIPART or not boundary:
            raise UnsupportedEncoding("this endpoint takes multipart/form-data with a boundary")
        if body.count(b"--" + boundary) > MOST_PARTS + 1:
            raise InvalidRequest(f"the form has more than {MOST_PARTS} parts")
        reader = _Reader()
        try:
            parser = MultipartParser(boundary, reader.callbacks())
            parser.write(body)
            parser.finalize()
        except FormParserError as error:
            raise _broken(str(error)) from None
        if not reader.is_whole:
            raise _broken("it has no end")
        parts = [_part(headers, _joined(pieces)) for headers, pieces in reader.parts]
        steering.check_members([part.name.lower() for part in parts])
        return cls(parts)

    def part(self, name: str) -> Part | None:
        """The part with a name; raises `InvalidRequest` where there are several."""
        found = [part for part in self.parts if part.name == name]
        if len(found) > 1:
            raise InvalidRequest(f"the form has {name!r} twice", param=name)
        return found[0] if found else None

    def text(self, name: str) -> str | None:
        """What the part with a name says."""
        part = self.part(name)
        return None if part is None else part.text

    def required(self, name: str) -> Part:
        """The part with a name, which must not be empty."""
        part = self.part(name)
        if part is None or not part.data.nbytes:
            raise InvalidRequest(f"missing required parameter: {name!r}", param=name)
        return part

    def join(self, changes: Mapping[str, str]) -> tuple[bytes, str]:
        """The body with these texts in place of parts, or added; and its content type."""
        boundary = f"tollway-{os.urandom(16).hex()}"
        parts = list(_changed(self.parts, changes))
        pieces: list[bytes | memoryview] = []
        for part in parts:
            pieces += [_head(part, boundary).encode(), part.data, b"\r\n"]
        pieces.append(f"--{boundary}--\r\n".encode())
        return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def _changed(parts: Sequence[Part], changes: Mapping[str, str]) -> Iterator[Part]:
    missing = dict(changes)
    for part in parts:
        text = missing.pop(part.name, None)
        yield part if text is None else replace(part, data=memoryview(text.encode()))
    for name, text in missing.items():
        yield Part(name=name, filename=None, content_type="", data=memoryview(text.encode()))


def _head(part: Part, boundary: str) -> str:
    disposition = f'form-data; name="{part.name.translate(_ESCAPES)}"'
    if part.filename is not None:
        disposition += f'; filename="{part.filename.translate(_ESCAPES)}"'
    kind = f"content-type: {part.content_type}\r\n" if part.content_type else ""
    return f"--{boundary}\r\ncontent-disposition: {disposition}\r\n{kind}\r\n"


Headers = dict[bytes, bytes]


class _Reader:
    """Takes down what the parser finds: of each part the headers, and where its data stand."""

    def __init__(self) -> None:
        self.parts: list[tuple[Headers, list[memoryview]]] = []
        self.is_whole = False
        self._name = b""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": lambda: self.parts.append(({}, [])),
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_part_data": self._on_data,
            "on_end": self._on_end,
        }

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name = data[start:end].lower()
        if self._name in self.parts[-1][0]:
            raise _broken(f"a part has the header {self._name.decode('latin-1')[:50]!r} twice")

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][0][self._name] = data[start:end]

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][1].append(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self.is_whole = True


def _joined(pieces: list[memoryview]) -> memoryview:
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _part(headers: Headers, data: memoryview) -> Part:
    kind, options = parse_options_header(headers.get(b"content-disposition"))
    name = options.get(b"name", b"")
    if kind != b"form-data" or not name:
        raise _broken("a part has no name")
    encoding = headers.get(b"content-transfer-encoding", b"binary").strip().lower()
    if encoding not in (b"binary", b"8bit", b"7bit"):
        raise _broken(
            f"the Content-Transfer-Encoding {encoding.decode('latin-1')[:50]!r} is not read"
        )
    filename = options.get(b"filename")
    content_type = headers.get(b"content-type", b"").decode("latin-1").strip()
    if not content_type.isprintable() or not content_type.isascii():
        raise _broken("a part's content type is not printable")
    return Part(
        name=_text(name),
        filename=None if filename is None else _text(filename),
        content_type=content_type,
        data=data,
    )


def _text(header: bytes) -> str:
    """Clients write names in UTF-8."""
    text = header.decode("utf-8", "replace")
    if not text.isprintable():
        raise _broken("a part's name is not printable")
    return text


def _broken(problem: str) -> InvalidRequest:
    return InvalidRequest(f"the multipart body cannot be read: {problem[:_LONGEST_QUOTE]}")
