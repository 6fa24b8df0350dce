from pathlib import Path

import pytest

from engine.machine import multiplies_bfloat16


@pytest.mark.parametrize(
    ("said", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features\t: fp asimd i8mm bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("model name : one with bf16 in its name\n", True),  # it does not say what it has
        ("", True),
    ],
)
def test_what_the_processor_says_of_bfloat16(said: str, native: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(said)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is native


def test_without_a_word_of_the_processor_bfloat16_stays(tmp_path: Path) -> None:
    assert multiplies_bfloat16(tmp_path / "none")
