"""Nobody but the engine's own user, and nobody over a network, can come to the sockets of a running engine."""

from __future__ import annotations

import os
import stat
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from engine.config import SOCKETS
from tests.support.gateways import Threaded

pytestmark = pytest.mark.engine


def engine_processes(real: Threaded) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in real.live.engine.core.processes.pids]


def test_the_engine_listens_on_the_loopback_interface_alone(real: Threaded) -> None:
    found = [each for process in engine_processes(real) for each in process.net_connections("inet")]
    open_to = [each.laddr for each in found if not each.raddr]
    assert [address for address in open_to if not ip_address(address.ip).is_loopback] == []


def test_its_sockets_are_files_where_its_user_alone_can_come(real: Threaded) -> None:
    directory = Path(os.environ[SOCKETS])
    found = directory.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
    ours = {str(each.laddr) for each in psutil.Process().net_connections("unix")}
    assert len([name for name in ours if Path(name).parent == directory]) >= 2  # what is told, and what is answered
    engines = {str(each.laddr) for process in engine_processes(real) for each in process.net_connections("unix")}
    assert {name for name in engines if name and Path(name).parent != directory} == set()
