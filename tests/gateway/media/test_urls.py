"""URLs: one reading, or none."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.faults import MediaFault
from gateway.media.urls import Target, parse


def fault(url: str) -> str:
    with pytest.raises(MediaFault) as caught:
        parse(url)
    assert len(str(caught.value)) < 200
    return caught.value.code


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("HTTP://Example.COM./a?b=c", "example.com", 80, "/a?b=c", "example.com"),
        ("http://example.com:8080?x", "example.com", 8080, "/?x", "example.com:8080"),
        ("https://example.com:443/%20", "example.com", 443, "/%20", "example.com"),
        ("http://93.184.215.14/x", "93.184.215.14", 80, "/x", "93.184.215.14"),
        ("http://[2606:4700::1111]:81/", "2606:4700::1111", 81, "/", "[2606:4700::1111]:81"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
        ("https://my_bucket.example/", "my_bucket.example", 443, "/", "my_bucket.example"),
    ],
)
def test_reads(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://x",
        "ftp://x/",
        "javascript:alert(1)",
        "blob:x",
        "unix:/run/x.sock",
        "about:blank",
        "x",
        "/",
        "//example.com",
        "httpx://example.com",
        "http",
        "example.com",
        "view-source:http://example.com",
        "jar:http://example.com!/",
        "",
        " ",
    ],
)
def test_other_schemes(url: str) -> None:
    assert fault(url) == "invalid_image_url"


@pytest.mark.parametrize(
    "url",
    [
        *[
            "http://2130706433/",
            "http://0177.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://017700000001/",
            "http://127.1/",
            "http://127.0.0.1.0/",
            "http://0177.0.0.1/",
            "http://0x7f.0.0.1/",
            "http://1.2.3.4.5/",
            "http://256.1.1.1/",
            "http://1/",
            "http://0x/",
            "http://a.0x1f/",
            "http://example.1/",
            "http://user@example.com/",
            "http://user:pass@example.com/",
            "http://allowed.example\\@127.0.0.1/",
            "http://allowed.example#@127.0.0.1/",
            "http://127.0.0.1#@allowed.example/",
            "http://example.com/a#b",
            "http://example.com#",
            "http:example.com",
            "http:/example.com",
            "http:///example.com",
            "http://",
            "http://:80/",
            "http://?x",
            "http://example.com:/",
            "http://example.com:80:80/",
            "http://example.com:123456/",
            "http://example.com:-1/",
            "http://example.com:8a/",
            "http://[::1/",
            "http://::1/",
            "http://[::1]x/",
            "http://[::ffff:127.0.0.1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[1.2.3.4]/",
            "http://exa%6dple.com/",
            "http://example..com/",
            "http://-example.com/",
            "http://.example.com/",
            "http://exam!ple.com/",
            "http:\\\\example.com/",
            "http://example.com\\x",
            "http://example.com/<x>",
            'http://example.com/"x"',
            "http://{x}/",
        ],
        "http://example.com/a b",
        "http://exam\tple.com/",
        "http://example.com\r\nHost: x/",
        "http://example.com/\r\nX: y",
        "http://example.com/\0",
        "http://bücher.example/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://ⓔxample.com/",
        "http://example.com/ü",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 130}com/",
    ],
)
def test_what_could_mean_another_host(url: str) -> None:
    assert fault(url) == "url_not_allowed"


def test_a_long_url() -> None:
    assert fault("https://example.com/" + "a" * 9000) == "invalid_image_url"


@given(st.text(max_size=40), st.sampled_from(["http://", "https://", "", "http:/"]))
def test_whatever_is_read_is_read_by_others_too(text: str, start: str) -> None:
    try:
        target: Target = parse(start + text)
    except MediaFault:
        return
    other = urlsplit(start + text)
    assert (other.hostname or "").rstrip(".") == target.host or target.address is not None
    assert target.authority.isascii()
    assert not set(target.path) & set(" \r\n\t\0#\\")
    assert parse(target.url) == target
