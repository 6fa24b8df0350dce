"""Where settings come into force in a process: judged first, then swapped at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.reload.generation import Generation, Generations
from gateway.settings import Settings

#: A new generation of ``settings`` with a number; raises :class:`gateway.settings.SettingsError`.
Build = Callable[[Settings, int], Generation]


@dataclass(frozen=True, slots=True)
class Change:
    """``settings`` are to be in force as generation ``number``; ``guarded``: they say something new of the guard."""

    settings: Settings
    number: int
    guarded: bool


class Swap:
    """``on_guard`` is told of settings whose policies of the guard are new."""

    def __init__(self, generations: Generations, build: Build, on_guard: Callable[[Settings], None]) -> None:
        self._generations = generations
        self._build = build
        self._on_guard = on_guard

    async def __call__(self, change: Change) -> int:
        """See :data:`gateway.reload.reloader.Take`."""
        self.take(change, self.judge(change))
        return 0

    def judge(self, change: Change) -> Generation:
        """What it comes to. Raises :class:`gateway.settings.SettingsError`; changes nothing."""
        return self._build(change.settings, change.number)

    def take(self, change: Change, fresh: Generation) -> None:
        """From now on; ``fresh`` is what it was judged to come to."""
        # What an administrator set stays until the file says something new about it.
        kept = fresh if change.guarded else replace(fresh, guard=self._generations.today.guard)
        self._generations.today = kept
        if change.guarded:
            self._on_guard(change.settings)
        set_log_level(change.settings)


def set_log_level(settings: Settings) -> None:
    """Of the whole process."""
    logging.getLogger().setLevel(settings.log.level.upper())
