"""Prompts of our requests, computed by a peer where that is possible, and here where it is not: never an error."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

from engine.types import Engine, TransferFacts
from gateway.access.principal import Principal
from gateway.disaggregation.client import PeerClient, PeerFailed
from gateway.disaggregation.health import Watchman
from gateway.disaggregation.metrics import DisaggregationMetrics
from gateway.disaggregation.peers import Peer, Standing, least_loaded
from gateway.disaggregation.wire import VERSION, PrefillRequest, WireFacts
from gateway.observability.tracing.parent import header_of
from gateway.observability.tracing.span import Span
from gateway.settings.disaggregation import DisaggregationSettings
from gateway.work import Job

log = logging.getLogger("sluice.disaggregation")

#: Peers that are asked for one prompt before it is computed here.
TRIES: Final = 2
#: Failures of a peer that say something of the peer, not of this prompt or this moment.
_OF_THE_PEER: Final = frozenset({"unreachable", "nonsense"})
NO_PEER: Final = "no_peer"


class Prefills(Protocol):
    """Where the prompts of admitted requests are computed."""

    async def prefilled(self, job: Job[Any], principal: Principal | None, span: Span) -> Job[Any]:
        """``job`` with its prompt computed, or as it is: then its engine computes the prompt itself.

        ``span``: the request's; whoever is asked has one of its own within it.
        """


class Collocated:
    """All prompts are computed by the engine that goes on."""

    async def prefilled(self, job: Job[Any], principal: Principal | None, span: Span) -> Job[Any]:  # noqa: ARG002 - the interface
        """See :class:`Prefills`."""
        return job


class RemotePrefills:
    """See :class:`Prefills`: the least loaded peer computes, then one other, then we ourselves.

    A :class:`gateway.lifecycle.Service` too.
    """

    def __init__(
        self, settings: DisaggregationSettings, engine: Engine, client: PeerClient, metrics: DisaggregationMetrics
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._client = client
        self._metrics = metrics
        self._choices = 0
        self.peers: Sequence[Peer] = [Peer(url) for url in settings.peers]
        self._watchman = Watchman(
            self.peers,
            client,
            self._ours,
            metrics,
            interval=settings.poll_interval,
            longest=settings.max_poll_interval,
        )

    # -- a service ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        await self._client.open()
        self._watchman.start()

    async def stop(self) -> None:
        """See :class:`gateway.lifecycle.Service`."""
        await self._watchman.stop()
        await self._client.close()

    def degraded(self) -> Sequence[str]:
        """See :class:`gateway.lifecycle.Service`."""
        return [] if any(peer.standing is Standing.USABLE for peer in self.peers) else ["prefill peers"]

    # -- requests -------------------------------------------------------------------------------------------------

    async def prefilled(self, job: Job[Any], principal: Principal | None, span: Span) -> Job[Any]:
        """See :class:`Prefills`."""
        facts = self._engine.transfer_facts(job.model.id)
        if facts is None or not suits(job, max(self._settings.min_prompt_tokens, facts.block_size + 1)):
            self._metrics.computed("unsuited")
            return job
        began, tried, reason = time.monotonic(), list[Peer](), NO_PEER
        while len(tried) < TRIES and (peer := least_loaded(self.peers, job.model.id, facts, tried)) is not None:
            tried.append(peer)
            left = began + self._settings.timeout - time.monotonic()
            if left <= 0:
                break
            try:
                with span.child("ask peer", {"sluice.peer": peer.name}) as own:
                    transfer = await self._ask(peer, job, facts, principal, left, header_of(own.exemplar))
            except PeerFailed as failure:
                reason = self._note(peer, failure)
            else:
                self._metrics.computed("peer")
                self._metrics.took(time.monotonic() - began)
                return replace(job, transfer=transfer)
        self._metrics.computed("here")
        self._metrics.fell_back(reason)
        return job

    async def _ask(
        self,
        peer: Peer,
        job: Job[Any],
        facts: TransferFacts,
        principal: Principal | None,
        seconds: float,
        parent: str | None,
    ) -> Mapping[str, object] | None:
        ids = job.prompts[0].token_ids
        request = PrefillRequest(
            version=VERSION,
            request_id=job.response_id,
            model=job.model.id,
            facts=WireFacts.of(facts),
            token_ids=list(ids),
            cache_salt=job.cache_salt,
            tenant=principal.tenant if principal is not None else "",
            weight=principal.weight if principal is not None else 1.0,
            seconds=seconds,
        )
        with self._asking(peer, len(ids)):
            answer = await self._client.prefill(peer.url, request, seconds, parent)
        if answer.version != VERSION:
            raise PeerFailed("nonsense", f"it answers in version {answer.version}")
        return answer.transfer

    @contextmanager
    def _asking(self, peer: Peer, tokens: int) -> Iterator[None]:
        self._choices += 1
        peer.last_asked = self._choices
        peer.asked_tokens += tokens
        try:
            yield
        finally:
            peer.asked_tokens -= tokens

    def _note(self, peer: Peer, failure: PeerFailed) -> str:
        log.warning("the peer %s did not compute a prompt: %s: %s", peer.name, failure.reason, failure)
        self._metrics.failed(peer.name, failure.reason)
        if failure.reason in _OF_THE_PEER:
            self._watchman.doubt(peer, failure)
        return failure.reason

    def _ours(self) -> Mapping[str, TransferFacts]:
        facts = ((model.id, self._engine.transfer_facts(model.id)) for model in self._engine.models())
        return {name: each for name, each in facts if each is not None}


def suits(job: Job[Any], least_tokens: int) -> bool:
    """Whether the prompt of ``job`` is of the kind that moves: one text, for one choice, of the model itself.

    Pictures and adapters would have to be the same over there; several choices would each fetch what can be fetched
    once.
    """
    if type(job) is not Job or job.model.kind != "generate" or job.model.adapter is not None:
        return False
    if len(job.prompts) != 1 or job.request.n != 1 or job.prompts[0].media is not None:
        return False
    return len(job.prompts[0].token_ids) >= least_tokens
