from __future__ import annotations

import pytest

from engine.watchdog import Watchdog, WatchdogLimits

LIMITS = WatchdogLimits(silence=2.0, hang=8.0, busy=300.0)


class World:
    """Virtual time, and an engine that burns ``load`` CPU seconds per second."""

    def __init__(self, load: float) -> None:
        self.now = 0.0
        self.load = load
        self.cpu = 0.0
        self.watchdog = Watchdog(LIMITS, lambda: self.cpu, lambda: self.now)

    def wait(self, seconds: float) -> list[bool]:
        """Tick as the supervisor does; the verdicts on the way."""
        verdicts = []
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.cpu += 0.25 * self.load
            verdicts.append(self.watchdog.hangs())
        return verdicts


def test_an_engine_that_talks_never_hangs() -> None:
    world = World(load=0.0)
    for _ in range(100):
        assert not any(world.wait(1.5))
        world.watchdog.sign_of_life()
        assert not world.watchdog.wants_probe


def test_silence_asks_for_a_probe_before_it_is_judged() -> None:
    world = World(load=0.0)
    assert not any(world.wait(3.0))
    assert world.watchdog.wants_probe


def test_silence_without_cpu_time_is_a_hang_within_ten_seconds() -> None:
    world = World(load=0.0)
    assert not any(world.wait(8.0))
    assert world.wait(2.0)[-1]


def test_a_long_step_is_not_a_hang_until_it_is_absurd() -> None:
    world = World(load=0.3)  # a third of a core on a loaded machine
    assert not any(world.wait(299.0))
    assert world.wait(3.0)[-1]


def test_an_engine_that_stops_computing_in_silence_is_seen() -> None:
    world = World(load=1.0)
    assert not any(world.wait(20.0))
    world.load = 0.0
    assert world.wait(5.0)[-1]


@pytest.mark.parametrize("load", [0.0, 1.0])
def test_one_sign_of_life_clears_the_verdict(load: float) -> None:
    world = World(load)
    world.wait(400.0)
    assert world.watchdog.hangs()
    world.watchdog.sign_of_life()
    assert not world.watchdog.hangs()
