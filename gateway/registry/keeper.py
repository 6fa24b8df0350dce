"""Moves canaries on, or back: from what all replicas counted, one of them acting at a time. Blocks on the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.registry import acts
from gateway.registry.names import Canary, Name, arm_id
from gateway.registry.outcomes import Key, Tally
from gateway.registry.verdict import Fail, Pass, Wait, judge
from gateway.store.audit import AuditEntry
from gateway.store.registry import RegistryRepository

log = logging.getLogger("sluice.registry")

#: Who acts in the audit log.
ACTOR: Final = "canary"

Turn = Literal["stepped", "promoted", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Turned:
    """What this process did with a canary."""

    name: str
    turn: Turn


class CanaryKeeper:
    """``replica`` tells this process's counts from those of others; acts go to ``record``."""

    def __init__(
        self,
        repository: RegistryRepository,
        replica: str,
        record: Callable[[AuditEntry], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._replica = replica
        self._record = record
        self._wall = wall
        self._reported: dict[Key, Mapping[int, Tally]] = {}

    def consider(self, names: Iterable[Name], counted: Mapping[Key, Mapping[int, Tally]]) -> list[Turned]:
        """Tell the store what this process counted, and act on what all did; what was done."""
        canaries = [(name, name.canary) for name in names if name.canary is not None]
        turned = [self._consider(name, canary, counted) for name, canary in canaries]
        self._reported = {key: self._reported.get(key, {}) for key in ((n.name, c.epoch) for n, c in canaries)}
        return [each for each in turned if each is not None]

    def _consider(self, name: Name, canary: Canary, counted: Mapping[Key, Mapping[int, Tally]]) -> Turned | None:
        key = (name.name, canary.epoch)
        own = counted.get(key, {})
        if own != self._reported.get(key, {}):
            self._repository.report(key, self._replica, own)
            self._reported[key] = own
        seen = self._repository.tallies(key)
        assert name.active is not None
        champion, challenger = (seen.get(number, Tally()) for number in (name.active, canary.version))
        verdict = judge(canary, champion, challenger, self._wall() - canary.since)
        return None if isinstance(verdict, Wait) else self._act(name, canary, verdict)

    def _act(self, name: Name, canary: Canary, verdict: Pass | Fail) -> Turned | None:
        """None where somebody else was first."""
        turn: Turn | None = None

        def change(now: Name | None) -> Name | None:
            nonlocal turn
            if now is None or now.canary is None or now.canary.epoch != canary.epoch:
                return now
            if isinstance(verdict, Fail):
                turn = "rolled_back"
                return acts.canary_failed(now, verdict.reason)
            after = acts.canary_stepped(now, self._wall(), verdict.champion_seconds)
            turn = "promoted" if after.canary is None else "stepped"
            return after

        self._repository.update(name.name, change)
        if turn is None:
            return None
        self._tell(name, canary, turn, verdict)
        return Turned(name.name, turn)

    def _tell(self, name: Name, canary: Canary, turn: Turn, verdict: Pass | Fail) -> None:
        reason = {"reason": verdict.reason} if isinstance(verdict, Fail) else {}
        arm = arm_id(name.name, canary.version)
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "canary %s: %s", arm, turn, extra={"fields": {"step": canary.step, **reason}})
        detail = {"version": canary.version, "step": canary.step, **reason}
        self._record(AuditEntry(self._wall(), ACTOR, f"registry.canary.{turn}", True, name.name, detail))
