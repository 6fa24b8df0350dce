"""data: URLs: base64 of an image, read strictly."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from gateway.media.faults import MediaFault

_HEAD: Final = re.compile(r"data:([^,;]{0,64})((?:;[^,;]{0,64}){0,4}),", re.IGNORECASE)
#: Characters decoded at once: other threads get no turn meanwhile.
_PIECE: Final = 2**18
_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif"})


def is_inline(url: str) -> bool:
    """Whether ``url`` carries its image with it."""
    return url[:5].lower() == "data:"


def decode_inline(url: str, max_bytes: int) -> bytes:
    """The bytes in a data: URL. Takes time for large ones.

    Raises :class:`MediaFault`: ``invalid_image_url`` for another type than an image's, ``invalid_base64``, and
    ``request_too_large`` for more than ``max_bytes``.
    """
    head = _HEAD.match(url)
    if head is None or head[1].lower() not in _TYPES:
        raise MediaFault("invalid_image_url", "Expected data:image/png, jpeg, webp or gif.")
    if head[2].lower() != ";base64":
        raise MediaFault("invalid_base64", "Expected ';base64' before the comma, and base64 after it.")
    if (len(url) - head.end()) // 4 * 3 > max_bytes + 2:
        raise MediaFault("request_too_large", f"The image is larger than {max_bytes} bytes.")
    try:
        data = _decoded(url[head.end() :].encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        raise MediaFault("invalid_base64", "What follows the comma is not base64.") from None
    if len(data) > max_bytes:
        raise MediaFault("request_too_large", f"The image is larger than {max_bytes} bytes.")
    return data


def _decoded(text: bytes) -> bytes:
    if b"=" in text[:-2]:
        raise binascii.Error("padding inside")
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return b"".join([base64.b64decode(piece, validate=True) for piece in pieces])
