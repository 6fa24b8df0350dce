"""Sluice's gateway over the tests' stub engine: the front end's own cost, with the stub's few microseconds in it.

Key, ledger, access log (on standard output) and metrics are on, as in ``sluice serve``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from gateway.access.secret import DeploymentSecret
from gateway.app import create_app
from gateway.observability.logs import AccessLog, LogOptions, install
from gateway.observability.metrics import Metrics
from gateway.settings import Settings, load
from gateway.usage.ledger import JsonlLedger
from tests.support.stub_engine import StubConfig, StubEngine


async def serve(settings: Settings, access_log: AccessLog, step_seconds: float) -> None:
    """Serve until SIGTERM, then drain."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    ledger = JsonlLedger(settings.state_dir / "ledger.jsonl")
    gateway = create_app(
        settings,
        StubEngine(StubConfig(step_seconds=step_seconds)),
        secret=DeploymentSecret("s" * 32),
        ledger=ledger,
        access_log=access_log,
        metrics=Metrics(),
    )
    try:
        await gateway.listen()
        await gateway.start_engine()
        await ended.wait()
        await gateway.drain()
    finally:
        await gateway.stop()
        ledger.close(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True, help="where the ledger is written")
    parser.add_argument("--step", type=float, default=0.0, help="seconds between the tokens of a request")
    options = parser.parse_args()
    settings = load(flags={"port": options.port, "state_dir": options.state_dir})
    logs = install(LogOptions())
    try:
        uvloop.run(serve(settings, logs.access, options.step))
    finally:
        logs.close()


if __name__ == "__main__":
    main()
