"""What a process holds, second by second, and how its event loop kept time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import psutil

from loadtest.goals.servers import Samples, Server, total
from loadtest.processes import resident_mib

LOOKS_SECONDS: Final = 1.0
LAG: Final = "sluice_event_loop_lag_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Held:
    """What the front end holds at one moment."""

    when: float
    rss_mib: float
    fds: int
    threads: int


@dataclass
class Watch:
    """Looks at the front end of a server until the load ends."""

    server: Server
    looks: list[Held] = field(default_factory=list)

    def look(self) -> Held:
        """One look, which is kept."""
        found = held(self.server.front)
        self.looks.append(found)
        return found

    async def run(self, until: float) -> None:
        """Look every second until then."""
        while perf_counter() < until:
            self.look()
            await asyncio.sleep(LOOKS_SECONDS)

    def slope(self, warm_up: float) -> float:
        """MiB per minute by which the resident memory grew after the first ``warm_up`` seconds: least squares."""
        first = self.looks[0].when
        points = [(each.when - first, each.rss_mib) for each in self.looks if each.when - first >= warm_up]
        return slope(points) * 60


def held(processes: list[psutil.Process]) -> Held:
    """What ``processes`` hold now."""
    return Held(
        perf_counter(),
        resident_mib(processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
    )


def slope(points: list[tuple[float, float]]) -> float:
    """The slope of the straight line through ``points`` that misses them least; 0 with fewer than two."""
    if len(points) < 2:
        return 0.0
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def lag_p99(before: Samples, after: Samples) -> float:
    """Seconds by which timers of the event loop were late between two scrapes: the bound of the bucket of the p99."""
    counts = {
        dict(labels)["le"]: value - before.get((name, labels), 0.0)
        for (name, labels), value in after.items()
        if name == LAG
    }
    whole = counts.get("+Inf", 0.0)
    bounds = sorted(float(bound) for bound in counts if counts[bound] >= 0.99 * whole)
    return bounds[0] if bounds else 0.0


def series(samples: Samples) -> int:
    """How many series there are."""
    return len(samples)


def lag_max(samples: Samples) -> float:
    """The worst of the last 30 seconds."""
    return total(samples, "sluice_event_loop_lag_max_seconds")
