from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.usage import journal
from gateway.usage.file import rotated_files
from gateway.usage.journal import Bookmark, JournalReader, Mark, Place, Portion
from gateway.usage.records import encode_line
from tests.support.rows import Journal, both, settled


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Journal]:
    written = Journal(tmp_path / "ledger.jsonl")
    yield written
    written.close()


def rotate_with(ledger: Journal, *request_ids: str) -> None:
    """These are the first in a new file."""
    ledger.rotate()
    ledger.write(both(*request_ids)[:1])
    ledger.reopen()
    ledger.write(both(*request_ids)[1:])


def read_all(reader: JournalReader, place: Place) -> tuple[list[str], Place, int]:
    """Ids, the place after them, lines that are no rows."""
    ids: list[str] = []
    garbage = 0
    while (portion := reader.read(place)) is not None:
        ids += [row.request_id for row in portion.rows]
        place, garbage = portion.place, garbage + portion.garbage
    return ids, place, garbage


def one(portion: Portion | None) -> Portion:
    assert portion is not None
    return portion


def test_only_what_is_new_is_read(ledger: Journal) -> None:
    reader = JournalReader(ledger.path)
    assert reader.read(Place()) is None
    ledger.write(both("a", "b"))
    ids, place, _ = read_all(reader, Place())
    assert ids == ["a", "b"]
    assert reader.read(place) is None
    ledger.write(both("c"))
    assert read_all(reader, place)[0] == ["c"]
    assert read_all(JournalReader(ledger.path), place)[0] == ["c"]


def test_there_need_be_no_ledger_yet(tmp_path: Path) -> None:
    assert JournalReader(tmp_path / "none" / "ledger.jsonl").read(Place()) is None


def test_a_line_that_is_being_written_is_waited_for(ledger: Journal) -> None:
    reader = JournalReader(ledger.path)
    line = encode_line(settled("a"))
    for part in (line[:1], line[1:20], line[20:-1]):
        ledger.write_bytes(part)
        assert reader.read(Place()) is None
    ledger.write_bytes(line[-1:] + line[:30])
    portion = one(reader.read(Place()))
    assert [row.request_id for row in portion.rows] == ["a"]
    assert portion.behind == 30
    ledger.write_bytes(line[30:])
    assert [row.request_id for row in one(reader.read(portion.place)).rows] == ["a"]


