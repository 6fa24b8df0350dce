from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from gateway.store.executor import StoreExecutor


async def test_results_and_errors_come_back() -> None:
    executor = StoreExecutor(2, "test")
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(executor, lambda: 1 // 0)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(print)


def test_what_was_queued_can_be_dropped_and_what_runs_is_finished() -> None:
    executor = StoreExecutor(1, "test")
    begun, go = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go.wait(30)
        return "done"

    running = executor.submit(work)
    begun.wait(30)
    queued = executor.submit(lambda: "never")
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    go.set()
    assert running.result(30) == "done"


def test_work_that_never_ends_does_not_hold_the_process() -> None:
    program = (
        "import threading; from gateway.store.executor import StoreExecutor;"
        "begun = threading.Event();"
        "StoreExecutor(1, 'test').submit(lambda: (begun.set(), threading.Event().wait())); begun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
