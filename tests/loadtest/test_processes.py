import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtest.processes import (
    Launch,
    ServerProcess,
    StartError,
    cpu_seconds,
    free_port,
    front_end,
    resident_mib,
    wait_for_rest,
)

#: A server that starts a child in a session of its own, names its pid in a file, and ignores SIGTERM in the child.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"],
    start_new_session=True,
)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def start(tmp_path: Path, code: str, *arguments: str) -> ServerProcess:
    command = [sys.executable, "-c", code, *arguments]
    return ServerProcess(Launch(command, dict(os.environ), tmp_path / "server.log"))


def test_stopping_leaves_no_process_of_the_tree(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    server = start(tmp_path, STUBBORN, str(pid_file))
    server.wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()), timeout=30)
    pids = [process.pid for process in server.tree()]
    assert int(pid_file.read_text()) in pids
    server.stop(grace=5)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_server_that_exits_shows_its_log(tmp_path: Path) -> None:
    server = start(tmp_path, "import sys; sys.exit('no such model')")
    with pytest.raises(StartError, match=r"(?s)exited with 1.*no such model"):
        server.wait_until(lambda: False, timeout=30)
    server.stop()


def test_a_server_that_never_gets_ready_is_an_error(tmp_path: Path) -> None:
    server = start(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(StartError, match="not ready after"):
        server.wait_until(lambda: False, timeout=0.1)
    server.stop()


def test_the_cpu_clock_is_the_process_s_own() -> None:
    me = [psutil.Process()]
    before, own = cpu_seconds(me), time.process_time()
    sum(range(2_000_000))
    own_spent, spent = time.process_time() - own, cpu_seconds(me) - before
    assert spent == pytest.approx(own_spent, rel=0.2)


def test_what_is_still_starting_is_not_at_rest(tmp_path: Path) -> None:
    """A burst of two seconds of CPU after the start, then nothing."""
    busy = "import time\nwhile time.process_time() < 2: pass\ntime.sleep(60)"
    server = start(tmp_path, busy)
    assert not wait_for_rest(server.tree, timeout=0.5)
    assert wait_for_rest(server.tree, timeout=50)
    assert cpu_seconds(server.tree()) >= 2
    server.stop()


def test_resident_memory_is_in_mebibytes() -> None:
    assert resident_mib([psutil.Process()]) == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)


class Named:
    """As much of ``psutil.Process`` as choosing the front end needs."""

    def __init__(self, name: str, *command: str) -> None:
        self._name, self._command = name, list(command)

    def name(self) -> str:
        return self._name

    def cmdline(self) -> list[str]:
        return self._command


def chosen(*tree: Named) -> list[str]:
    return [process.name() for process in front_end(tree)]  # type: ignore[arg-type]


def test_the_front_end_is_everything_but_the_engine() -> None:
    server, helper = Named("sluice", "python", "sluice", "serve"), Named("compile", "python", "-m", "compile")
    engine, tracker = (
        Named("VLLM::EngineCor", "VLLM::EngineCore"),
        Named("python", "-c", "resource_tracker import main"),
    )
    assert chosen(server, engine, tracker, helper) == ["sluice", "compile"]


def test_the_rust_binary_is_the_front_end_where_there_is_one() -> None:
    supervisor, engine = Named("vllm", "vllm", "serve"), Named("VLLM::EngineCor", "VLLM::EngineCore")
    assert chosen(supervisor, engine, Named("vllm-rs", "vllm-rs", "frontend")) == ["vllm-rs"]


def test_a_free_port_is_free() -> None:
    assert 1024 <= free_port() <= 65535
