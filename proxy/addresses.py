"""Addresses: where a request comes from, and which networks and hosts are meant."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or one address. Raises `ValueError` with what could be written.

    Bits beyond the mask are a mistake (`10.0.0.7/8`): which of the two was meant is not guessed.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; write e.g. 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32") from None
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped.ipv4_mapped, network.prefixlen - 96))
    return network


def client_address(
    peer: str | None, forwarded: Sequence[str], trusted: Iterable[Network]
) -> Address | None:
    """Where a request really comes from; None where that cannot be told.

    `peer` is the other end of the socket, `forwarded` each `X-Forwarded-For` header in order. Every
    proxy appends the address it was called from, and the client may have sent the header itself:
    so it is read from the right, and only as far as the addresses are those of trusted proxies.
    """
    address = _address(peer or "")
    if not forwarded:
        return address
    networks = tuple(trusted)
    hops = [hop for header in forwarded for hop in header.split(",")]
    while hops and address is not None and is_in(address, networks):
        address = _address(hops.pop())
    return address


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether any of the networks holds the address."""
    return any(address in network for network in networks)


def is_nearby(host: str) -> bool:
    """Whether a host is this machine, or one of its own network, going by its name or address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_link_local


def _address(text: str) -> Address | None:
    """An address as proxies write it: bare, in brackets, or with a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket tells IPv4 clients in IPv6 notation.
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
