from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.observability.writer import Health
from gateway.usage.file import rotated_files
from gateway.usage.ledger import LOOK_BACK_SECONDS, PROCESS_LOST, JsonlLedger
from gateway.usage.life import Life
from gateway.usage.records import Entry, Settled, read_entries, unsettled

ROOT = Path(__file__).parents[3]

LIVES = """
import resource, signal, sys, json
from pathlib import Path
from gateway.usage.ledger import JsonlLedger
from gateway.usage.life import Life

def live(ledger, number, end=True):
    life = Life(ledger, f"r{number}")
    life.admitted(principal="p", route="/r", model="m", prompt_tokens=number, max_tokens=9, n=1)
    life.dispatched()
    if end:
        life.completed(completion_tokens=0, finish_reasons=("stop",))
"""

DISK_FULL = (
    LIVES
    + """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told = []
ledger = JsonlLedger(Path(sys.argv[1]), on_health=lambda health, error: told.append(health.value), retry=0.001)
# A file-size limit is a disk that fills up in the middle of a line.
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(200):
    live(ledger, number)
blocked = not ledger.flush(0.3)
degraded = ledger.degraded
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
complete = ledger.flush(30)
report = dict(blocked=blocked, degraded=degraded, complete=complete, lost=ledger.lost, still=ledger.degraded, told=told)
ledger.close(5)
print(json.dumps(report))
"""
)

KILLED = (
    LIVES
    + """
ledger = JsonlLedger(Path(sys.argv[1]))
number = 0
while True:
    live(ledger, number, end=number % 10 != 0)
    number += 1
    if number == 500:
        ledger.flush(30)
        print("going", flush=True)
"""
)


def script(source: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def live(ledger: JsonlLedger, request_id: str) -> None:
    life = Life(ledger, request_id)
    life.admitted(principal="p", route="/r", model="m", prompt_tokens=3, max_tokens=9, n=1)
    life.dispatched()
    life.first_token()
    life.completed(completion_tokens=2, finish_reasons=("stop",))


def test_rows_reach_the_file_in_order(tmp_path: Path) -> None:
    ledger = JsonlLedger(tmp_path / "ledger.jsonl")
    for number in range(50):
        live(ledger, f"r{number}")
    assert ledger.flush(10)
    assert not ledger.degraded
    ids = [entry.request_id for entry in read_entries(ledger.path)]
    assert ids == [f"r{number}" for number in range(50) for _ in "as"]
    assert ledger.close(10)


def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        JsonlLedger(tmp_path / "file" / "ledger.jsonl")
    ledger = JsonlLedger(tmp_path / "ledger.jsonl")
    with pytest.raises(BlockingIOError):
        JsonlLedger(tmp_path / "ledger.jsonl")
    ledger.close(10)


def test_a_full_disk_loses_nothing_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    process = script(DISK_FULL, path)
    output, _ = process.communicate(timeout=60)
    assert json.loads(output) == {
        "blocked": True,
        "degraded": True,
        "complete": True,
        "lost": 0,
        "still": False,
        "told": ["failing", "ok"],
    }
    bad: list[bytes] = []
    rows = list(read_entries(path, bad.append))
    assert bad == []
    assert [row.request_id for row in rows] == [f"r{number}" for number in range(200) for _ in "as"]


def test_what_does_not_fit_in_memory_is_counted_and_loud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    told: list[Health] = []
    ledger = JsonlLedger(
        tmp_path / "ledger.jsonl",
        capacity=10,
        on_lost=lost.append,
        on_health=lambda health, _error: told.append(health),
        retry=0.001,
    )

    def full(_file: object, _data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr("gateway.usage.file.AppendFile.write", full)
        for number in range(20):
            live(ledger, f"r{number}")
        assert ledger.degraded
        assert ledger.lost == sum(lost) == 30
        assert Health.LOSING in told
    assert ledger.flush(10)
    assert ledger.close(10)
    assert any("ledger is" in message for message in caplog.messages)
    assert len(list(read_entries(ledger.path))) == 10


def test_a_killed_process_leaves_whole_lines_and_its_open_requests_are_settled_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    process = script(KILLED, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    with path.open("ab") as file:
        file.write(b'{"event":"settled","request_id":"torn')
    left = {row.request_id for row in unsettled([path])}
    assert {f"r{number}" for number in range(0, 500, 10)} <= left

    for _ in range(2):
        assert JsonlLedger(path).close(10)
    bad: list[bytes] = []
    rows: list[Entry] = list(read_entries(path, bad.append))
    assert bad == []
    endings = [row for row in rows if isinstance(row, Settled)]
    assert len({row.request_id for row in endings}) == len(endings)
    assert {row.request_id for row in endings if row.code == PROCESS_LOST} == left
    assert unsettled([path]) == []


def test_open_requests_are_found_behind_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = JsonlLedger(path, max_bytes=1)
    Life(ledger, "open").admitted(principal="p", route="/r", model="m", prompt_tokens=3, max_tokens=9, n=1)
    assert ledger.flush(10)
    Life(ledger, "next").admitted(principal="p", route="/r", model="m", prompt_tokens=3, max_tokens=9, n=1)
    assert ledger.close(10)
    ledger = JsonlLedger(path)
    assert ledger.close(10)
    settled = [row for row in read_entries(path) if isinstance(row, Settled)]
    assert [(row.request_id, row.code, row.prompt_tokens) for row in settled] == [
        ("open", PROCESS_LOST, 3),
        ("next", PROCESS_LOST, 3),
    ]


def admit(ledger: JsonlLedger, request_id: str) -> None:
    Life(ledger, request_id).admitted(
        principal="p", tenant="t", route="/r", model="m", adapter="a", prompt_tokens=3, max_tokens=9, n=1
    )


def test_open_requests_are_found_behind_many_rotations_and_know_whose_they_are(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = JsonlLedger(path, max_bytes=1)
    admit(ledger, "open")
    for number in range(6):
        assert ledger.flush(10)
        live(ledger, f"r{number}")
    assert ledger.close(10)
    assert len(rotated_files(path)) == 6
    assert JsonlLedger(path).close(10)
    [row] = [row for row in read_entries(path) if isinstance(row, Settled) and row.code == PROCESS_LOST]
    assert (row.request_id, row.principal, row.tenant, row.route, row.model, row.adapter, row.prompt_tokens) == (
        ("open", "p", "t", "/r", "m", "a", 3)
    )


def test_files_in_which_nothing_can_be_open_any_more_are_not_read_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = JsonlLedger(path, max_bytes=1)
    for name in ("long ago", "recent", "now"):
        admit(ledger, name)
        assert ledger.flush(10)
    assert ledger.close(10)
    oldest, newest = rotated_files(path)
    end = newest.stat().st_mtime
    os.utime(oldest, (end, end - LOOK_BACK_SECONDS - 1))
    assert JsonlLedger(path).close(10)
    settled = [row.request_id for row in read_entries(path) if isinstance(row, Settled)]
    assert settled == ["recent", "now"]


def test_a_violation_is_counted_and_logged_with_its_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = JsonlLedger(tmp_path / "ledger.jsonl")
    life = Life(ledger, "r")
    life.failed("invalid_value")
    assert life.cancelled() is False
    assert ledger.violations == 1
    assert getattr(caplog.records[-1], "request_id", None) == "r"
    assert "ended twice" in caplog.text
    ledger.close(10)
