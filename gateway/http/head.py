"""The request head: found in the stream, judged strictly, then parsed by httptools (llhttp).

A regular expression decides what is well-formed, so that no leniency of a parser can be met: bare LF or CR, NUL,
obs-fold, a space before the colon, an odd method or target never reach it. RFC 9112 sections 2 to 6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httptools

from gateway.http import rejections
from gateway.http.bounds import HttpBounds
from gateway.http.headers import Headers

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD: Final = _TOKEN + rb"{1,32}+"
_TARGET: Final = rb"/[!\"$-~]*+"
_VALUE: Final = rb"[\t -~\x80-\xff]*+"

REQUEST_LINE: Final = re.compile(_METHOD + rb" " + _TARGET + rb" HTTP/1\.[01]\r\n")
FIELD_LINES: Final = re.compile(rb"(?:" + _TOKEN + rb"++:" + _VALUE + rb"\r\n)*+")
_HEAD: Final = re.compile(REQUEST_LINE.pattern + FIELD_LINES.pattern + rb"\r\n")

# What an unfinished line may look like; anything else can never become a valid one.
_REQUEST_LINE_PREFIX: Final = re.compile(_TOKEN + rb"{0,32}+(?: (?:" + _TARGET + rb"(?: (?:[HTP/1.0]{0,8}+\r?+)?)?)?)?")
_FIELD_LINE_PREFIX: Final = re.compile(rb"\r?|" + _TOKEN + rb"++(?::" + _VALUE + rb"\r?+)?")
_LONG_TARGET: Final = re.compile(_METHOD + rb" /")

_HOST: Final = re.compile(rb"([A-Za-z0-9_](?:[A-Za-z0-9._-]{0,254})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_WEBSOCKET: Final = re.compile(rb"(?:.*,)?[ \t]*websocket[ \t]*(?:/.*|,.*)?", re.IGNORECASE)

# Longest request line around a target: method, two spaces, version, CRLF.
_REQUEST_LINE_SLACK: Final = 32 + 2 + 8 + 2
_FRAMING: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"))


@dataclass(slots=True)
class RequestHead:
    """A valid head. ``content_length`` is None when no body is framed that way; names in ``headers`` are lower-case."""

    method: str
    target: bytes
    http10: bool
    headers: Headers
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or bool(self.content_length)


class HeadReader:
    """Collects bytes until a head is whole. Refuses at once what can never become one, however it is split."""

    __slots__ = ("_bounds", "_buffer", "_checked", "_skipped")

    def __init__(self, bounds: HttpBounds) -> None:
        self._bounds = bounds
        self._buffer = bytearray()
        self._checked = 0
        self._skipped = False

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The head and the bytes after it, or None while it is not whole. Raises :class:`ApiError`."""
        if not self._buffer and not self._skipped and data[0] != 0x0D:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                return data[: end + 4], data[end + 4 :]
        searched = max(0, len(self._buffer) - 3)
        self._buffer += data
        self._skip_empty_line()
        end = self._buffer.find(b"\r\n\r\n", max(0, searched - 2))
        if end < 0:
            self._check_unfinished()
            return None
        whole = bytes(self._buffer)
        self._reset()
        return whole[: end + 4], whole[end + 4 :]

    def _reset(self) -> None:
        self._buffer.clear()
        self._checked = 0
        self._skipped = False

    def _skip_empty_line(self) -> None:
        # RFC 9112 section 2.2: a server should ignore one empty line before the request line.
        if not self._skipped and self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            self._skipped = True

    def _check_unfinished(self) -> None:
        buffer, bounds = self._buffer, self._bounds
        if buffer == b"\r" and not self._skipped:
            return
        if not self._checked:
            self._checked = check_request_line(buffer, bounds)
        if self._checked:
            self._check_fields()

    def _check_fields(self) -> None:
        match = FIELD_LINES.match(self._buffer, self._checked)
        self._checked = match.end() if match else self._checked
        check_sizes(self._buffer, self._bounds)
        if not _FIELD_LINE_PREFIX.fullmatch(self._buffer, self._checked):
            raise rejections.malformed("The request header is malformed.")


