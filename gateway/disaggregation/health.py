"""Looks at every peer again and again, less often the longer it is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from engine.types import TransferFacts
from gateway.disaggregation.client import PeerClient, PeerFailed
from gateway.disaggregation.metrics import DisaggregationMetrics
from gateway.disaggregation.peers import Peer, Standing
from gateway.disaggregation.wire import VERSION, PeerState

log = logging.getLogger("sluice.disaggregation")

#: Seconds that a peer gets to say how it is.
STATE_SECONDS = 5.0
_AWAY = {"refused": Standing.REFUSES, "nonsense": Standing.REFUSES}


class Watchman:
    """Keeps what is known of ``peers`` up to date, in one task for each. ``ours``: our models that could go on.

    ``interval`` and ``longest`` are seconds between looks: the first while a peer answers; after that it doubles.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        client: PeerClient,
        ours: Callable[[], Mapping[str, TransferFacts]],
        metrics: DisaggregationMetrics,
        *,
        interval: float,
        longest: float,
    ) -> None:
        self._peers = peers
        self._client = client
        self._ours = ours
        self._metrics = metrics
        self._interval = interval
        self._longest = max(interval, longest)
        self._look = {peer.url: asyncio.Event() for peer in peers}
        self._tasks: list[asyncio.Task[None]] = []
        for peer in peers:
            metrics.stands(peer.name, peer.standing)

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._watch(peer), name=f"peer-{peer.name}") for peer in self._peers]

    async def stop(self) -> None:
        """End. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def doubt(self, peer: Peer, failure: PeerFailed) -> None:
        """``peer`` has just failed: nobody asks it before it was looked at again, which is at once."""
        self._enter(peer, _AWAY.get(failure.reason, Standing.UNREACHABLE), str(failure))
        self._look[peer.url].set()

    async def _watch(self, peer: Peer) -> None:
        wait = self._interval
        while True:
            await self._see(peer)
            wait = self._interval if peer.standing is Standing.USABLE else min(self._longest, 2 * wait)
            look = self._look[peer.url]
            look.clear()
            try:
                async with asyncio.timeout(wait):
                    await look.wait()
            except TimeoutError:
                continue
            # It failed while it seemed well: not so soon again that a broken peer is asked without end.
            wait = self._interval
            await asyncio.sleep(self._interval)

    async def _see(self, peer: Peer) -> None:
        try:
            state = await self._client.state(peer.url, STATE_SECONDS)
        except PeerFailed as failure:
            self._enter(peer, _AWAY.get(failure.reason, Standing.UNREACHABLE), str(failure))
            return
        peer.queued_tokens = state.queued_tokens
        peer.models = {name: facts.facts() for name, facts in state.models.items()}
        self._enter(peer, *self._judged(state, peer.models))

    def _judged(self, state: PeerState, theirs: Mapping[str, TransferFacts]) -> tuple[Standing, str]:
        if state.version != VERSION:
            return Standing.OTHER_VERSION, f"it speaks version {state.version} of the contract, we speak {VERSION}"
        if not state.ready:
            return Standing.NOT_READY, "it takes no work"
        ours = self._ours()
        if ours and not any(theirs.get(name) == facts for name, facts in ours.items()):
            return Standing.INCOMPATIBLE, difference(ours, theirs)
        return Standing.USABLE, ""

    def _enter(self, peer: Peer, standing: Standing, detail: str) -> None:
        if standing is peer.standing:
            return
        if standing is Standing.USABLE:
            log.info("the peer %s can be asked", peer.name)
        else:
            log.warning("the peer %s cannot be asked: %s: %s", peer.name, standing.value, detail)
        peer.standing = standing
        self._metrics.stands(peer.name, standing)


def difference(ours: Mapping[str, TransferFacts], theirs: Mapping[str, TransferFacts]) -> str:
    """What keeps caches from moving, in words for an operator."""
    for name, facts in ours.items():
        if (other := theirs.get(name)) is not None:
            fields = [each for each in facts.__slots__ if getattr(facts, each) != getattr(other, each)]
            return f"{name}: another {', '.join(fields)}"
    return f"it has none of {', '.join(ours)}"