def test_portions_are_bounded_and_lose_nothing(ledger: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_READ_BYTES", 2000)
    ids = [f"r{number}" for number in range(100)]
    ledger.write(both(*ids))
    reader, place, found, behind = JournalReader(ledger.path), Place(), [], []
    while (portion := reader.read(place)) is not None:
        assert len(portion.rows) < 10
        found += [row.request_id for row in portion.rows]
        behind.append(portion.behind)
        place = portion.place
    assert found == ids
    assert behind == sorted(behind, reverse=True)
    assert behind[-1] == 0
    assert reader.behind(Place()) == ledger.path.stat().st_size


def test_lines_that_are_no_rows_are_counted_and_passed_over(ledger: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_READ_BYTES", 2000)
    ledger.write(both("a"))
    ledger.write_bytes(b'\xff\xfe\n\n{"event":"settled"}\n' + b"\0" * 100 + b"\n{}\r\n")
    ledger.write(both("b"))
    # Without an end, and longer than any row.
    ledger.write_bytes(b"x" * 5000)
    ledger.write_bytes(b"\n")
    ledger.write(both("c"))
    ids, _, garbage = read_all(JournalReader(ledger.path), Place())
    assert ids == ["a", "b", "c"]
    assert garbage >= 6


def test_rotation_hides_nothing_and_repeats_nothing(ledger: Journal) -> None:
    reader = JournalReader(ledger.path)
    ledger.write(both("a", "b"))
    place = one(reader.read(Place())).place
    ledger.write(both("c"))
    rotate_with(ledger, "d")
    rotate_with(ledger, "e")
    assert len(rotated_files(ledger.path)) == 2
    ids, place, _ = read_all(reader, place)
    assert ids == ["c", "d", "e"]
    assert reader.read(place) is None


def test_rotation_between_the_looks_at_the_two_kinds_of_files_hides_nothing(
    ledger: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write(both("a"))
    rotate_with(ledger, "b")
    late = iter(["c", "d"])

    def rotated_just_before(path: Path) -> list[Path]:
        rotate_with(ledger, next(late))
        return rotated_files(path)

    reader = JournalReader(ledger.path)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "rotated_files", rotated_just_before)
        first = one(reader.read(Place()))
        second = one(reader.read(first.place))
    ids, _, _ = read_all(reader, second.place)
    assert [row.request_id for row in (*first.rows, *second.rows)] == ["a", "b"]
    assert ids == ["c", "d"]


def test_names_in_the_wrong_order_do_not_matter(ledger: Journal) -> None:
    """The clock was set back between two rotations."""
    ledger.write(both("a"))
    reader = JournalReader(ledger.path)
    place = one(reader.read(Place())).place
    rotate_with(ledger, "b")
    rotate_with(ledger, "c")
    [*_, newest] = rotated_files(ledger.path)
    newest.rename(newest.with_name("ledger-19990101T000000.000000Z.jsonl"))
    ids, place, _ = read_all(reader, place)
    assert sorted(ids) == ["b", "c"]
    assert reader.read(place) is None


def test_another_ledger_beside_is_not_ours(tmp_path: Path, ledger: Journal) -> None:
    ledger.write(both("a"))
    other = Journal(tmp_path / "ledger-2.jsonl")
    other.write(both("other"))
    rotate_with(other, "other too")
    other.close()
    assert len(rotated_files(other.path)) == 1
    assert rotated_files(ledger.path) == []
    assert read_all(JournalReader(ledger.path), Place())[0] == ["a"]


@pytest.mark.parametrize("longer", [False, True])
def test_a_new_file_that_got_the_old_inode_is_read_from_its_beginning(ledger: Journal, longer: bool) -> None:
    ledger.write(both("a", "b", "c"))
    place = read_all(JournalReader(ledger.path), Place())[1]
    new = both("x", "y", "z", "q") if longer else both("x")
    # The same inode, another file: what the file system does when it is deleted and made anew.
    with ledger.path.open("r+b") as file:
        file.truncate(0)
        file.write(b"".join(map(encode_line, new)))
    ids, _, _ = read_all(JournalReader(ledger.path), place)
    assert ids == (["x", "y", "z", "q"] if longer else ["x"])


def test_a_file_that_lost_its_end_and_grew_again_is_read_again(
    ledger: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """After a power failure the bookmark may be newer than the journal."""
    ledger.write(both("a"))
    size = ledger.path.stat().st_size
    ledger.write(both("b", "c"))
    place = read_all(JournalReader(ledger.path), Place())[1]
    os.truncate(ledger.path, size)
    ledger.write(both("d"))
    reader = JournalReader(ledger.path)
    ids, place, _ = read_all(reader, place)
    assert ids == ["a", "d"]
    assert "is not what it was" in caplog.text
    ledger.write(both("e", "f", "g"))
    assert read_all(reader, place)[0] == ["e", "f", "g"]


def test_a_file_that_lost_its_end_and_outgrew_the_place_is_read_again(ledger: Journal) -> None:
    ledger.write(both("a"))
    size = ledger.path.stat().st_size
    ledger.write(both("b"))
    place = read_all(JournalReader(ledger.path), Place())[1]
    os.truncate(ledger.path, size)
    ledger.write(both("d", "e", "f"))
    assert set(read_all(JournalReader(ledger.path), place)[0]) >= {"d", "e", "f"}


def test_a_restored_copy_is_known_by_what_is_in_it(ledger: Journal, tmp_path: Path) -> None:
    ledger.write(both("a"))
    rotate_with(ledger, "b")
    place = read_all(JournalReader(ledger.path), Place())[1]
    restored = tmp_path / "restored"
    shutil.copytree(tmp_path, restored)
    reader = JournalReader(restored / ledger.path.name)
    assert reader.read(place) is None
    assert reader.behind(place) == 0


def test_a_copy_beside_the_original_hides_nothing(ledger: Journal) -> None:
    ledger.write(both("a"))
    shutil.copy(ledger.path, ledger.path.with_name("ledger-20260101T000000.000000Z.jsonl"))
    ledger.write(both("b"))
    assert read_all(JournalReader(ledger.path), Place())[0] == ["a", "b"]


def test_a_file_that_vanishes_unread_is_told_of_once(ledger: Journal, caplog: pytest.LogCaptureFixture) -> None:
    ledger.write(both("a"))
    rotate_with(ledger, "b")
    rotate_with(ledger, "c")
    reader = JournalReader(ledger.path)
    place = one(reader.read(Place())).place  # "a"
    first, second = rotated_files(ledger.path)
    size = second.stat().st_size
    first.unlink()
    second.unlink()
    ids, place, _ = read_all(reader, place)
    assert ids == ["c"]
    lost = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in lost] == [
        f"{second} is gone with {size} bytes that were not copied to the database"
    ]
    assert len(place.files) == 1


def test_a_rotated_file_with_a_torn_end_does_not_wait_for_it(ledger: Journal) -> None:
    ledger.write(both("a"))
    rotate_with(ledger, "b")
    [rotated] = rotated_files(ledger.path)
    with rotated.open("ab") as file:
        file.write(b'{"event":"settled","requ')
    reader = JournalReader(ledger.path)
    ids, place, garbage = read_all(reader, Place())
    assert (ids, garbage) == (["a", "b"], 1)
    assert reader.behind(place) == 0


def test_a_bookmark_reads_back(tmp_path: Path) -> None:
    bookmark = Bookmark(tmp_path / "ledger.bookmark")
    assert bookmark.read() == Place()
    place = Place({"f" * 32: Mark(12, "e" * 32)}, settled("a"))
    bookmark.write(place)
    bookmark.write(place)
    assert bookmark.read() == place
    assert os.listdir(tmp_path) == ["ledger.bookmark"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"files":{"a":{"offset":"1"}}}', b"null"])
def test_an_odd_bookmark_is_the_beginning(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ledger.bookmark").write_bytes(content)
    assert Bookmark(tmp_path / "ledger.bookmark").read() == Place()
    assert "of no use" in caplog.text


def test_a_bookmark_of_nonsense_is_not_believed(ledger: Journal) -> None:
    ledger.write(both("a", "b"))
    [identity] = one(JournalReader(ledger.path).read(Place())).place.files
    for offset in (-5, 1, 10**9):
        assert read_all(JournalReader(ledger.path), Place({identity: Mark(offset, "0")}))[0] == ["a", "b"]
