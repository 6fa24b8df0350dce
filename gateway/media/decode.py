"""Bytes of an image file to pixels, by Pillow, with the size known before anything is decompressed.

Blocks; runs on worker threads. Whatever Pillow says of a broken file stays here: it names addresses and internals.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Final

from PIL import Image as Pillow
from PIL import ImageOps

from engine.types import Image
from gateway.media.faults import MediaFault
from gateway.protocol.images import Detail

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
#: Longest side of an image that is to be looked at with little detail.
LOW_DETAIL: Final = 512
#: Scans of one JPEG: each goes over all pixels again, and real ones have about ten.
MAX_SCANS: Final = 32
MAX_SIDE: Final = 32_768
_PIECE: Final = 2**19

# We have bounds of our own, and a warning would be printed by whatever thread comes first.
warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
# What it finds odd in a picture's notes is for nobody to read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself: pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height


def read_header(data: bytes) -> Header:
    """The size of the image in ``data``, read without decompressing it.

    Raises :class:`MediaFault`: ``invalid_image``, ``image_too_large``.
    """
    if not data:
        raise MediaFault("invalid_image", "The image is empty.")
    if data[:4] == b"RIFF":
        return _checked(*_webp_size(data))  # Pillow would make room for it while opening it
    with _open(data) as picture:
        header = _checked(*_extent(picture))
    if data[:2] == b"\xff\xd8" and _scans(data) > MAX_SCANS:
        raise MediaFault("image_too_large", f"The JPEG has more than {MAX_SCANS} scans.")
    return header


def _scans(data: bytes) -> int:
    """How often a JPEG starts a scan. Piece by piece, so that other threads get their turns."""
    starts = range(0, len(data), _PIECE)
    return sum(data.count(b"\xff\xda", start, start + _PIECE + 1) for start in starts)


def _checked(width: int, height: int) -> Header:
    if not (width and height):
        raise MediaFault("invalid_image", "The image has no pixels.")
    if max(width, height) > MAX_SIDE:
        raise MediaFault("image_too_large", f"The image is wider or higher than {MAX_SIDE} pixels.")
    return Header(width, height)


def _extent(picture: Pillow.Image) -> tuple[int, int]:
    """The size of the canvas, or of a first frame that sticks out of it."""
    ends = [tile[1][2:] for tile in getattr(picture, "tile", ()) if tile[1] is not None]
    widths, heights = [picture.width, *(end[0] for end in ends)], [picture.height, *(end[1] for end in ends)]
    return max(widths), max(heights)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    try:
        kind, body = data[8:16], data[20:30]
        if kind == b"WEBPVP8X":
            return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        if kind == b"WEBPVP8L":
            bits = struct.unpack("<xI", body[:5])[0]
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind == b"WEBPVP8 ":
            width, height = struct.unpack("<6xHH", body)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error:
        pass
    raise _broken()


def decode(data: bytes, header: Header, detail: Detail) -> Image:
    """The first frame of the image in ``data``, upright, on white where it is transparent.

    ``header`` is what :func:`read_header` said of it. Raises :class:`MediaFault` ``invalid_image``.
    """
    with _open(data) as picture:
        try:
            picture.load()
            if picture.width * picture.height > header.pixels:
                raise _broken()  # what was decompressed is not what was announced
            flat = _opaque(ImageOps.exif_transpose(picture))
            if detail == "low":
                flat.thumbnail((LOW_DETAIL, LOW_DETAIL))
            return Image(flat.width, flat.height, flat.tobytes())
        except MediaFault:
            raise
        except Exception:  # noqa: BLE001 - a broken file can fail anywhere in Pillow, by any exception
            raise _broken() from None


def _open(data: bytes) -> Pillow.Image:
    try:
        return Pillow.open(io.BytesIO(data), formats=FORMATS)
    except Pillow.DecompressionBombError:
        raise MediaFault("image_too_large", "The image has too many pixels.") from None
    except Exception:  # noqa: BLE001 - see above
        raise _broken() from None


def _opaque(picture: Pillow.Image) -> Pillow.Image:
    """``picture`` in RGB."""
    if picture.mode.startswith("I"):
        # 16 bits per pixel: Pillow would clip them to 8 instead of scaling.
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if isinstance(colour := picture.info.get("transparency"), tuple) and max(colour) > 0xFF:
        # The colour of a PNG with 16 bits per sample, which Pillow has read as 8.
        picture.info["transparency"] = tuple(sample >> 8 for sample in colour)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Pillow.new("RGBA", layer.size, (255, 255, 255, 255))
        picture = Pillow.alpha_composite(white, layer)
    return picture.convert("RGB")


def _broken() -> MediaFault:
    return MediaFault("invalid_image", "It is no PNG, JPEG, WebP or GIF that can be read.")
