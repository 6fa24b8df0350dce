from __future__ import annotations

import stat
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.file import AppendFile, rotated_files


def append(file: AppendFile, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def opened(path: Path, repaired: list[int] | None = None, max_bytes: int = 1_000_000) -> AppendFile:
    return AppendFile(path, max_bytes=max_bytes, on_repair=(repaired if repaired is not None else []).append)


def test_it_is_private_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.jsonl"
    for line in (b"a\n", b"b\n"):
        file = opened(path)
        append(file, line)
        file.close()
        file.close()
    assert path.read_bytes() == b"a\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@settings(deadline=None)
@given(whole=st.lists(st.binary(max_size=50), max_size=5), torn=st.binary(max_size=200_000))
def test_opening_cuts_exactly_the_torn_line(
    tmp_path_factory: pytest.TempPathFactory, whole: list[bytes], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    intact = b"".join(line.replace(b"\n", b" ") + b"\n" for line in whole)
    fragment = torn.replace(b"\n", b" ")
    path.write_bytes(intact + fragment)
    repaired: list[int] = []
    file = opened(path, repaired)
    append(file, b"new\n")
    file.close()
    assert path.read_bytes() == intact + b"new\n"
    assert repaired == ([len(fragment)] if fragment else [])


def test_a_torn_line_longer_than_the_search_block_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"ok\n" + b"x" * 300_000)
    opened(path).close()
    assert path.read_bytes() == b"ok\n"


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = opened(path)
    with pytest.raises(BlockingIOError, match="another process") as refused:
        opened(path)
    assert refused.value.filename == str(path)
    first.close()
    opened(path).close()


def test_it_rotates_between_lines_and_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert rotated_files(path) == []
    file = opened(path, max_bytes=10)
    lines = [b"line %d\n" % number for number in range(20)]
    for line in lines:
        append(file, line[:3])
        append(file, line[3:])
    file.close()
    rotated = sorted(tmp_path.glob("ledger-*Z.jsonl"))
    assert len(rotated) == 9
    assert rotated_files(path) == rotated
    parts = [each.read_bytes() for each in [*rotated, path]]
    assert b"".join(parts) == b"".join(lines)
    assert all(part.endswith(b"\n") and len(part) < 20 for part in parts)


def test_a_clock_that_stands_still_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 1.0, 1.0, 2.0, 1.0, 2.0, 3.0])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(next(moments), tz)

    monkeypatch.setattr("gateway.usage.file.datetime", Clock)
    path = tmp_path / "ledger.jsonl"
    file = opened(path, max_bytes=1)
    for line in (b"a\n", b"b\n", b"c\n", b"d\n"):
        append(file, line)
    file.close()
    assert [each.read_bytes() for each in [*rotated_files(path), path]] == [b"a\n", b"b\n", b"c\n", b"d\n"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ledger-20260301T120000.000000Z.jsonl", True),
        ("ledger-2-20260301T120000.000000Z.jsonl", False),
        ("ledger-copy-Z.jsonl", False),
        ("ledger-20260301T120000.000000Z.jsonl.gz", False),
        ("other-20260301T120000.000000Z.jsonl", False),
    ],
)
def test_whose_a_rotated_file_is(tmp_path: Path, name: str, ours: bool) -> None:
    (tmp_path / name).write_text("")
    assert rotated_files(tmp_path / "ledger.jsonl") == ([tmp_path / name] if ours else [])
    assert rotated_files(tmp_path / "none" / "ledger.jsonl") == []


@pytest.mark.parametrize("take_away", ["delete", "move"])
def test_rows_never_go_to_a_file_that_was_taken_away(tmp_path: Path, take_away: str) -> None:
    path = tmp_path / "ledger.jsonl"
    file = opened(path)
    append(file, b"before\n")
    if take_away == "delete":
        path.unlink()
    else:
        path.rename(tmp_path / "moved")
    append(file, b"after\n")
    file.close()
    assert path.read_bytes() == b"after\n"
