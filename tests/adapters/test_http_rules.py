"""The HTTP rules that all transports share."""

from __future__ import annotations

import zlib

import pytest

from adapters.http.http_rules import ContentDecoder, Origin, accepted_headers, decoder_for


@pytest.mark.parametrize(
    ("base_url", "address", "host_header", "path"),
    [
        ("https://api.example.com/v1", "api.example.com:443", "api.example.com", "/v1"),
        ("https://api.example.com/v1/", "api.example.com:443", "api.example.com", "/v1"),
        ("http://API.example.com", "api.example.com:80", "api.example.com", ""),
        ("http://h:8080/", "h:8080", "h:8080", ""),
        ("http://h:443", "h:443", "h:443", ""),
        ("https://h:443/a/b%20c", "h:443", "h", "/a/b%20c"),
        ("http://my_server.local.", "my_server.local.:80", "my_server.local.", ""),
        ("http://127.0.0.1:11434", "127.0.0.1:11434", "127.0.0.1:11434", ""),
        ("http://[::1]:8080", "[::1]:8080", "[::1]:8080", ""),
        ("http://[0:0::1]", "[::1]:80", "[::1]", ""),
        ("http://[fe80::1%eth0]", "[fe80::1]:80", "[fe80::1]", ""),
    ],
)
def test_a_base_url_names_an_origin(
    base_url: str, address: str, host_header: str, path: str
) -> None:
    origin = Origin.parse(base_url)
    assert (origin.address, origin.host_header, origin.path) == (address, host_header, path)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.com",
        "ftp://h",
        "http://",
        "http:///v1",
        "http://h?x=1",
        "http://h?",
        "http://h#x",
        "http://h/a b",
        "http://h/ü",
        "http://münchen.example",
        "http://a b",
        "http://-a",
        "http://a..b",
        "http://" + "a" * 64,
        "http://" + "a." * 128 + "a",
        "http://h:99999",
        "http://h:x",
        "http://[::1",
        "http://[::g]",
        "http://h\\@elsewhere",
    ],
)
def test_what_is_no_base_url_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Origin.parse(base_url)


@pytest.mark.parametrize("base_url", ["http://me:secret@h", "http://secret@h", "ftp://secret@h"])
def test_a_base_url_with_a_password_is_refused_and_not_quoted(base_url: str) -> None:
    with pytest.raises(ValueError, match="user or password") as caught:
        Origin.parse(base_url)
    assert "secret" not in str(caught.value)


def test_a_request_target_continues_the_base_path() -> None:
    origin = Origin.parse("https://h/v1beta")
    assert origin.target("/models/m:stream?alt=sse") == "/v1beta/models/m:stream?alt=sse"


def test_repeated_headers_are_joined_and_blanks_cut_off() -> None:
    fields = [(b"VIA", b"a"), (b"X", b" b\t"), (b"via", b"c"), (b"Latin", b"\xe9")]
    assert accepted_headers(200, fields, "h:80") == {"via": "a, c", "x": "b", "latin": "é"}


def test_not_modified_is_no_redirect() -> None:
    assert accepted_headers(304, [], "h:80") == {}


def test_an_empty_body_needs_no_coded_data() -> None:
    decoder = decoder_for({"content-encoding": "gzip"}, "h:80")
    assert decoder is not None
    assert decoder.pull() == b""
    decoder.finish()


def test_decoding_hands_out_what_has_arrived() -> None:
    squeeze = zlib.compressobj(wbits=31)
    decoder = ContentDecoder("gzip", "h:80")
    for text in (b"data: a\n\n", b"data: b\n\n"):
        decoder.push(squeeze.compress(text) + squeeze.flush(zlib.Z_SYNC_FLUSH))
        assert decoder.pull() == text
        assert decoder.pull() == b""
    decoder.push(squeeze.flush())
    assert decoder.pull() == b""
    decoder.finish()
