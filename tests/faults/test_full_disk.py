"""F60: the disk of the ledger and the database fills up under a running server, and has room again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.faults.processes import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REQUESTS = 20


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A file system of 4 MiB for the length of a block."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(at)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill(disk: Path) -> Path:
    """Leave not a byte free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    assert shutil.disk_usage(disk).free < os.sysconf("SC_PAGESIZE")
    return filler


def metric(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def settled(server: Server) -> list[str]:
    """Of whole lines: the last one may be torn for as long as the disk is full."""
    whole = (server.directory / "state" / "ledger.jsonl").read_text().rpartition("\n")[0]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [row["request_id"] for row in rows if row["event"] == "settled"]


def test_f60_a_full_disk_costs_no_request_and_no_row(toy_model: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk, serving(toy_model, tmp_path) as server:
        assert server.completion().status_code == 200
        filler = fill(disk)

        answers = [server.completion(max_tokens=4) for _ in range(REQUESTS)]
        assert {answer.status_code for answer in answers} == {200}
        server.wait_for(lambda: metric(server, "sluice_ledger_degraded") == 1, 5)
        assert server.status("/readyz") == 200
        assert len(settled(server)) < 1 + REQUESTS

        filler.unlink()
        server.wait_for(lambda: metric(server, "sluice_ledger_degraded") == 0, 20)
        server.wait_for(lambda: metric(server, "sluice_usage_behind_bytes") == 0, 30)
        ids = settled(server)
        assert len(ids) == len(set(ids)) == 1 + REQUESTS
        assert {answer.json()["id"] for answer in answers} <= set(ids)
        assert metric(server, "sluice_ledger_rows_lost_total") == 0
