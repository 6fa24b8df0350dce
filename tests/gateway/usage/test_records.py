from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.records import Admitted, Entry, Settled, encode_line, read_entries, unsettled

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**40)
SECONDS = st.floats(0, 1e9)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Admitted, TEXT, SECONDS, TEXT, TEXT, TEXT, COUNT, COUNT, COUNT),
    st.builds(
        Settled,
        TEXT,
        SECONDS,
        st.sampled_from(["completed", "cancelled", "error"]),
        st.none() | TEXT,
        COUNT,
        COUNT,
        SECONDS,
        SECONDS,
        st.none() | SECONDS,
        st.none() | SECONDS,
        SECONDS,
        st.tuples(TEXT),
    ),
)


def admitted(request_id: str) -> Admitted:
    return Admitted(request_id, 1.0, "p", "r", "m", 1, 1, 1)


def settled(request_id: str) -> Settled:
    return Settled(request_id, 2.0, "cancelled", None, 1, 0, 1.0, 0.0, None, None, 1.0)


def lines(*entries: Entry) -> bytes:
    return b"".join(encode_line(entry) for entry in entries)


@settings(deadline=None)
@given(entry=ENTRIES)
def test_a_row_is_one_line_and_reads_back(tmp_path_factory: pytest.TempPathFactory, entry: Entry) -> None:
    line = encode_line(entry)
    assert line.count(b"\n") == 1
    path = tmp_path_factory.mktemp("rows") / "rows"
    path.write_bytes(line)
    assert list(read_entries(path)) == [entry]


def test_lines_that_are_no_rows_are_reported_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(encode_line(admitted("a")) + b'\xff\n{"event":"other"}\n\n' + encode_line(settled("a")))
    bad: list[bytes] = []
    assert list(read_entries(path, bad.append)) == [admitted("a"), settled("a")]
    assert len(bad) == 3


def test_unsettled_looks_across_a_rotation(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(lines(admitted("a"), admitted("b"), settled("a"), admitted("c")))
    new.write_bytes(lines(settled("c"), admitted("d")))
    assert [row.request_id for row in unsettled([old, new])] == ["b", "d"]


def test_unsettled_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(lines(admitted("a"), admitted("b")))
    two.write_bytes(lines(settled("a"), settled("of an older file"), admitted("c")))
    for files in ([one, two], [two, one]):
        assert {row.request_id for row in unsettled(files)} == {"b", "c"}


def test_rows_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(
        b'{"event":"admitted","request_id":"a","ts":1.0,"principal":"p","route":"r","model":"m","prompt_tokens":1,'
        b'"max_tokens":1,"n":1}\n'
        b'{"event":"settled","request_id":"a","ts":2.0,"outcome":"cancelled","code":null,"prompt_tokens":1,'
        b'"completion_tokens":0,"received":1.0,"admitted":0.0,"dispatched":null,"first_token":null,"ended":1.0}\n'
    )
    assert list(read_entries(path)) == [admitted("a"), settled("a")]
    assert (settled("a").tenant, settled("a").cached_tokens, settled("a").model) == ("default", 0, "")
