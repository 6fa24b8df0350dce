"""A worker process without a gateway: takes a place, is ready, obeys.

Besides the parent's messages a file ``hold-INDEX`` tells it something: not to ask for a place while it is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter

from gateway.reload.following import Follower, JudgeSettings, NoteReload, TakeSettings
from gateway.reload.generation import Generation, Generations
from gateway.reload.reloader import Cause
from gateway.reload.swap import Swap
from gateway.settings import Settings, SettingsError
from gateway.workers.fit import part
from gateway.workers.messages import (
    Answered,
    Counted,
    Counts,
    CountsWanted,
    Done,
    EngineLost,
    Job,
    NoEngine,
    Place,
    PlaceWanted,
    Ready,
    ReloadWanted,
    Stop,
    Told,
)

#: What worker 1 thinks of settings with such a limits.max_tokens.
REFUSED: Final = 13
TOO_SLOW: Final = 14
DEADLY_TO_TAKE: Final = 15
#: To a worker: ask the parent for a reload.
RELOAD: Final = "reload"


class SettingsOf:
    """The settings of one worker, which has nothing else."""

    def __init__(self, index: int, note: Any) -> None:
        self._index = index
        self._note = note
        self._today: Any = Generations(_generation(None, 1))
        own = partial(part, index=index)
        swap = Swap(self._today, self._build, lambda wanted: note(f"guard {wanted.guard.policy.action}\n"))
        self._follower = Follower(swap, own, lambda entry: note(f"audit {entry.actor} {entry.allowed}\n"))

    def obey(self, act: Any, answer: Any) -> None:
        if isinstance(act, NoteReload):
            answer(asyncio.run(self._follower.note(act)))
            return
        wanted = act.change.settings.limits.max_tokens
        if self._index == 1 and wanted == TOO_SLOW:
            return
        if isinstance(act, JudgeSettings):
            answer(asyncio.run(self._follower.judge(act)))
            return
        if self._index == 1 and wanted == DEADLY_TO_TAKE:
            os._exit(1)
        said = asyncio.run(self._follower.take(act))
        today = self._today.today
        own = today.policy
        self._note(f"took {today.number} {own.limits.max_tokens} {_key(own)} replicas {own.limits.replicas}\n")
        answer(said)

    def _build(self, settings: Settings, number: int) -> Generation:
        self._note(f"judged {number} {settings.limits.max_tokens}\n")
        if self._index == 1 and settings.limits.max_tokens == REFUSED:
            raise SettingsError("limits.max_tokens: worker 1 does not like it")
        return _generation(settings, number)


def _generation(settings: Any, number: int) -> Generation:
    nothing: Any = None
    return Generation(number, settings, nothing, nothing, None)


def _key(settings: Settings) -> str:
    assert settings.api_key_file is None
    return "" if settings.api_key is None else settings.api_key.get_secret_value()


def main(line: Connection, index: int) -> int:
    registry = CollectorRegistry()
    counter = Counter("sluice_requests", "x", registry=registry)
    notes = open(f"worker-{index}.txt", "a", buffering=1)  # noqa: SIM115 - as long as the process
    settings = SettingsOf(index, notes.write)
    while Path(f"hold-{index}").exists():
        time.sleep(0.02)
    line.send(PlaceWanted(None))
    while True:
        match line.recv():
            case Job(whole, generation):
                notes.write(f"begins with {generation} {whole.limits.max_tokens} {_key(whole)}\n")
            case Told(act=act) if act == RELOAD:
                line.send(ReloadWanted(99, Cause("admin")))
            case Answered(99, answer):
                notes.write(f"answered {answer}\n")
            case Told(order, JudgeSettings() | TakeSettings() | NoteReload() as act):
                settings.obey(act, lambda answer, order=order: line.send(Done(order, answer)))
            case Place(generation, attachment):
                notes.write(f"{os.getpid()} place {generation} {attachment.client}\n")
                notes.flush()
                line.send(Ready())
            case EngineLost(generation):
                notes.write(f"lost {generation}\n")
                line.send(PlaceWanted(generation))
            case Told(order, act):
                line.send(Done(order, (index, act)))
            case NoEngine(reason):
                notes.write(f"none {reason}\n")
            case CountsWanted(scrape):
                counter.inc()
                line.send(Counts(scrape, Counted(list(registry.collect()), 0.0)))
            case Stop():
                return 0
        notes.flush()


if __name__ == "__main__":
    sys.exit(main(Connection(int(sys.argv[1])), int(sys.argv[2])))
