"""What the node's DNS server answers."""

from __future__ import annotations

import socket

import pytest

from tests.deploy.node import dns


def packet(name: str, kind: int = dns.A) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00" + kind.to_bytes(2, "big") + b"\x00\x01"


def find(namespace: str, name: str) -> str | None:
    return "10.96.3.4" if (namespace, name) == ("models", "sluice") else None


def test_a_service_has_an_address() -> None:
    answer = dns.answer(packet("Sluice.models.svc.cluster.local"), find)
    assert answer[:2] == b"\x12\x34"
    assert answer[3] & 15 == 0
    assert answer[6:8] == b"\x00\x01"
    assert answer[-4:] == socket.inet_aton("10.96.3.4")


def test_other_types_are_empty_and_other_names_unknown() -> None:
    empty = dns.answer(packet("sluice.models.svc.cluster.local", kind=28), find)
    assert (empty[3] & 15, empty[6:8]) == (0, b"\x00\x00")
    for name in ("other.models.svc.cluster.local", "sluice.svc.cluster.local", "example.org"):
        assert dns.answer(packet(name), find)[3] & 15 == 3


@pytest.mark.parametrize(
    "broken", [b"", b"\x12\x34", packet("a.b")[:-3], packet("a")[:12] + b"\xc0\x0c" + b"\x00\x01" * 2]
)
def test_what_is_no_question_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"not one question|cut short|compressed"):
        dns.question(broken)