def check_request_line(buffer: bytes | bytearray, bounds: HttpBounds) -> int:
    """The length of a finished, valid request line; 0 while it is unfinished. Raises :class:`ApiError`."""
    end = buffer.find(b"\n") + 1
    line = buffer[: end or len(buffer)]
    if len(line) > bounds.max_target_bytes + _REQUEST_LINE_SLACK and _LONG_TARGET.match(line):
        raise rejections.uri_too_long(bounds.max_target_bytes)
    if not (REQUEST_LINE if end else _REQUEST_LINE_PREFIX).fullmatch(line):
        raise rejections.malformed("The request line is malformed.")
    return end


def check_sizes(raw: bytes | bytearray, bounds: HttpBounds) -> None:
    """Raises 431 if the header section after the request line is too big in bytes, lines or one line."""
    start = raw.find(b"\n") + 1
    size = len(raw) - start
    if size > bounds.max_header_bytes + 2:
        raise rejections.header_too_large(f"The request header is larger than {bounds.max_header_bytes} bytes.")
    if size > bounds.max_header_line and max(map(len, raw[start:].split(b"\n"))) > bounds.max_header_line + 1:
        raise rejections.header_too_large(f"A header line is longer than {bounds.max_header_line} bytes.")
    if raw.count(b"\n") - 1 > bounds.max_headers + raw.endswith(b"\r\n\r\n"):
        raise rejections.header_too_large(f"The request has more than {bounds.max_headers} header lines.")


def parse_head(raw: bytes, bounds: HttpBounds) -> RequestHead:
    """Judge and parse a whole head, CRLF CRLF included. Raises :class:`ApiError`."""
    check_sizes(raw, bounds)
    if not _HEAD.fullmatch(raw):
        check_request_line(raw, bounds)
        raise rejections.malformed("The request header is malformed.")
    fields = _Fields()
    method = fields.parse(raw)
    if len(fields.target) > bounds.max_target_bytes:
        raise rejections.uri_too_long(bounds.max_target_bytes)
    head = RequestHead(method, fields.target, http10=raw[raw.index(b"\r\n") - 1] == 0x30, headers=fields.headers)
    head.keep_alive = not head.http10
    _apply_framing(head, [(name, value.strip(b" \t")) for name, value in head.headers if name in _FRAMING], bounds)
    return head


class _Fields:
    """What httptools calls back with."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []

    def parse(self, raw: bytes) -> str:
        """Fill from ``raw`` and return the method."""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            # CONNECT or an Upgrade header, which RFC 9110 section 7.8 lets a server ignore.
            pass
        except httptools.HttpParserError as error:
            raise rejections.malformed("The request header is malformed.") from error
        method: bytes = parser.get_method()
        return method.decode("ascii")

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _apply_framing(head: RequestHead, framing: Headers, bounds: HttpBounds) -> None:
    _check_host([value for name, value in framing if name == b"host"], head.http10, bounds.allowed_hosts)
    for name, value in framing:
        if name == b"content-length":
            _apply_length(head, value)
        elif name == b"transfer-encoding":
            _apply_encoding(head, value)
        elif name == b"connection":
            _apply_connection(head, value)
        elif name == b"expect":
            _apply_expect(head, value)
        elif name == b"upgrade" and _WEBSOCKET.fullmatch(value):
            raise rejections.upgrade_not_supported()
    if head.chunked and head.content_length is not None:
        raise rejections.malformed("Content-Length and Transfer-Encoding cannot come together.")


def _check_host(hosts: list[bytes], http10: bool, allowed: tuple[str, ...] | None) -> None:
    if not hosts and http10:
        return
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if not match or (allowed is not None and match[1].decode("ascii").lower() not in allowed):
        raise rejections.invalid_host()


def _apply_length(head: RequestHead, value: bytes) -> None:
    if head.content_length is not None or not _LENGTH.fullmatch(value):
        raise rejections.malformed("Content-Length must be one decimal number.")
    head.content_length = int(value)


def _apply_encoding(head: RequestHead, value: bytes) -> None:
    if head.chunked or head.http10 or value.lower() != b"chunked":
        raise rejections.malformed("The only supported Transfer-Encoding is chunked.")
    head.chunked = True


def _apply_connection(head: RequestHead, value: bytes) -> None:
    if any(token.strip(b" \t") == b"close" for token in value.lower().split(b",")):
        head.keep_alive = False


def _apply_expect(head: RequestHead, value: bytes) -> None:
    if head.expects_continue or value.lower() != b"100-continue":
        raise rejections.expectation_failed()
    # RFC 9110 section 10.1.1: an HTTP/1.0 client's expectation is ignored.
    head.expects_continue = not head.http10
