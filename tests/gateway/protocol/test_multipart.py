from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.protocol.multipart import MAX_PARTS, Form, FormReader, boundary_of


class Kept:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def part(disposition: str, content: bytes = b"v", *headers: str) -> bytes:
    lines = "\r\n".join([f"Content-Disposition: {disposition}", *headers])
    return b"--b\r\n" + lines.encode() + b"\r\n\r\n" + content + b"\r\n"


FIELD = part('form-data; name="model"', b"ear")
FILE = part('form-data; name="file"; filename="a.wav"', b"RIFF", "Content-Type: audio/wav")
END = b"--b--\r\n"


def read(body: bytes, *, step: int = 65_536, limit: int = 1000) -> tuple[Form, bytes]:
    kept = Kept()
    reader = FormReader(b"b", "file", kept, limit)
    for at in range(0, len(body), step):
        reader.write(body[at : at + step])
    return reader.close(), kept.data


def refusal(body: bytes, limit: int = 1000) -> tuple[int, str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        read(body, limit=limit)
    return caught.value.status, caught.value.body.param, caught.value.code


BROKEN = (400, "file", "invalid_multipart")


def test_a_form() -> None:
    form, file = read(FIELD + FILE + part('form-data; name="x[]"', b"1") + part("form-data; name=x[]", b"2") + END)
    assert form.fields == {"model": ["ear"], "x[]": ["1", "2"]}
    assert (form.file_bytes, file) == (4, b"RIFF")


@given(st.binary(max_size=200), st.integers(1, 40))
def test_the_file_comes_as_it_was_however_it_is_cut(content: bytes, step: int) -> None:
    if b"\r\n--b" in content:
        return
    body = FIELD + part('form-data; name="file"; filename="a"', content) + END
    form, file = read(body, step=step)
    assert (form.file_bytes, file, form.fields) == (len(content), content, {"model": ["ear"]})


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a\\\\b", 'a\\"b', "ä.wav", "x" * 3000, "a;b=c.wav", "%00"],
)
def test_names_of_files_mean_nothing(name: str) -> None:
    form, file = read(part(f'form-data; name="file"; filename="{name}"', b"abc") + END)
    assert (form.file_bytes, file) == (3, b"abc")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing of the kind",
        b"--b",
        FILE,
        FILE[:-2],
        FILE + b"--b-",
        b"--c\r\n" + FILE[5:] + b"--c--\r\n",
        part("attachment; name=file") + END,
        part("form-data") + END,
        part("form-data; name") + END,
        part('form-data; name="a') + END,
        part('form-data; name="a"; name="b"') + END,
        part('form-data; name="' + "n" * 65 + '"') + END,
        part('form-data; name="file"; filename="' + "x" * 10_000 + '"') + END,
        part('form-data; name="file"; filename="a\x00b"') + END,
        part('form-data; name="a"', b"v", "Content-Disposition: form-data; name=b") + END,
        part('form-data; name="a"', b"v", "Content-Transfer-Encoding: base64") + END,
        part('form-data; name="a"', b"v", *[f"X-{n}: 1" for n in range(20)]) + END,
        b"--b\r\n\r\nno header\r\n" + END,
        FIELD * (MAX_PARTS + 1) + END,
        part('form-data; name="a"') * 10_000 + END,
    ],
    ids=range(21),
)
def test_what_is_no_form(body: bytes) -> None:
    assert refusal(body) == BROKEN


def test_what_comes_after_the_end_means_nothing() -> None:
    form, file = read(FILE + END + b"\r\nand more" + FIELD, step=7)
    assert (form.fields, file) == ({}, b"RIFF")


def test_fields_at_fault_are_named() -> None:
    assert refusal(FILE + FILE + END) == (400, "file", "duplicate_key")
    assert refusal(part('form-data; name="file"', b"abc") + END) == (400, "file", "invalid_value")
    assert refusal(part('form-data; name="model"; filename="m"') + END) == (400, "model", "invalid_value")
    assert refusal(part('form-data; name="prompt"', b"\xff") + END) == (400, "prompt", "invalid_unicode")
    long = part('form-data; name="prompt"', b"x" * 70_000) + END
    assert refusal(long) == (400, "prompt", "string_above_max_length")
    assert refusal(FILE + END, limit=3) == (413, None, "request_too_large")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; boundary="a b:c"', b"a b:c"),
        (b"multipart/form-data;charset=utf-8;boundary=abc", b"abc"),
        (b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70),
        (b"multipart/form-data; boundary=abc; charset=utf-8", b"abc"),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"", 415),
        (b"application/json", 415),
        (b"multipart/mixed; boundary=a", 415),
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
        (b"multipart/form-data; boundary=" + b"x" * 71, 400),
        (b"multipart/form-data; boundary=" + b"x" * 16_000, 400),
        (b"multipart/form-data; boundary=a; boundary=b", 400),
        (b'multipart/form-data; boundary="a ', 400),
        (b"multipart/form-data; boundary=a\xff", 400),
    ],
)
def test_no_boundary(content_type: bytes, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        boundary_of(content_type)
    assert caught.value.status == status
    assert caught.value.code == ("unsupported_media_type" if status == 415 else "invalid_multipart")
