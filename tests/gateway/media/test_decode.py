"""Decoding: every mode to upright RGB, and bounds before anything is decompressed."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from engine.types import Image
from gateway.media.decode import decode, read_header
from gateway.media.faults import MediaFault
from gateway.protocol.images import Detail
from tests.support.pictures import picture, png, webp_header

KINDS = ["PNG", "JPEG", "WEBP", "GIF"]


def seen(data: bytes, detail: Detail = "auto") -> Image:
    return decode(data, read_header(data), detail)


def fault(data: bytes) -> str:
    with pytest.raises(MediaFault) as caught:
        seen(data)
    text = str(caught.value)
    assert "0x" not in text
    assert "/" not in text
    return caught.value.code


def first_pixel(image: Image) -> tuple[int, ...]:
    return tuple(image.rgb[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    image = seen(picture(kind, (20, 10), (250, 0, 0)))
    assert (image.width, image.height, len(image.rgb)) == (20, 10, 600)
    assert all(abs(got - want) < 8 for got, want in zip(first_pixel(image), (250, 0, 0), strict=True))


@pytest.mark.parametrize(
    ("kind", "mode", "color", "pixel"),
    [
        ("PNG", "1", 1, (255, 255, 255)),
        ("PNG", "L", 77, (77, 77, 77)),
        ("PNG", "LA", (77, 0), (255, 255, 255)),
        ("PNG", "P", 0, (0, 0, 0)),
        ("PNG", "RGBA", (9, 9, 9, 0), (255, 255, 255)),
        ("PNG", "RGBA", (9, 9, 9, 255), (9, 9, 9)),
        ("PNG", "I;16", 0x4D00, (77, 77, 77)),
        ("JPEG", "L", 77, (77, 77, 77)),
        ("JPEG", "CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("WEBP", "RGBA", (9, 9, 9, 0), (255, 255, 255)),
        ("GIF", "P", 0, (0, 0, 0)),
    ],
)
def test_modes(kind: str, mode: str, color: Any, pixel: tuple[int, ...]) -> None:
    image = seen(picture(kind, (4, 3), color, mode))
    assert all(abs(got - want) <= 2 for got, want in zip(first_pixel(image), pixel, strict=True))


def test_a_palette_with_a_transparent_colour_is_on_white() -> None:
    assert first_pixel(seen(picture("PNG", (2, 2), 0, "P", transparency=0))) == (255, 255, 255)


def test_a_transparent_colour_of_sixteen_bits_is_on_white() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    colour = struct.pack(">HHH", 0xFFFF, 0, 0x8000)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + colour)) + chunk(b"IEND", b"")
    start = b"\x89PNG\r\n\x1a\n" + head
    assert first_pixel(seen(start + pixels)) == (255, 0, 128)
    assert first_pixel(seen(start + chunk(b"tRNS", colour) + pixels)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1)])
def test_thin_ones(size: tuple[int, int]) -> None:
    image = seen(picture("PNG", size))
    assert (image.width, image.height) == size


def test_upright() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # lies on its side
    image = seen(picture("JPEG", (20, 10), exif=exif))
    assert (image.width, image.height) == (10, 20)


def test_only_the_first_frame() -> None:
    frames = [Pillow.new("RGB", (5, 5), color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        red, _green, blue = first_pixel(seen(out.getvalue()))
        assert red > 240 > 20 > blue


def test_little_detail() -> None:
    large = picture("PNG", (2000, 1000))
    assert (seen(large).width, seen(large, "high").width) == (2000, 2000)
    low = seen(large, "low")
    assert (low.width, low.height) == (512, 256)
    assert seen(picture("PNG", (9, 9)), "low").width == 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95])
def test_cut_off(kind: str, share: float) -> None:
    noise = Pillow.effect_noise((64, 64), 90).convert("RGB")
    out = io.BytesIO()
    noise.save(out, kind)
    whole = out.getvalue()
    assert fault(whole[: int(len(whole) * share)]) == "invalid_image"


def test_not_an_image() -> None:
    others = (b"", b"\0", b"GIF89a", b"<svg/>", b"%PDF-1.4", b"RIFF", b"RIFF\0\0\0\0WEBPXXXX", b"\x1f\x8b" * 99)
    for data in (*others, picture("TIFF"), picture("BMP"), picture("ICO")):
        assert fault(data) == "invalid_image"


def test_broken_chunks() -> None:
    good = picture("PNG")
    at = good.index(b"IDAT")
    assert fault(good[: at + 6] + b"\xff" + good[at + 7 :]) == "invalid_image"
    assert fault(good[:at] + b"ID\0T" + good[at + 4 :]) == "invalid_image"


def test_no_pixels() -> None:
    for width, height in ((0, 4), (4, 0), (0, 0)):
        assert fault(png(width, height)) == "invalid_image"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_lit() -> None:
    """I12: the size is read, and nothing is decompressed: memory stays as it is."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fault(png(50_000, 50_000, b"\0" * 10_000_000)) == "image_too_large"
    assert fault(png(2**31 - 1, 2**31 - 1)) == "image_too_large"
    assert fault(webp_header(2**24, 2**24)) == "image_too_large"
    assert fault(webp_header(16_383, 2**24)) == "image_too_large"
    header = read_header(webp_header(16_383, 16_383))
    assert header.pixels == 16_383**2
    large = read_header(png(10_000, 10_000, b"\0" * 10_000_000))
    assert large.pixels == 100_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_gif_whose_frame_is_larger_than_its_canvas() -> None:
    data = bytearray(picture("GIF", (4, 4)))
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = struct.pack("<HH", 5000, 5000)
    assert read_header(bytes(data)).pixels == 25_000_000
    data[at + 5 : at + 9] = struct.pack("<HH", 30_000, 30_000)
    assert fault(bytes(data)) == "image_too_large"


def test_a_jpeg_of_many_scans() -> None:
    data = picture("JPEG", (64, 64), progressive=True)
    assert seen(data).width == 64
    start, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xd9")
    assert fault(data[:end] + data[start:end] * 40 + data[end:]) == "image_too_large"


def test_text_that_unpacks_to_a_lot() -> None:
    bomb = b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000, 9)
    assert fault(png(4, 4, b"\0" * 20, (b"zTXt", bomb))) == "invalid_image"


@hypothesis_settings(max_examples=150)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_files_are_read_or_refused(kind: str, choose: st.DataObject) -> None:
    data = bytearray(picture(kind, (16, 16), (1, 2, 3)))
    for _ in range(choose.draw(st.integers(1, 4))):
        data[choose.draw(st.integers(0, len(data) - 1))] = choose.draw(st.integers(0, 255))
    with suppress(MediaFault):  # and nothing else
        header = read_header(bytes(data))
        if header.pixels < 1_000_000:
            image = decode(bytes(data), header, "auto")
            assert len(image.rgb) == image.width * image.height * 3
