"""The registry as a part of the running gateway: kept in step with the store and with other replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.access.following import Following
from gateway.access.nudge import Nudges
from gateway.registry.endings import Ending
from gateway.registry.keeper import CanaryKeeper, Turned
from gateway.registry.metrics import RegistryMetrics
from gateway.registry.names import Name
from gateway.registry.outcomes import Key, Outcomes, Tally
from gateway.registry.table import RoutingTable
from gateway.store.polling import Poller
from gateway.store.registry import RegistryNews, RegistryRepository


@dataclass(frozen=True, slots=True)
class _Look:
    news: RegistryNews
    turned: Sequence[Turned]


class RegistryService:
    """A :class:`~gateway.lifecycle.Service`. ``prepare`` makes the store ready; ``interval`` in seconds."""

    def __init__(
        self,
        table: RoutingTable,
        repository: RegistryRepository,
        keeper: CanaryKeeper,
        metrics: RegistryMetrics,
        *,
        prepare: Callable[[], None],
        interval: float,
        nudges: Callable[[Callable[[], None]], Nudges | None],
    ) -> None:
        self._table = table
        self._repository = repository
        self._keeper = keeper
        self._metrics = metrics
        self._prepare = prepare
        self._prepared = False
        self._outcomes = Outcomes(table)
        self._poller = Poller("registry", self._begin, self._learn, interval=interval)
        self._following = Following(self._poller, nudges(self._poller.nudge))

    async def start(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._following.start()

    async def stop(self) -> None:
        """See :class:`~gateway.lifecycle.Service`."""
        await self._following.stop()

    def degraded(self) -> Sequence[str]:
        """See :class:`~gateway.lifecycle.Service`."""
        return () if self._poller.available else ("registry",)

    async def changed(self) -> None:
        """This replica has changed a name: know it here at once, and tell the others."""
        await self._poller.refresh()
        await self._following.tell()

    def ended(self, arm: str, ending: Ending, seconds: float) -> None:
        """A request of ``arm`` is over."""
        self._outcomes.ended(arm, ending, seconds)

    def _begin(self) -> Callable[[], _Look]:
        return partial(self._look, self._table.revision, self._table.all(), self._outcomes.tallies())

    def _look(self, revision: int | None, known: Sequence[Name], counted: Mapping[Key, Mapping[int, Tally]]) -> _Look:
        """On the thread."""
        if not self._prepared:
            self._prepare()
            self._prepared = True
        news = self._repository.news(revision)
        turned = self._keeper.consider(known if news.names is None else news.names, counted)
        return _Look(self._repository.news(revision) if turned else news, turned)

    def _learn(self, look: _Look) -> None:
        for each in look.turned:
            self._metrics.turned(each.name, each.turn)
        if look.news.names is not None:
            self._table.replace(look.news.names, look.news.revision)
            self._outcomes.forget_all_but(look.news.names)
            self._metrics.known(look.news.names)
