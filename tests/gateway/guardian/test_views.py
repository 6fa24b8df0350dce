"""What is hidden from a pattern and from no reader."""

from __future__ import annotations

import base64
import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.guardian.rules import Rules
from gateway.guardian.verdicts import Content
from gateway.guardian.views import fold, views_of, visible

PLANTED = "make a zorblax device"


@pytest.mark.parametrize(
    "text",
    [
        "zor\u200bbl\u200dax",
        "z\u00ador\ufeffblax",
        "z\u043erbl\u0430x",  # Cyrillic o and a
        "\uff5a\uff4f\uff52\uff42\uff4c\uff41\uff58",  # full width
        "\U0001d433\U0001d428\U0001d42b\U0001d41b\U0001d425\U0001d41a\U0001d431",  # mathematical bold
        "zo\u0301rbla\u0308x",  # combining marks
        "z\u03bfrblax",  # Greek omicron
        "".join(chr(0xE0000 + ord(each)) for each in "zorblax"),  # invisible tags
        base64.b64encode(b"please make a zorblax device").decode(),
        base64.urlsafe_b64encode(b"please make a zorblax device").decode().rstrip("="),
        base64.b64encode(base64.b64encode(b"please make a zorblax device")).decode(),
        base64.b32encode(b"please make a zorblax device").decode(),
        b"make a zorblax device".hex(),
        " ".join(f"{byte:02x}" for byte in b"make a zorblax"),
        " ".join(f"{byte:08b}" for byte in b"zorblax"),
        codecs.encode("make a zorblax", "rot13"),
        "xalbroz a ekam",
        "z0rbl4x",
        "z o r b l a x",
        "z.o.r.b.l.a.x",
        "z-o-r-b-l-a-x",
        "%7a%6f%72%62%6c%61%78",
        "&#122;&#111;&#114;blax",
        "\\u007a\\u006f\\u0072blax",
        "\\x7a\\x6f\\x72blax",
        "Z\u041eRBLAX",
        "em9yYmxheA==",  # a short word
        "\n".join(
            base64.b64encode(b"a harmless word " * 3 + PLANTED.encode() * 3).decode()[i : i + 64] for i in (0, 64)
        ),
        base64.b64encode(PLANTED.encode() * 5).decode()[3:],  # as a look sees it that begins in the middle
        base64.b64encode(PLANTED.encode("utf-16-le")).decode(),
        base64.b64encode(PLANTED.encode().hex().encode()).decode(),
        " ".join(base64.b64encode(f"harmless sentence {i}".encode()).decode() for i in range(60)) + " em9yYmxheA==",
        " ".join(f"0x{byte:02x}" for byte in b"zorblax"),
        "-".join(f"{byte:02x}" for byte in b"zorblax"),
        " ".join(f"U+{byte:04X}" for byte in b"zorblax"),
        "".join(f"\\u{{{byte:x}}}" for byte in b"zorblax"),
        "".join(f"\\{byte:03o}" for byte in b"zorblax"),
        ", ".join(str(byte) for byte in b"zorblax"),
        "".join(f"&#{byte}" for byte in b"zorblax"),
        "".join(f"&#X{byte:X};" for byte in b"zorblax"),
        "zor&ZeroWidthSpace;blax",
        "zor%62lax",
        "zor%2562lax",
        "%u007aorblax",
        "".join(f"={byte:02X}" for byte in b"zorblax"),
        "--.. --- .-. -... .-.. .- -..-",
        "20r8l4x",
        "z-0-r-b-1-4-x",
        "x a l b r o z",
        "z   o   r   b   l   a   x",
        "z/o/r/b/l/a/x",
        "z, o, r, b, l, a, x",
        "\n".join("zorblax"),
        "\u3164".join("zorblax"),
        "\u2800".join("zorblax"),
        "\u034f".join("zorblax"),
        "zor**bl**ax",
        "zor_blax",
        "zor-\nblax",
        "zor\nblax",
        "zor<b></b>blax",
        "\u200b".join(chr(0x1F1E6 + ord(each) - ord("a")) for each in "zorblax"),  # flags
        "".join(chr(0x1F170 + ord(each) - ord("a")) for each in "zorblax"),
        "".join(chr(0x1F150 + ord(each) - ord("a")) for each in "zorblax"),
        "".join(chr(0x249C + ord(each) - ord("a")) for each in "zorblax"),
        "\u1d22\u1d0f\u0280\u0299\u029f\u1d00x",  # small capitals
        "\u1dbb\u1d52\u02b3\u1d47\u02e1\u1d43\u02e3",  # raised
        "x\u0250lqɹoz",
        "\u2835\u2815\u2817\u2803\u2807\u2801\u282d",  # Braille
        "".join(each + "\U000e0041" for each in "zorblax"),  # invisible tags in between
        "hi" + "".join(chr(0xE0100 + byte - 16) for byte in b"zorblax"),  # bytes in variation selectors
        "".join(each + "\u0301\u0327\u0489" for each in "zorblax"),
    ],
)
async def test_what_is_disguised_is_found(text: str) -> None:
    rules = Rules("rules", {"planted": "zorblax"}, secrets=False, pii=False)
    for around in (text, f"Hello.\n{text}\nThank you.", "x " * 5000 + text):
        finding = (await rules.evaluate(Content(around), ["planted"]))["planted"]
        assert finding.score == 1.0, around[-200:]


@pytest.mark.parametrize(
    "text",
    [
        "A perfectly harmless sentence about cats.",
        "Привет, как дела? Расскажи мне о реке.",
        "今日は天気がいいですね。",
        "The hash is 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.",
        base64.b64encode(bytes(range(256))).decode(),
        "def f(x): return x ** 2  # 100% fine &amp; good",
        "",
    ],
)
async def test_what_is_harmless_is_not(text: str) -> None:
    rules = Rules("rules", {"planted": "zorblax"}, secrets=False, pii=False)
    assert (await rules.evaluate(Content(text), ["planted"]))["planted"].score == 0.0


@given(st.text(max_size=200))
def test_views_never_fail_and_ascii_is_left_alone(text: str) -> None:
    views = views_of(text)
    assert visible(views.plain) == views.plain
    if text.isascii():
        assert fold(visible(text)) == text
        assert views.plain == text


def test_a_long_text_is_looked_through_in_bounded_time() -> None:
    views = views_of("QUJD" * 50_000)
    assert len(views.decoded) <= 32


@pytest.mark.parametrize(
    "text", ["ABC" * 60_000, "a1" * 90_000, "a\n" * 90_000, "AAAA\n" * 40_000, "<a" * 90_000, ". " * 90_000]
)
def test_no_text_takes_more_time_than_its_length(text: str) -> None:
    """Bounds against hanging: what grows with the square of the length takes hours here."""
    views_of(text)


def test_a_word_is_not_taken_for_an_encoding() -> None:
    """Every text that is decoded is a question to each learned evaluator."""
    page = (
        "Ordinary documentation mentions configuration, authentication, availability and international organisations. "
    )
    assert views_of(page * 20).decoded == ()
