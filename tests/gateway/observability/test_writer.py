from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observability.logs import StreamSink
from gateway.observability.writer import BATCH, BackgroundWriter, Health

HANG = 10.0


def encode(number: int) -> bytes:
    return b"%d\n" % number


class Disk:
    """A file that does as scripted: each write takes so many bytes, or fails without taking any; later ones succeed.

    Like a real file it keeps what was written in part, and opening it cuts a torn line off.
    """

    def __init__(self, script: list[tuple[int, bool]] | None = None) -> None:
        self.data = b""
        self.script = script or []
        self.full = False
        self.opened = 0

    def open(self) -> Disk:
        self.opened += 1
        self.data = self.data[: self.data.rfind(b"\n") + 1]
        return self

    def write(self, data: memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "disk full")
        accepted, fails = self.script.pop(0) if self.script else (len(data), False)
        if fails:
            raise OSError(errno.EIO, "io error")
        accepted = min(accepted, len(data))
        self.data += data[:accepted]
        return accepted

    def close(self) -> None:
        return

    @property
    def numbers(self) -> list[int]:
        return [int(line) for line in self.data.split()]


class Watch:
    """Records what a writer tells."""

    def __init__(self) -> None:
        self.dropped = 0
        self.health: list[Health] = []

    def on_drop(self, count: int) -> None:
        self.dropped += count

    def on_health(self, health: Health, error: BaseException | None) -> None:
        self.health.append(health)


def writer_on(disk: Disk, watch: Watch | None = None, *, capacity: int = 10_000) -> BackgroundWriter[int]:
    watch = watch or Watch()
    return BackgroundWriter(
        disk.open,
        encode,
        capacity=capacity,
        on_drop=watch.on_drop,
        on_health=watch.on_health,
        linger=0,
        retry=0.001,
    )


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


@settings(deadline=None, max_examples=150)
@given(
    script=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12),
    count=st.integers(0, 40),
    capacity=st.integers(1, 40),
)
def test_whatever_the_sink_does_accepted_records_arrive_whole_and_in_order(
    script: list[tuple[int, bool]], count: int, capacity: int
) -> None:
    disk, watch = Disk(script), Watch()
    writer = writer_on(disk, watch, capacity=capacity)
    accepted = [number for number in range(count) if writer.put(number)]
    assert writer.close(HANG)
    assert disk.numbers == accepted
    assert (writer.written, writer.pending, writer.failed) == (len(accepted), 0, 0)
    assert writer.dropped == watch.dropped == count - len(accepted)


@settings(deadline=None, max_examples=30)
@given(bad=st.sets(st.integers(0, 30)), count=st.integers(0, 30))
def test_a_record_that_cannot_be_encoded_is_counted_and_holds_up_nothing(bad: set[int], count: int) -> None:
    disk, watch = Disk([(1, False), (0, True), (3, False)]), Watch()

    def picky(number: int) -> bytes:
        if number in bad:
            raise ValueError(number)
        return encode(number)

    writer: BackgroundWriter[int] = BackgroundWriter(
        disk.open, picky, capacity=100, on_drop=watch.on_drop, linger=0, retry=0.001
    )
    for number in range(count):
        assert writer.put(number)
    assert writer.close(HANG)
    assert disk.numbers == [number for number in range(count) if number not in bad]
    assert writer.failed == watch.dropped == len([number for number in range(count) if number in bad])


def test_a_full_disk_costs_memory_only_and_is_told_once() -> None:
    disk, watch = Disk(), Watch()
    writer = writer_on(disk, watch)
    writer.put(0)
    assert writer.flush(HANG)
    disk.full = True
    for number in range(1, 1000):
        assert writer.put(number)
    wait_for("several retries", lambda: disk.opened >= 5)
    assert writer.health is Health.FAILING
    assert writer.pending == 999
    disk.full = False
    assert writer.flush(HANG)
    assert disk.numbers == list(range(1000))
    wait_for("the all-clear", lambda: len(watch.health) >= 2)
    assert watch.health == [Health.FAILING, Health.OK]
    assert watch.dropped == 0
    writer.close(HANG)


