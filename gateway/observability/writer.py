"""Gets records to a sink that may be slow, full, broken or blocked, without ever making the caller wait.

One daemon thread writes; callers only append to a bounded queue. A record leaves the queue once the sink has it
whole, so a failing sink costs memory up to ``capacity`` and nothing else: order is kept, a torn record is written
again from its start after the sink was reopened, and whatever cannot be kept is counted. At every moment::

    records offered == written + dropped + failed + pending
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

T = TypeVar("T")

BATCH: Final = 256


class Sink(Protocol):
    """An open place to write to. A sink that was just opened stands at the start of a record."""

    def write(self, data: memoryview) -> int:
        """Write some of ``data`` (not empty); return how many bytes. May block; raises only if it took none."""

    def close(self) -> None:
        """Release it. May raise."""


class Health(enum.Enum):
    """OK: records arrive. FAILING: the sink refuses, records wait in memory. LOSING: the queue is full."""

    OK = "ok"
    FAILING = "failing"
    LOSING = "losing"


HealthHook = Callable[[Health, BaseException | None], None]


class BackgroundWriter(Generic[T]):
    """Writes records of type ``T`` in the order they were put.

    ``open_sink`` opens the sink, and again after an error; ``encode`` turns a record into bytes. Both run on the
    writer's thread. When ``capacity`` records wait, new ones are dropped. ``on_drop(count)`` tells of every lost
    record, on the thread that lost it; ``on_health(health, error)`` of every change of :class:`Health`, on the thread
    that saw it. Neither may block. ``linger`` (seconds) lets records gather into one write; ``retry`` (seconds) is the
    pause after an error.
    """

    def __init__(
        self,
        open_sink: Callable[[], Sink],
        encode: Callable[[T], bytes],
        *,
        capacity: int,
        on_drop: Callable[[int], None] = lambda _count: None,
        on_health: HealthHook = lambda _health, _error: None,
        linger: float = 0.01,
        retry: float = 0.5,
        name: str = "writer",
    ) -> None:
        self._open_sink = open_sink
        self._encode = encode
        self._capacity = capacity
        self._on_drop = on_drop
        self._on_health = on_health
        self._linger = linger
        self._retry = retry
        self._queue: deque[T | _Marker] = deque()
        self._sink: Sink | None = None
        self._written = self._failed = self._dropped = 0
        self._health = Health.OK
        # Re-entrant, and never taken by a put that succeeds: a finalizer may log in the middle of any other call.
        self._rare = threading.RLock()
        self._asleep = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # --- the caller's side -------------------------------------------------------------------------------------

    def put(self, record: T) -> bool:
        """Queue one record from any thread; False if it was dropped. Never blocks, never raises."""
        if len(self._queue) >= self._capacity or self._closing:
            self._drop(1)
            return False
        self._queue.append(record)
        if self._asleep:
            self._wake.set()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until everything put so far is in the sink. Blocks: not for the loop."""
        marker = _Marker()
        self._queue.append(marker)
        self._hurry.set()
        self._wake.set()
        return marker.reached.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Write what is queued for up to ``timeout`` seconds and end the thread; False if records were lost.

        Blocks. What could not be written counts as dropped. Later records are dropped too. Idempotent.
        """
        self._deadline = time.monotonic() + timeout
        self._closing = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout + 0.1)
        # A thread that is stuck inside the sink's write cannot be ended; it finds an empty queue if it ever returns.
        lost = self._abandon()
        if lost:
            self._drop(lost)
        return not lost

    @property
    def written(self) -> int:
        """Records that are in the sink."""
        return self._written

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full or the writer closed."""
        return self._dropped

    @property
    def failed(self) -> int:
        """Records lost because they could not be encoded."""
        return self._failed

    @property
    def pending(self) -> int:
        """Records that wait for the sink."""
        return len(self._queue)

    @property
    def health(self) -> Health:
        """How it goes now."""
        return self._health

    def _drop(self, count: int) -> None:
        with self._rare:
            self._dropped += count
        self._tell_loss(count)
        self._become(Health.LOSING, None)

    def _abandon(self) -> int:
        lost = 0
        with contextlib.suppress(IndexError):
            while True:
                lost += not isinstance(self._queue.popleft(), _Marker)
        return lost

    def _become(self, health: Health, error: BaseException | None) -> None:
        with self._rare:
            changed = health is not self._health
            self._health = health
        if changed:
            # A hook that fails is no reason to lose records.
            with contextlib.suppress(Exception):
                self._on_health(health, error)

    def _tell_loss(self, count: int) -> None:
        with contextlib.suppress(Exception):
            self._on_drop(count)

    # --- the thread's side -------------------------------------------------------------------------------------

    def _run(self) -> None:
        # An IndexError means that close() has given up on the queue and emptied it under our hands.
        with contextlib.suppress(IndexError):
            while self._wait_for_records():
                self._gather()
                if not self._write_batch() and not self._pause():
                    break
        self._close_sink()

    def _wait_for_records(self) -> bool:
        """Sleep until there are records; False when there are none left and the writer closes."""
        while not self._queue:
            if self._closing:
                return False
            # A put appends first and reads `_asleep` second; here it is the other way round: nothing is overlooked.
            self._asleep = True
            if not self._queue and not self._closing:
                self._wake.wait()
            self._asleep = False
            self._wake.clear()
        return True

    def _gather(self) -> None:
        if len(self._queue) < BATCH:
            self._wait_unless_hurried(self._linger)

    def _wait_unless_hurried(self, seconds: float) -> None:
        self._hurry.wait(seconds)
        if not self._closing:
            self._hurry.clear()

    def _pause(self) -> bool:
        """Wait before the next try; False when there is none."""
        if self._deadline is None:
            self._wait_unless_hurried(self._retry)
            return True
        left = self._deadline - time.monotonic()
        time.sleep(max(0.0, min(left, self._retry, 0.05)))
        return left > 0

    def _write_batch(self) -> bool:
        queue = self._queue
        batch = [queue[i] for i in range(min(len(queue), BATCH))]
        lines = [self._line(record) for record in batch]
        data = memoryview(b"".join(line for line in lines if line))
        done = 0
        try:
            while done < len(data):
                done += self._write_some(data[done:])
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the records stay and the thread lives
            self._release(batch, lines, done)
            self._close_sink()
            if self._health is not Health.LOSING:
                self._become(Health.FAILING, error)
            return False
        self._release(batch, lines, done)
        self._recovered()
        return True

    def _recovered(self) -> None:
        # Half empty, not just below full: a sink that is merely too slow must not alert on every batch.
        if self._health is Health.FAILING or (
            self._health is Health.LOSING and len(self._queue) <= self._capacity // 2
        ):
            self._become(Health.OK, None)

    def _line(self, record: T | _Marker) -> bytes | None:
        """The record's bytes; none for a flush marker; None for a record that cannot be encoded."""
        if isinstance(record, _Marker):
            return b""
        try:
            return self._encode(record)
        except Exception:  # noqa: BLE001 - one bad record must not hold up the others
            return None

    def _write_some(self, data: memoryview) -> int:
        if self._sink is None:
            self._sink = self._open_sink()
        count = self._sink.write(data)
        if count <= 0:
            raise OSError("the sink took no bytes")
        return count

    def _release(self, batch: list[T | _Marker], lines: list[bytes | None], done: int) -> None:
        """Take the records that lie wholly within the first ``done`` bytes off the queue."""
        for record, line in zip(batch, lines, strict=True):
            done -= len(line or b"")
            if done < 0:
                return
            self._queue.popleft()
            self._count(record, line)

    def _count(self, record: T | _Marker, line: bytes | None) -> None:
        if isinstance(record, _Marker):
            record.reached.set()
        elif line is None:
            self._failed += 1
            self._tell_loss(1)
        else:
            self._written += 1

    def _close_sink(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            with contextlib.suppress(Exception):
                sink.close()


class _Marker:
    """A place in the queue that somebody waits for."""

    def __init__(self) -> None:
        self.reached = threading.Event()
