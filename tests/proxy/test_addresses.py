from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import client_address, is_in, parse_network

PROXIES = (parse_network("10.0.0.0/8"), parse_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),  # its own word, and nobody vouches for it
        ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["203.0.113.5, 198.51.100.9"], "198.51.100.9"),  # the left is forged
        ("10.0.0.1", ["203.0.113.5", "198.51.100.9, 10.1.1.1"], "198.51.100.9"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.9:4711"], "198.51.100.9"),
        ("10.0.0.1", ["[2001:db9::1]:443"], "2001:db9::1"),
        ("::ffff:10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("10.0.0.1", ["unknown"], None),
        ("10.0.0.1", ["198.51.100.9, "], None),
        (None, [], None),
        ("/tmp/socket", ["198.51.100.9"], None),
    ],
)
def test_client_is_the_last_address_that_no_trusted_proxy_has(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    found = client_address(peer, forwarded, PROXIES)
    assert found == (None if client is None else ipaddress.ip_address(client))


@given(st.ip_addresses(), st.lists(st.text(alphabet="0123456789abcdef.:[], x", max_size=40)))
def test_a_client_cannot_choose_its_address(
    peer: ipaddress.IPv4Address | ipaddress.IPv6Address, forwarded: list[str]
) -> None:
    """Whatever the header says, it is believed only from a trusted peer."""
    own = client_address(str(peer), [], ())
    assert own is not None
    if not is_in(own, PROXIES):
        assert client_address(str(peer), forwarded, PROXIES) == own


def test_ipv4_written_as_ipv6_is_the_same_network() -> None:
    assert parse_network("::ffff:192.0.2.0/120") == ipaddress.ip_network("192.0.2.0/24")


@pytest.mark.parametrize("text", ["", "10.0.0.7/8", "10.0.0.0/33", "home", "1.2.3.4/x"])
def test_what_is_no_network_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write "):
        parse_network(text)
