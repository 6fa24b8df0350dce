from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.address import MAX_HOPS, UNKNOWN, caller_address, limit_subject

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode()) for line in lines]


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", forwarded("198.51.100.1"), "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", forwarded("198.51.100.1"), "198.51.100.1"),
        ("10.0.0.1", forwarded("1.1.1.1, 198.51.100.1, 10.0.0.2"), "198.51.100.1"),
        ("10.0.0.1", forwarded("1.1.1.1", "198.51.100.1,10.0.0.2"), "198.51.100.1"),
        ("10.0.0.1", forwarded("10.0.0.3,10.0.0.2"), "10.0.0.3"),
        ("10.0.0.1", forwarded("1.1.1.1, nonsense, 10.0.0.2"), "10.0.0.2"),
        ("10.0.0.1", forwarded("1.1.1.1,"), "10.0.0.1"),
        ("10.0.0.1", forwarded("198.51.100.1:4711"), "198.51.100.1"),
        ("10.0.0.1", forwarded("[2001:db8::1]:4711"), "2001:db8::1"),
        ("::ffff:10.0.0.1", forwarded("::ffff:198.51.100.1"), "198.51.100.1"),
        ("fd00::1", forwarded("2001:db8::5"), "2001:db8::5"),
        ("10.0.0.1", [(b"x-real-ip", b"1.1.1.1"), (b"forwarded", b"for=1.1.1.1")], "10.0.0.1"),
        (None, forwarded("1.1.1.1"), UNKNOWN),
        ("", [], UNKNOWN),
    ],
)
def test_the_rightmost_hop_that_nobody_could_invent(
    peer: str | None, headers: list[tuple[bytes, bytes]], expected: str
) -> None:
    assert caller_address(peer, headers, TRUSTED) == expected


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert caller_address("10.0.0.1", forwarded("1.1.1.1"), []) == "10.0.0.1"


def test_only_the_last_hops_are_looked_at() -> None:
    hops = ", ".join(["1.1.1.1", *["10.0.0.2"] * MAX_HOPS])
    assert caller_address("10.0.0.1", forwarded(hops), TRUSTED) == "10.0.0.2"


def test_limits_count_a_subscriber() -> None:
    assert limit_subject("2001:db8:0:1::5") == limit_subject("2001:db8:0:1:ffff::6") == "2001:db8:0:1::/64"
    assert limit_subject("2001:db8:0:2::5") != limit_subject("2001:db8:0:1::5")
    assert limit_subject("203.0.113.9") == "203.0.113.9"
    assert limit_subject(UNKNOWN) == UNKNOWN


@given(st.lists(st.binary(max_size=60), max_size=5), st.ip_addresses(v=4))
def test_a_client_cannot_choose_its_address(lines: list[bytes], peer: object) -> None:
    """Whatever it sends, what a trusted proxy appended wins; and nothing raises."""
    headers = [(b"x-forwarded-for", line) for line in lines] + forwarded("203.0.113.77")
    assert caller_address("10.0.0.1", headers, TRUSTED) == "203.0.113.77"
    assert caller_address(str(peer), headers, [ip_network("0.0.0.0/32")]) in (str(peer), "203.0.113.77")


_TRUSTED_HOPS = st.sampled_from(["10.0.0.2", "10.1.2.3:4711", "[fd00::2]:1", "::ffff:10.0.0.3", " 10.0.0.4 "])
_CLIENTS = st.ip_addresses().filter(lambda address: not any(address in network for network in TRUSTED))


@given(st.lists(_TRUSTED_HOPS, max_size=MAX_HOPS - 1), st.lists(st.text(max_size=20), max_size=3), _CLIENTS)
def test_any_chain_of_trusted_proxies_leads_to_the_client(
    proxies: list[str], invented: list[str], client: IPv4Address | IPv6Address
) -> None:
    """However the hops are spread over header lines, and whatever the client sent before."""
    expected = getattr(client, "ipv4_mapped", None) or client
    if any(expected in network for network in TRUSTED):
        return
    lines = [line.encode("utf-8", "replace") for line in invented] + [hop.encode() for hop in [str(client), *proxies]]
    headers = [(b"x-forwarded-for", line) for line in lines]
    assert caller_address("10.0.0.1", headers, TRUSTED) == str(expected)


@given(st.lists(st.tuples(st.sampled_from([b"x-forwarded-for", b"forwarded", b"x-real-ip"]), st.binary(max_size=40))))
def test_an_untrusted_peer_says_nothing_about_itself(headers: list[tuple[bytes, bytes]]) -> None:
    assert caller_address("203.0.113.9", headers, TRUSTED) == "203.0.113.9"


@given(st.ip_addresses(v=6))
def test_a_subject_is_a_network_of_its_address(address: IPv6Address) -> None:
    subject = limit_subject(str(address))
    if address.ipv4_mapped is None:
        assert address in ip_network(subject)
        assert limit_subject(str(ip_network(subject)[7])) == subject
