"""Chunked request bodies, RFC 9112 section 7.1: httptools decodes, a walker over the chunk lines bounds.

llhttp takes extensions of any length and any number of leading zeros. The walker sees every chunk line first and
also knows where the body ends, so that bytes after it are never fed to the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from gateway.http import rejections
from gateway.http.bounds import HttpBounds
from gateway.http.head import FIELD_LINES

# Puts the parser into the state after a head. The real head was judged before and is no part of decoding.
_HEAD: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;[^\r\n]*+)?\r\n")
_CRLF: Final = 2
# Framing that every client needs, however small its chunks: many small chunks are slow, not wrong.
_FRAMING_ALLOWANCE: Final = 65_536


class ChunkedDecoder:
    """Decodes one chunked body into ``sink``. ``announced`` is the body's size in bytes as far as it is known."""

    __slots__ = ("_decoded", "_extra", "_framing", "_left", "_line", "_max_extra", "_parser", "_trailers", "announced",
                 "complete", "on_body")  # fmt: skip

    def __init__(self, bounds: HttpBounds, sink: Callable[[bytes], None]) -> None:
        self.announced = 0
        self.complete = False
        self.on_body = sink
        self._max_extra = bounds.max_chunk_overhead
        self._line = bytearray()
        self._left = 0
        self._extra = 0
        self._framing = 0
        self._trailers = False
        self._decoded = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def feed(self, data: bytes) -> bytes:
        """Decode and return what follows the body. Raises :class:`ApiError`."""
        position, size = 0, len(data)
        while position < size and not self.complete:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            else:
                position = self._walk_line(data, position)
        self._decode(data[:position])
        return data[position:]

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._decoded = True

    def _decode(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise rejections.malformed("The chunked body is malformed.") from error
        if self._decoded != self.complete:
            raise rejections.malformed("The chunked body is malformed.")

    def _walk_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position) + 1
        self._line += data[position : end or len(data)]
        if len(self._line) > self._max_extra:
            raise rejections.malformed("Chunk extensions and trailers are too long.")
        if not end:
            return len(data)
        line = bytes(self._line)
        self._line.clear()
        if self._trailers:
            self._end_trailer(line)
        else:
            self._begin_chunk(line)
        return end

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if not match:
            raise rejections.malformed("The chunked body is malformed.")
        self._count_extra(len(match[2] or b""))
        size = int(match[1], 16)
        self._framing += len(line) + _CRLF
        if self._framing > _FRAMING_ALLOWANCE + self.announced:
            raise rejections.malformed("The chunks are too small.")
        self.announced += size
        self._left = size + _CRLF if size else 0
        self._trailers = not size

    def _end_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.complete = True
            return
        self._count_extra(len(line))
        if not FIELD_LINES.fullmatch(line):
            raise rejections.malformed("The chunked body is malformed.")

    def _count_extra(self, size: int) -> None:
        self._extra += size
        if self._extra > self._max_extra:
            raise rejections.malformed("Chunk extensions and trailers are too long.")
