"""Response headers that every answer shares, and the choice of the request id."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

Headers = list[tuple[bytes, bytes]]

SECURITY_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode("ascii") for s in HTTPStatus}


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's ``X-Request-Id`` if there is exactly one and it is safe to log and echo, else a new UUIDv4."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0].decode("ascii")
    return str(uuid.uuid4())


def status_line(status: int) -> bytes:
    """The status line with CRLF, RFC 9112 section 4."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
