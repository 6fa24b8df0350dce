"""A worker process without a gateway: takes a place, is ready, obeys. The parent's messages are its only input."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry, Counter

from gateway.workers.messages import (
    Counted,
    Counts,
    CountsWanted,
    Done,
    EngineLost,
    NoEngine,
    Place,
    PlaceWanted,
    Ready,
    Stop,
    Told,
)


def main(line: Connection, index: int) -> int:
    registry = CollectorRegistry()
    counter = Counter("sluice_requests", "x", registry=registry)
    notes = open(f"worker-{index}.txt", "a")  # noqa: SIM115 - as long as the process
    line.send(PlaceWanted(None))
    while True:
        match line.recv():
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
