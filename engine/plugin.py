"""Runs inside vLLM's own processes (entry point ``vllm.general_plugins``): they must not outlive the gateway, and
those that serve adapters on a CPU must not mix them up.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
import warnings

from engine import forgotten, sleeping
from engine.lora_cpu import CPU_LORA
from engine.lora_cpu import install as install_cpu_lora

GATEWAY_PID = "SLUICE_GATEWAY_PID"
#: ``json`` or ``text``, a colon, and the least level: how engine processes write their logs to standard error.
LOG_STYLE = "SLUICE_ENGINE_LOG"
_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask the kernel to kill this process when the one that started it dies (prctl(2), PR_SET_PDEATHSIG).

    The signal belongs to the *thread* that spawned us; the runtime therefore starts engines on a thread that
    lives as long as the gateway. Does nothing outside a Sluice engine process, or off Linux.
    """
    gateway = os.environ.get(GATEWAY_PID)
    if gateway is None or int(gateway) == os.getpid() or not sys.platform.startswith("linux"):
        return
    _configure_logs(os.environ.get(LOG_STYLE, "json:info"))
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or not _alive(int(gateway)):
        os._exit(1)
    forgotten.install()
    sleeping.install()
    if os.environ.get(CPU_LORA) == "1":
        install_cpu_lora()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _JsonLines(logging.Formatter):
    """The gateway's log line, for processes that do not have its writer."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"ts": stamp, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-8192:]
        return json.dumps({**line, "pid": record.process})


def _configure_logs(style: str) -> None:
    shape, _, level = style.partition(":")
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if shape == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=(level or "info").upper(), handlers=[handler])
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.captureWarnings(True)
