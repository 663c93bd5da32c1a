"""Which addresses a URL of a stranger may lead to. Pure."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

#: IPv6 networks whose addresses end with an IPv4 address that a gateway connects to (RFC 6052,
#: RFC 8215).
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
#: Metadata services that live at addresses which count as public or unique-local.
_METADATA: Final = frozenset({"169.254.169.254", "fd00:ec2::254", "168.63.129.16", "192.0.0.192"})


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, and so is every address hidden in it.

    Private, loopback, link-local, shared, multicast, reserved and unspecified addresses are not,
    nor are IPv6 addresses through which a gateway would reach such an IPv4 address.
    """
    try:
        found = ip_address(address.partition("%")[0])  # without the interface of fe80::1%eth0
    except ValueError:
        return False
    return all(_is_public(one) for one in _with_hidden(found))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if str(address) in _METADATA or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global


def _with_hidden(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """Yield the address, or those that it stands for."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    if any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
