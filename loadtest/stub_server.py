"""Sluice's gateway over the tests' stub engine: the front end's own cost, with the stub's few microseconds in it.

Key, ledger, access log (on standard output) and metrics are on, as in ``sluice serve``. At the end
``engine.json`` in the state directory says what the stub counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Final

import uvloop

from gateway.access.secret import DeploymentSecret
from gateway.app import create_app
from gateway.observability.logs import AccessLog, LogOptions, install
from gateway.observability.metrics import Metrics
from gateway.serve import leave_alone_what_stays
from gateway.settings import Settings, load
from gateway.usage.ledger import JsonlLedger
from tests.support.stub_engine import StubConfig, StubEngine

#: Seconds between two times of forgetting.
TALLY_SECONDS: Final = 1.0
MAX_RUNNING: Final = 1024


class Tally:
    """Sums of the stub's accounts, which are then forgotten: a million of them would look like a leak of ours."""

    def __init__(self, engine: StubEngine) -> None:
        self._engine = engine
        self._sums: Counter[str] = Counter()

    async def run(self) -> None:
        """Sum and forget, until cancelled."""
        while True:
            await asyncio.sleep(TALLY_SECONDS)
            self.forget()

    def forget(self) -> None:
        """Take what has ended out of the stub's accounts."""
        accounts = self._engine.accounts
        for name in [name for name, account in accounts.items() if account.ending]:
            account = accounts.pop(name)
            self._sums["generation_tokens"] += account.emitted
            self._sums["prompt_tokens"] += account.prompt_tokens

    def write(self, file: Path) -> None:
        """What the engine says of the whole run."""
        self.forget()
        engine = self._engine
        leaks = [*engine.leaks(), *(f"a sink raised {error!r}" for error in engine.sink_errors)]
        file.write_text(json.dumps({**self._sums, "finished": engine.finished, "leaks": leaks}), "utf-8")


async def serve(settings: Settings, access_log: AccessLog, step_seconds: float) -> None:
    """Serve until SIGTERM, then drain."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    ledger = JsonlLedger(settings.state_dir / "ledger.jsonl")
    engine = StubEngine(StubConfig(step_seconds=step_seconds, max_running=MAX_RUNNING))
    tally = Tally(engine)
    gateway = create_app(
        settings,
        engine,
        secret=DeploymentSecret("s" * 32),
        ledger=ledger,
        access_log=access_log,
        metrics=Metrics(),
    )
    try:
        await gateway.listen()
        await gateway.start_engine()
        leave_alone_what_stays()
        counting = asyncio.ensure_future(tally.run())
        await ended.wait()
        counting.cancel()
        await gateway.drain()
        tally.write(settings.state_dir / "engine.json")
    finally:
        await gateway.stop()
        ledger.close(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True, help="where the ledger is written")
    parser.add_argument("--step", type=float, default=0.0, help="seconds between the tokens of a request")
    parser.add_argument("--config", type=Path, help="settings as in sluice.yaml")
    options = parser.parse_args()
    settings = load(options.config, flags={"port": options.port, "state_dir": options.state_dir})
    logs = install(LogOptions())
    try:
        uvloop.run(serve(settings, logs.access, options.step))
    finally:
        logs.close()


if __name__ == "__main__":
    main()
