"""The policies that an administrator set over those of the configuration: kept in the store, known to every replica.

They apply where the configuration is the one they were set over. One that says something new of the guard wins, so that
what applies follows from file and store alone, whoever was told first.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import orjson
from pydantic import ValidationError

from gateway.access.following import Following
from gateway.access.nudge import Nudges
from gateway.guardian.build import check_policies
from gateway.guardian.guardian import Guardian
from gateway.settings.guard import GuardPolicies
from gateway.settings.section import SettingsError
from gateway.store.guard import PolicyNews
from gateway.store.polling import Poller

log = logging.getLogger("sluice.guardian")

WHAT: Final = "guard policies"

Call = Callable[[Callable[[], PolicyNews]], Awaitable[PolicyNews]]


class Policies(Protocol):
    """Where they are kept; see :class:`gateway.store.guard.PolicyRepository`."""

    def news(self, known: int | None) -> PolicyNews:
        """What is kept, if it changed since the revision ``known``."""

    def put(self, document: str | None) -> PolicyNews:
        """Keep ``document``; None: forget what is kept."""


@dataclass(frozen=True, slots=True)
class Decree:
    """``over``: the hash of the configuration's policies that these were set over."""

    over: str
    policies: GuardPolicies


class PolicyDecrees:
    """A :class:`gateway.lifecycle.Service`. Use from one event loop; ``call`` runs what blocks on the store."""

    def __init__(
        self,
        guardian: Guardian,
        kept: Policies,
        call: Call,
        *,
        prepare: Callable[[], None],
        interval: float,
        nudges: Callable[[Callable[[], None]], Nudges | None],
    ) -> None:
        self._guardian = guardian
        self._file = guardian.declared
        self._kept = kept
        self._call = call
        self._prepare = prepare
        self._prepared = False
        self._revision: int | None = None
        self._decree: Decree | None = None
        self._unusable = False
        self._poller = Poller(WHAT.replace(" ", "-"), self._begin, self._learn, interval=interval)
        self._following = Following(self._poller, nudges(self._poller.nudge))

    @property
    def in_force(self) -> bool:
        """Whether the policies of today are an administrator's."""
        return self._decree is not None and self._decree.over == fingerprint(self._file) and not self._unusable

    def configured(self, declared: GuardPolicies) -> None:
        """The configuration says ``declared`` from now on."""
        self._file = declared
        self._apply()

    async def set(self, policies: GuardPolicies | None) -> None:
        """Keep ``policies`` and apply them, here at once; None: what the configuration says.

        Raises :class:`~gateway.store.database.StoreUnavailable`; then nothing has changed.
        """
        document = None if policies is None else _written(Decree(fingerprint(self._file), policies))
        self._learn(await self._call(partial(self._kept.put, document)))
        await self._following.tell()

    # -- in step with the store -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        await self._following.start()

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        await self._following.stop()

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return () if self._poller.available and not self._unusable else (WHAT,)

    def _begin(self) -> Callable[[], PolicyNews]:
        return partial(self._look, self._revision)

    def _look(self, known: int | None) -> PolicyNews:
        """On the thread."""
        if not self._prepared:
            self._prepare()
            self._prepared = True
        return self._kept.news(known)

    def _learn(self, news: PolicyNews) -> None:
        # A look that began before a change here may end behind it.
        if not news.changed or (self._revision is not None and news.revision < self._revision):
            return
        self._revision = news.revision
        try:
            self._decree = None if news.document is None else _read(news.document)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            self._keep_what_applies(f"they cannot be read: {type(error).__name__}")
            return
        self._apply()

    def _apply(self) -> None:
        decree = self._decree
        wanted = self._file
        if decree is not None and decree.over == fingerprint(self._file):
            wanted = decree.policies
        try:
            check_policies(wanted.policies(), self._guardian)
        except SettingsError as error:
            self._keep_what_applies(str(error))
            return
        self._unusable = False
        self._guardian.declare(wanted)

    def _keep_what_applies(self, reason: str) -> None:
        """Another replica has evaluators, or a version, that this one has not."""
        self._unusable = True
        log.error("the guard's policies in the store are not applied here: %s", reason)


def fingerprint(declared: GuardPolicies) -> str:
    """A hash of what ``declared`` amounts to."""
    return hashlib.sha256(orjson.dumps(declared.policies(), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _written(decree: Decree) -> str:
    document = {"over": decree.over, "policies": decree.policies.model_dump(mode="json", exclude_unset=True)}
    return orjson.dumps(document).decode()


def _read(document: str) -> Decree:
    found: dict[str, Any] = orjson.loads(document)
    return Decree(str(found["over"]), GuardPolicies.model_validate(found["policies"]))