def test_beyond_capacity_the_newest_are_dropped_and_that_is_loud() -> None:
    disk, watch = Disk(), Watch()
    disk.full = True
    writer = writer_on(disk, watch, capacity=10)
    assert [writer.put(number) for number in range(25)] == [True] * 10 + [False] * 15
    assert writer.dropped == watch.dropped == 15
    assert Health.LOSING in watch.health
    disk.full = False
    wait_for("recovery", lambda: writer.health is Health.OK)
    assert writer.close(HANG)
    assert disk.numbers == list(range(10))


def test_close_on_a_dead_sink_counts_what_is_lost() -> None:
    disk, watch = Disk(), Watch()
    disk.full = True
    writer = writer_on(disk, watch)
    for number in range(7):
        writer.put(number)
    assert not writer.close(0.05)
    assert (writer.dropped, watch.dropped, writer.pending) == (7, 7, 0)
    assert not writer.put(8)
    assert writer.dropped == 8


def test_a_blocked_pipe_never_blocks_the_caller() -> None:
    reading, writing = os.pipe()
    try:
        stream = StreamSink(writing)
        writer: BackgroundWriter[bytes] = BackgroundWriter(lambda: stream, lambda line: line, capacity=500, linger=0)
        line = b"x" * 1000 + b"\n"
        accepted = 0
        # The pipe holds 64 KiB: a put that waited for it would never return.
        while writer.dropped < 100:
            accepted += writer.put(line)
        assert writer.health is Health.LOSING
        collected: list[bytes] = []
        reader = threading.Thread(target=_drain, args=(reading, collected))
        reader.start()
        assert writer.close(HANG)
    finally:
        os.close(writing)
    reader.join(HANG)
    os.close(reading)
    assert b"".join(collected) == line * accepted


def _drain(fd: int, into: list[bytes]) -> None:
    while piece := os.read(fd, 65536):
        into.append(piece)


def test_a_thread_stuck_in_the_sink_does_not_hold_up_close() -> None:
    release = threading.Event()

    class Stuck(Disk):
        def write(self, data: memoryview) -> int:
            release.wait(HANG)
            return len(data)

    watch = Watch()
    writer = writer_on(Stuck(), watch)
    for number in range(3):
        writer.put(number)
    assert not writer.close(0.05)
    assert writer.dropped == watch.dropped == 3
    release.set()
    assert writer.written == 0


def test_threads_keep_their_own_order_and_lose_nothing() -> None:
    disk = Disk()
    writer = writer_on(disk, capacity=100_000)
    threads = [
        threading.Thread(target=lambda start=start: [writer.put(start + i) for i in range(5000)])
        for start in (0, 1_000_000, 2_000_000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert writer.close(HANG)
    for start in (0, 1_000_000, 2_000_000):
        assert [n for n in disk.numbers if start <= n < start + 1_000_000] == list(range(start, start + 5000))


def test_flush_waits_for_everything_before_it_and_times_out_on_a_dead_sink() -> None:
    disk = Disk()
    writer = writer_on(disk)
    for number in range(3 * BATCH):
        writer.put(number)
    assert writer.flush(HANG)
    assert len(disk.numbers) == 3 * BATCH
    disk.full = True
    writer.put(0)
    assert not writer.flush(0.05)
    disk.full = False
    assert writer.close(HANG)
    assert writer.written == 3 * BATCH + 1


def test_a_sink_that_takes_nothing_counts_as_failing() -> None:
    disk, watch = Disk([(0, False)] * 3), Watch()
    writer = writer_on(disk, watch)
    writer.put(1)
    assert writer.flush(HANG)
    assert disk.numbers == [1]
    assert watch.health == [Health.FAILING, Health.OK]
    writer.close(HANG)


def test_hooks_that_raise_do_not_lose_records() -> None:
    def boom(*_: object) -> None:
        raise RuntimeError("hook")

    disk = Disk([(1, False), (0, True)])
    writer: BackgroundWriter[int] = BackgroundWriter(
        disk.open, encode, capacity=2, on_drop=boom, on_health=boom, linger=0, retry=0.001
    )
    accepted = [number for number in range(50) if writer.put(number)]
    assert writer.close(HANG)
    assert disk.numbers == accepted


@pytest.mark.parametrize("times", [1, 2])
def test_close_is_idempotent(times: int) -> None:
    disk = Disk()
    writer = writer_on(disk)
    writer.put(1)
    assert all(writer.close(HANG) for _ in range(times))
    assert disk.numbers == [1]
