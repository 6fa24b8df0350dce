"""One of several workers: its parent reads the settings, and says what all judge first and then take."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.reload.generation import Generation
from gateway.reload.reloader import Cause, Outcome
from gateway.reload.swap import Change, Swap
from gateway.settings import Settings, SettingsError
from gateway.store.audit import AuditEntry

log = logging.getLogger("sluice.config")


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Could you take this? Answered with a :class:`Verdict`; nothing changes."""

    change: Change


@dataclass(frozen=True, slots=True)
class Verdict:
    """``refused``: what is wrong, as a SettingsError says it; None: nothing."""

    refused: str | None


@dataclass(frozen=True, slots=True)
class TakeSettings:
    """Take this, which was judged before by all who served then. Answered with :data:`TAKEN`."""

    change: Change


TAKEN: Final = "taken"


@dataclass(frozen=True, slots=True)
class NoteReload:
    """Put this into the audit log: one worker does it for all."""

    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class Led:
    """What one worker knows of the settings of all: the ``generation`` it begins with, its ``part`` of what they
    give to the whole, and who reads them. ``ask`` raises :class:`gateway.reload.reloader.InvalidConfig`.
    """

    generation: int
    part: Callable[[Settings], Settings]
    ask: Callable[[Cause], Awaitable[Outcome]]

    async def reload(self, cause: Cause) -> Outcome:
        """See :class:`gateway.reload.reloader.Reloads`."""
        return await self.ask(cause)


class Follower:
    """Does what the parent says. Acts run without a pause, so they are done in the order in which they were told."""

    def __init__(self, swap: Swap, part: Callable[[Settings], Settings], audit: Callable[[AuditEntry], None]) -> None:
        self._swap = swap
        self._part = part
        self._audit = audit
        self._judged: tuple[int, Generation] | None = None

    async def judge(self, act: JudgeSettings) -> Verdict:
        """Keep what it comes to until it is to be taken."""
        self._judged = None
        try:
            self._judged = act.change.number, self._swap.judge(self._own(act.change))
        except SettingsError as error:
            return Verdict(str(error))
        return Verdict(None)

    async def take(self, act: TakeSettings) -> str | None:
        """A worker that was not there to judge does it now."""
        own, judged, self._judged = self._own(act.change), self._judged, None
        try:
            fresh = judged[1] if judged is not None and judged[0] == own.number else self._swap.judge(own)
        except SettingsError as error:
            log.error("this worker does not take the settings of the others", extra={"fields": {"reason": str(error)}})
            return None
        self._swap.take(own, fresh)
        return TAKEN

    async def note(self, act: NoteReload) -> None:
        """See :class:`NoteReload`."""
        self._audit(act.entry)

    def _own(self, change: Change) -> Change:
        return replace(change, settings=self._part(change.settings))
