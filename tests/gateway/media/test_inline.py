"""data: URLs, read strictly."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.faults import MediaFault
from gateway.media.inline import decode_inline, is_inline


@given(st.binary(max_size=99), st.sampled_from(["image/png", "image/JPEG", "IMAGE/webp", "image/gif", "image/jpg"]))
def test_gives_the_bytes_back(data: bytes, kind: str) -> None:
    assert decode_inline(f"data:{kind};base64,{base64.b64encode(data).decode()}", 99) == data


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:text/html;base64,AAAA", "invalid_image_url"),
        ("data:image/svg+xml;base64,AAAA", "invalid_image_url"),
        ("data:application/octet-stream;base64,AAAA", "invalid_image_url"),
        ("data:,AAAA", "invalid_image_url"),
        ("data:", "invalid_image_url"),
        ("data:image/png", "invalid_image_url"),
        ("data:image/png,AAAA", "invalid_base64"),
        ("data:image/png;charset=utf-8,AAAA", "invalid_base64"),
        ("data:image/png;base64;base64,AAAA", "invalid_base64"),
        ("data:image/png;base64,AAA", "invalid_base64"),
        ("data:image/png;base64,AA=A", "invalid_base64"),
        ("data:image/png;base64,AA AA", "invalid_base64"),
        ("data:image/png;base64,AAAA\n", "invalid_base64"),
        ("data:image/png;base64,A-_A", "invalid_base64"),
        ("data:image/png;base64,%41AAA", "invalid_base64"),
        ("data:image/png;base64,ÄÄÄÄ", "invalid_base64"),
        ("data:image/png;base64," + "A" * 140, "request_too_large"),
        ("data:image/png;base64," + "A" * 132 + "AA==", "request_too_large"),
    ],
)
def test_refuses(url: str, code: str) -> None:
    assert is_inline(url)
    with pytest.raises(MediaFault) as caught:
        decode_inline(url, 99)
    assert caught.value.code == code


def test_large_ones_are_decoded_in_pieces() -> None:
    data = bytes(range(256)) * 4096
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert decode_inline(url, len(data)) == data
    padded_inside = base64.b64encode(bytes(2**18 // 4 * 3 - 1)).decode() + "AAAA"
    with pytest.raises(MediaFault) as caught:
        decode_inline(f"data:image/png;base64,{padded_inside}", len(data))
    assert caught.value.code == "invalid_base64"


def test_a_data_url_is_told_by_its_scheme() -> None:
    assert is_inline("DATA:image/png;base64,")
    assert not is_inline("https://example.com/data:")
