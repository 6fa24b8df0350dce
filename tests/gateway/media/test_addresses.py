"""Which addresses may be connected to: special-purpose registries, and every way to hide IPv4 in IPv6."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.addresses import may_connect

REFUSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.1.2.3",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "3ffe::1:0:5efe:7f00:1",
    "2600::5efe:10.0.0.1",
    "2600::200:5efe:a00:1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "4000::1",
    "e000::1",
]
ALLOWED = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "128.0.0.1",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "2400::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_not_public(address: str) -> None:
    assert not may_connect(ip_address(address))


@pytest.mark.parametrize("address", ALLOWED)
def test_public(address: str) -> None:
    assert may_connect(ip_address(address))


def test_networks_that_the_operator_allows() -> None:
    networks = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    assert may_connect(ip_address("10.1.2.3"), networks)
    assert may_connect(ip_address("fd00::1"), networks)
    assert not may_connect(ip_address("10.2.0.1"), networks)
    assert not may_connect(ip_address("127.0.0.1"), networks)


def test_an_allowed_ipv4_network_allows_no_disguise_of_it() -> None:
    assert not may_connect(ip_address("::ffff:10.1.2.3"), [ip_network("10.1.0.0/16")])


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_never_public_in_disguise(number: int) -> None:
    disguises = [
        number,
        0xFFFF << 32 | number,
        0x64_FF9B << 96 | number,
        0x2002 << 112 | number << 80,
        0x2001 << 112 | number,
        0x2600 << 112 | 0x5EFE << 32 | number,
    ]
    assert not any(may_connect(IPv6Address(each)) for each in disguises)


@given(st.integers(0, 2**32 - 1))
def test_never_more_than_python_calls_global(number: int) -> None:
    address = IPv4Address(number)
    assert address.is_global or not may_connect(address)
