"""multipart/form-data, read strictly and as it comes (RFC 7578): fields are kept, one file goes to a spool.

The grammar is python-multipart's; what may come, how much of it, and what a part may say of itself is decided here.
Nothing of a file's name is used, so no name can reach a file system.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from gateway.errors import ApiError, invalid, too_large

MAX_PARTS: Final = 32
MAX_PART_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 4096
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_NAME: Final = 64
#: What boundaries, part headers and line ends may add to a file of the greatest size.
OVERHEAD_BYTES: Final = MAX_PARTS * (MAX_FIELD_BYTES // 8)

# RFC 2046: up to 70 characters, the last one no space; charset is what some clients add.
_BOUNDARY: Final = rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]"
_CONTENT_TYPE: Final = re.compile(
    rb"multipart/form-data(?:\s*;\s*charset=\"?utf-8\"?)?\s*;\s*boundary=(?:\"(?P<quoted>" + _BOUNDARY + rb")\""
    rb"|(?P<token>[0-9A-Za-z'()+_,./:=?-]{1,70}))\s*(?:;\s*charset=\"?utf-8\"?\s*)?",
    re.IGNORECASE,
)
_PARAMETER: Final = re.compile(rb";\s*([A-Za-z*]+)=(?:\"((?:[^\"\\\r\n]|\\.)*)\"|([^\s;\"]+))\s*")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ENCODINGS: Final = (b"binary", b"8bit", b"7bit")

# It would write a line for every odd byte that somebody sends.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Spool(Protocol):
    """Where the bytes of the file go."""

    def write(self, data: bytes) -> object:
        """Append ``data``. Raises :class:`ApiError` where there is no room for it."""


@dataclass(slots=True)
class Form:
    """What came: values of each field in order, and whether there was a file."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file_bytes: int | None = None


@dataclass(slots=True)
class _Part:
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


def broken(message: str) -> ApiError:
    """A body that is no form: 400."""
    return ApiError(400, message, code="invalid_multipart", param="file", close=True)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary in a Content-Type. Raises :class:`ApiError` 415 for other media, 400 without a usable one."""
    if not re.match(rb"multipart/form-data\s*(;|\Z)", content_type, re.IGNORECASE):
        raise ApiError(415, "Content-Type must be multipart/form-data.", code="unsupported_media_type")
    match = _CONTENT_TYPE.fullmatch(content_type.strip())
    if match is None:
        raise broken("Content-Type must name one boundary of at most 70 characters.")
    return bytes(match["quoted"] or match["token"])


class FormReader:
    """Feed it the body with :meth:`write`, then call :meth:`close`. ``file_field`` is the one field with a file.

    Every method raises :class:`ApiError`.
    """

    def __init__(self, boundary: bytes, file_field: str, spool: Spool, max_file_bytes: int) -> None:
        self._file_field = file_field
        self._spool = spool
        self._max_file_bytes = max_file_bytes
        self._form = Form()
        self._parts = 0
        self._part = _Part()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_begin": self._begin_header,
                "on_header_field": self._slice_into(lambda: self._header[0]),
                "on_header_value": self._slice_into(lambda: self._header[1]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._content,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """The next piece of the body."""
        if self._ended:
            return  # an epilogue, which means nothing (RFC 2046); the body's limit bounds it
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise broken("The body is not a well-formed multipart form.") from error

    def close(self) -> Form:
        """The body is over: what it held."""
        if not self._ended:
            raise broken("The form ends without its closing boundary.")
        return self._form

    @staticmethod
    def _slice_into(target: Callable[[], bytearray]) -> Callable[[bytes, int, int], None]:
        def take(data: bytes, start: int, end: int) -> None:
            target().extend(data[start:end])

        return take

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise broken(f"The form has more than {MAX_PARTS} parts.")
        self._part = _Part()
        self._headers = {}

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _end_header(self) -> None:
        name, value = bytes(self._header[0]).strip().lower(), bytes(self._header[1]).strip()
        if name in self._headers or _CONTROL.search(value):
            raise broken("A part of the form has a header twice, or control characters in one.")
        self._headers[name] = value

    def _begin_content(self) -> None:
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in _ENCODINGS:
            raise broken("Parts of the form must not have a Content-Transfer-Encoding.")
        parameters = _disposition(self._headers.get(b"content-disposition", b""))
        self._part.name = _name(parameters.get(b"name"))
        self._part.is_file = b"filename" in parameters or b"filename*" in parameters
        name = self._part.name
        if name == self._file_field:
            self._begin_file(name)
        elif self._part.is_file:
            raise invalid(f"'{name}' must be a plain field, not a file.", code="invalid_value", param=name)

    def _begin_file(self, name: str) -> None:
        if not self._part.is_file:
            raise invalid(f"'{name}' must be sent as a file, with a file name.", code="invalid_value", param=name)
        if self._form.file_bytes is not None:
            raise invalid(f"'{name}' is given twice.", code="duplicate_key", param=name)
        self._form.file_bytes = 0

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self._form.file_bytes = (self._form.file_bytes or 0) + end - start
            if self._form.file_bytes > self._max_file_bytes:
                raise too_large(self._max_file_bytes)
            self._spool.write(data[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > MAX_FIELD_BYTES:
            name = self._part.name
            raise invalid(f"'{name}' is too long.", code="string_above_max_length", param=name)

    def _end(self) -> None:
        if self._part.is_file:
            return
        name = self._part.name
        try:
            text = self._part.value.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid(f"'{name}' is not valid UTF-8.", code="invalid_unicode", param=name) from None
        self._form.fields.setdefault(name, []).append(text)

    def _finish(self) -> None:
        self._ended = True


def _disposition(value: bytes) -> dict[bytes, bytes]:
    """The parameters of a part's Content-Disposition."""
    kind, _, _ = value.partition(b";")
    if kind.strip().lower() != b"form-data":
        raise broken("A part of the form has no 'Content-Disposition: form-data'.")
    at, parameters = len(kind), {}
    while at < len(value):
        match = _PARAMETER.match(value, at)
        if match is None or match[1].lower() in parameters:
            raise broken("A part of the form has a malformed Content-Disposition.")
        parameters[match[1].lower()] = match[2] if match[2] is not None else match[3]
        at = match.end()
    return parameters


def _name(value: bytes | None) -> str:
    if not value or len(value) > MAX_NAME or not value.isascii():
        raise broken(f"A part of the form has no name of at most {MAX_NAME} ASCII characters.")
    return value.decode("ascii")
