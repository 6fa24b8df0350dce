"""The parent's part when settings change: no worker takes what another refuses, and who comes later begins with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from pydantic import SecretStr

from gateway.reload.following import TAKEN, JudgeSettings, NoteReload, TakeSettings, Verdict
from gateway.reload.swap import Change, set_log_level
from gateway.settings import Settings, SettingsError
from gateway.store.audit import AuditEntry
from gateway.workers.supervisor import Worker

log = logging.getLogger("sluice.workers")


class Crew(Protocol):
    """See :class:`gateway.workers.supervisor.Supervisor`."""

    def serving(self) -> Collection[Worker]:
        """Workers that serve."""

    def everybody(self) -> Collection[Worker]:
        """With those that are still starting."""

    async def ask(self, workers: Collection[Worker], act: object) -> Mapping[Worker, object]:
        """Have them do it; what they answer, but for those that are slow or die."""

    def tell(self, workers: Collection[Worker], act: object) -> None:
        """Have them do it, without waiting."""


class Renewal:
    """``check`` refuses what several workers cannot do, with a :class:`SettingsError`."""

    def __init__(self, crew: Crew, started: Settings, check: Callable[[Settings], None]) -> None:
        self.in_force = Change(pinned(started), 1, guarded=False)
        self._crew = crew
        self._check = check

    async def __call__(self, change: Change) -> int:
        """See :data:`gateway.reload.reloader.Take`."""
        self._check(change.settings)
        change = replace(change, settings=pinned(change.settings))
        judges = self._crew.serving() or self._crew.everybody()
        verdicts = await self._crew.ask(judges, JudgeSettings(change))
        judged = {worker: said for worker, said in verdicts.items() if isinstance(said, Verdict)}
        for verdict in judged.values():
            if verdict.refused is not None:
                raise SettingsError(verdict.refused)
        if not judged:
            raise SettingsError("workers: none of them answers yet")
        return await self._take(change, set(judged), silent=set(judges) - set(judged))

    async def _take(self, change: Change, judges: set[Worker], silent: set[Worker]) -> int:
        self.in_force = change
        set_log_level(change.settings)
        everybody, serving = set(self._crew.everybody()), set(self._crew.serving())
        awaited = (judges | serving - silent) & everybody
        # Who is still starting began with the settings before, and hears of these before it serves. Who did not answer
        # is waited for only once.
        self._crew.tell(everybody - awaited, TakeSettings(change))
        answers = await self._crew.ask(awaited, TakeSettings(change))
        # One that died is started again with these settings.
        alive = (awaited | silent) & set(self._crew.everybody())
        behind = [each for each in alive if answers.get(each) != TAKEN]
        for worker in behind:
            log.error("a worker has not taken the new settings yet", extra={"fields": {"worker": worker.index}})
        return len(behind)

    def note(self, entry: AuditEntry) -> None:
        """One entry for all, by one that has the store."""
        for worker in sorted(self._crew.serving() or self._crew.everybody(), key=lambda each: each.index)[:1]:
            self._crew.tell([worker], NoteReload(entry))


def pinned(settings: Settings) -> Settings:
    """With the static key itself instead of its file, which may say something else when the next worker starts."""
    if settings.api_key_file is None:
        return settings
    key = settings.static_key()
    assert key is not None, "a file without a key is refused"
    return settings.model_copy(update={"api_key": SecretStr(key), "api_key_file": None})
