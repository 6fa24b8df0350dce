"""Asks the worker process whether the engine may see a grammar, and remembers the answers."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from engine.structured.plan import Plan
from engine.structured.refusal import VALUE, NotEnforceable
from engine.structured.turns import FairTurns
from engine.structured.worker import WALL_FACTOR
from engine.types import EngineOverloaded, SchemasWaiting

log = logging.getLogger("sluice.engine")

MAX_VERDICTS: Final = 4096
#: Plans that wait for the worker, in all and of one caller; more are turned away.
MAX_WAITING: Final = 32
MAX_WAITING_EACH: Final = 16
START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """``compile_seconds``: CPU time that making and trying out one grammar may take."""

    compile_seconds: float = 3.0


class GrammarJudge:
    """One worker, started in the background by :meth:`start` and again whenever it is gone.

    ``vocabulary`` gives xgrammar's ``TokenizerInfo`` as JSON; it is called in a thread. Equal plans that come at once
    are tried once; a bounded number of verdicts is kept, the least recently used leave first. Callers with something
    to try take turns, so that one caller's costly plans make another wait for one of them at most.
    """

    def __init__(self, vocabulary: Callable[[], str], limits: JudgeLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._verdicts: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[dict[str, Any]]] = {}
        self._waiting: Counter[str] = Counter()
        self._turns = FairTurns()
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Load the library ahead of the first question."""
        self._starting = asyncio.create_task(self._start_early(), name="grammar worker")

    async def stop(self) -> None:
        """Kill the worker. Idempotent."""
        for task in [*self._asked.values(), *([self._starting] if self._starting else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await task
        await self._kill()

    async def check(self, plan: Plan, caller: str = "") -> None:
        """Return if the engine may be given ``plan``. ``caller``: who has to wait for a turn where others do too.

        Raises :class:`~engine.types.RequestRejected` naming its field, or :class:`EngineOverloaded`.
        """
        verdict = await self._verdict(plan, caller)
        if "code" in verdict:
            code = VALUE if verdict["code"] == "invalid" and plan.kind != "json" else verdict["code"]
            code = "invalid_json_schema" if code == "invalid" else code
            raise NotEnforceable(code, verdict["hint"]).rejected(plan.param)

    async def _verdict(self, plan: Plan, caller: str) -> dict[str, Any]:
        key = plan.key()
        if (known := self._verdicts.get(key)) is not None:
            self._verdicts.move_to_end(key)
            return known
        task = self._asked.get(key)
        if task is None:
            if len(self._asked) >= MAX_WAITING or self._waiting[caller] >= MAX_WAITING_EACH:
                raise SchemasWaiting("too many new schemas are waiting to be checked", retry_after=2.0)
            self._waiting[caller] += 1
            task = self._asked[key] = asyncio.create_task(self._ask(plan, caller), name="grammar verdict")
            task.add_done_callback(lambda done: self._remember(key, caller, done))
        # A caller that leaves does not take the answer away from others who wait for it.
        return await asyncio.shield(task)

    def _remember(self, key: bytes, caller: str, task: asyncio.Task[dict[str, Any]]) -> None:
        del self._asked[key]
        self._waiting[caller] -= 1
        if not self._waiting[caller]:
            del self._waiting[caller]
        if task.cancelled() or task.exception() is not None:
            return
        self._verdicts[key] = task.result()
        while len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)

    async def _ask(self, plan: Plan, caller: str) -> dict[str, Any]:
        async with self._turns.of(caller):
            try:
                process = await self._running()
                # The worker keeps the limit by itself; this is for a worker that is broken.
                async with asyncio.timeout(self._limits.compile_seconds * WALL_FACTOR + 10.0):
                    return await _exchange(process, {"kind": plan.kind, "text": plan.text})
            except (OSError, EOFError, TimeoutError) as error:
                await self._kill()
                raise EngineOverloaded("schemas cannot be checked at the moment", retry_after=2.0) from error
            except asyncio.CancelledError:
                # Its answer would be taken for the next question's.
                await self._kill()
                raise

    async def _start_early(self) -> None:
        async with self._turns.of(""):
            try:
                await self._running()
            except Exception:  # nobody waits for it; whoever asks next is told
                log.exception("the grammar worker did not start; the next schema tries again")
                await self._kill()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        vocabulary = await asyncio.to_thread(self._vocabulary)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.structured.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the gateway, which stops it in its turn
        )
        async with asyncio.timeout(START_SECONDS):
            await _exchange(self._process, {"vocabulary": vocabulary, "limit": self._limits.compile_seconds})
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _exchange(process: asyncio.subprocess.Process, message: object) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    body = await asyncio.to_thread(lambda: json.dumps(message).encode())
    process.stdin.write(len(body).to_bytes(4, "big") + body)
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(4), "big")
    answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
    return answer
