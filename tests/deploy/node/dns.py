"""Names of Services for the one-node cluster: ``NAME.NAMESPACE.svc.cluster.local`` over UDP, from the API server.

``dns.py ADDRESS SERVER TOKEN_FILE CA_FILE``. As much as a pod needs and no more: A records of Services, nothing of the
world outside. Only the standard library, so that it runs before any environment is there.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

DOMAIN = ("svc", "cluster", "local")
A = 1
#: Address of a Service by namespace and name; None when there is none.
Find = Callable[[str, str], str | None]


def question(packet: bytes) -> tuple[tuple[str, ...], int, bytes]:
    """Labels and type that are asked for, and the question's bytes. Raises ValueError for anything else."""
    if len(packet) < 12 or packet[2] & 0x80 or packet[4:6] != b"\x00\x01":
        raise ValueError("not one question")
    labels, at = [], 12
    while at < len(packet) and packet[at]:
        length = packet[at]
        if length > 63:
            raise ValueError("a compressed question")
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    if at + 5 > len(packet):
        raise ValueError("cut short")
    return tuple(labels), int.from_bytes(packet[at + 1 : at + 3], "big"), packet[12 : at + 5]


def answer(packet: bytes, find: Find) -> bytes:
    """The answer's bytes: an address, no such name, or nothing of that type. Raises ValueError for no question."""
    labels, kind, asked = question(packet)
    address = find(labels[1], labels[0]) if len(labels) == 5 and labels[2:] == DOMAIN else None
    records = b""
    if address is not None and kind == A:
        records = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 5, 4) + socket.inet_aton(address)
    # Answer, authoritative, recursion available (or resolvers warn); code 3 says that there is no such name.
    flags = 0x8480 | (packet[2] & 1) << 8 | (0 if address is not None else 3)
    return packet[:2] + struct.pack(">HHHHH", flags, 1, 1 if records else 0, 0, 0) + asked + records


def finder(server: str, token: str, context: ssl.SSLContext) -> Find:
    """Asks the API server each time: what it says now is right."""

    def find(namespace: str, name: str) -> str | None:
        request = urllib.request.Request(
            f"{server}/api/v1/namespaces/{namespace}/services/{name}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as response:
                address: str = json.load(response)["spec"]["clusterIP"]
                return address
        except urllib.error.HTTPError:
            return None

    return find


def main() -> None:
    address, server, token_file, ca_file = sys.argv[1:]
    find = finder(server, Path(token_file).read_text("utf-8").strip(), ssl.create_default_context(cafile=ca_file))
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, 53))
    while True:
        packet, asker = listener.recvfrom(4096)
        try:
            listener.sendto(answer(packet, find), asker)
        except (ValueError, OSError) as error:
            print(f"{asker[0]}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
