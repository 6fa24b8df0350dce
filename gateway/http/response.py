"""Response bytes: the header block an application asked for, and whole error responses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.errors import ApiError
from gateway.http.headers import SECURITY_HEADERS, Headers, status_line

_BLOCK: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: [\t -~\x80-\xff]*+\r\n)*+")
_FRAMING: Final = frozenset((b"content-length", b"connection", b"transfer-encoding", b"date"))


@dataclass(slots=True)
class HeaderBlock:
    """Rendered header lines without those of framing, which are kept as values."""

    lines: bytes
    content_length: int | None = None
    close: bool = False


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> HeaderBlock:
    """Render ``headers``. Raises ValueError if a name or a value could break out of its line."""
    block = HeaderBlock(b"")
    parts: list[bytes] = []
    count = 0
    for name, value in headers:
        if name in _FRAMING:
            _note_framing(block, name, value)
        else:
            parts += (name, b": ", value, b"\r\n")
            count += 1
    block.lines = b"".join(parts)
    if not _BLOCK.fullmatch(block.lines) or block.lines.count(b"\n") != count:
        raise ValueError("invalid response header")
    return block


def _note_framing(block: HeaderBlock, name: bytes, value: bytes) -> None:
    if name == b"content-length":
        block.content_length = int(value)
    elif name == b"connection":
        block.close = block.close or b"close" in value.lower()


def error_headers(error: ApiError, request_id: str) -> Headers:
    """All headers of an error's response except those of framing."""
    return [*error.headers(), *SECURITY_HEADERS, (b"x-request-id", request_id.encode("ascii"))]


def error_response(error: ApiError, request_id: str, date_line: bytes) -> bytes:
    """A whole response that ends its connection, for errors outside of any request."""
    payload = error.payload()
    block = header_block(error_headers(error, request_id))
    length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(payload)
    return b"".join((status_line(error.status), date_line, block.lines, length, payload))
