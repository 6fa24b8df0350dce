"""Computes prompts for peers: their own small way past admission to the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ValidationError

from engine.types import Delta, Engine, EngineError, GenerationRequest, ModelInfo, Prompt, Sampling
from gateway.access.door import Door
from gateway.access.failures import FailedCredentials
from gateway.admission import Gates, Ticket
from gateway.disaggregation.metrics import DisaggregationMetrics
from gateway.disaggregation.seal import HEADER, Seal
from gateway.disaggregation.wire import PREFILL, STATE, VERSION, PeerState, PrefillAnswer, PrefillRequest, WireFacts
from gateway.errors import ApiError, conflict, from_engine, invalid, model_not_found, queue_timeout
from gateway.exchange import Exchange
from gateway.lifecycle import Gateway
from gateway.protocol.encode import new_id
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life

#: Who computed prompts are accounted to here, as principal and as tenant: their callers pay where they asked.
PREFILLER: Final = "prefill"


class Prefiller:
    """Its two endpoints are open to whoever has the seal of the deployment, and to nobody else."""

    def __init__(
        self,
        engine: Engine,
        gate: Gates,
        gateway: Gateway,
        door: Door,
        failures: FailedCredentials,
        seal: Seal,
        ledger: Ledger,
        metrics: DisaggregationMetrics,
        max_body_bytes: int,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._gateway = gateway
        self._door = door
        self._failures = failures
        self._seal = seal
        self._ledger = ledger
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def state(self, exchange: Exchange) -> None:
        """GET: how this server is."""
        seal = self._recognised(exchange, "GET", STATE)
        models = {}
        for model in self._engine.models():
            if (facts := self._engine.transfer_facts(model.id)) is not None:
                models[model.id] = WireFacts.of(facts)
        ready = self._gateway.not_ready_reason() is None
        state = PeerState(version=VERSION, ready=ready, queued_tokens=self._engine.state().queued_tokens, models=models)
        self._answer(exchange, seal, state)

    async def prefill(self, exchange: Exchange) -> None:
        """POST: compute one prompt."""
        outcome = "refused"
        try:
            seal = self._recognised(exchange, "POST", PREFILL)
            asked = self._read(await exchange.json_body(self._max_body_bytes), seal)
            exchange.model = asked.model
            exchange.life = Life(self._ledger, new_id("prefill-"), received_at=exchange.received)
            deadline = exchange.received + asked.seconds
            outcome = "failed"
            async with asyncio.timeout(deadline - time.monotonic()):
                transfer = await self._computed(exchange, asked, deadline)
            self._answer(exchange, seal, PrefillAnswer(version=VERSION, transfer=_plain(transfer)))
            outcome = "completed"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except TimeoutError:
            raise queue_timeout(self._gate.retry_after(exchange.model)) from None
        except EngineError as error:
            raise from_engine(error, prompt_param="token_ids") from error
        finally:
            self._metrics.served(outcome)

    # -- who asks, and what -----------------------------------------------------------------------------------------

    def _recognised(self, exchange: Exchange, method: str, path: str) -> str:
        """The seal of a peer's request, before its body. Raises :class:`ApiError` 401, or 429 after many wrong ones."""
        address = self._door.locate(exchange)
        self._failures.check(address)
        seal = (exchange.header(HEADER.encode()) or b"").decode("latin-1")
        if not self._seal.is_of_request(seal, method, path):
            self._failures.failed(address)
            raise _not_a_peer()
        return seal

    def _read(self, body: bytes, seal: str) -> PrefillRequest:
        if not self._seal.holds(seal, body):
            raise _not_a_peer()
        try:
            asked = PrefillRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            param = ".".join(map(str, first["loc"])) or None
            raise invalid(f"Invalid '{param}': {first['msg']}.", code="invalid_value", param=param) from None
        if asked.version != VERSION:
            raise invalid(f"This server speaks version {VERSION}.", code="unsupported_version", param="version")
        return asked

    def _model(self, asked: PrefillRequest) -> ModelInfo:
        model = self._engine.model(asked.model)
        if model is None:
            raise model_not_found()
        if self._engine.transfer_facts(asked.model) != asked.facts.facts():
            raise conflict("The engines have too little in common.", code="incompatible_engine", param="facts")
        return model

    # -- the run ----------------------------------------------------------------------------------------------------

    async def _computed(
        self, exchange: Exchange, asked: PrefillRequest, deadline: float
    ) -> Mapping[str, object] | None:
        model = self._model(asked)
        life = exchange.life
        assert life is not None
        request = GenerationRequest(
            request_id=life.request_id,
            model=model.id,
            prompt=Prompt(asked.token_ids),
            sampling=Sampling(max_tokens=1, temperature=0.0),
            stream=False,
            cache_salt=asked.cache_salt,
        )
        hold = await self._engine.hold(model.id)
        try:
            self._engine.check(request)
            return await self._in_turn(exchange, asked, request, life, deadline)
        finally:
            hold.release()

    async def _in_turn(
        self, exchange: Exchange, asked: PrefillRequest, request: GenerationRequest, life: Life, deadline: float
    ) -> Mapping[str, object] | None:
        tokens = len(asked.token_ids)
        slot = await self._gate.enter(
            Ticket(life.request_id, asked.tenant, asked.weight, 1, tokens + 1, deadline, request.model)
        )
        sink = _Discarded(life)
        try:
            life.admitted(
                principal=PREFILLER,
                tenant=PREFILLER,
                route=PREFILL,
                model=request.model,
                prompt_tokens=tokens,
                max_tokens=1,
                n=1,
                http_request_id=asked.request_id,
            )
            life.dispatched()
            transfer = await self._engine.prefill(replace(request, priority=slot.priority), sink)
            life.cached_tokens = sink.found
            life.completed(completion_tokens=sink.tokens, finish_reasons=("length",))
            return transfer
        finally:
            exchange.tokens = (tokens, sink.tokens)
            slot.leave(tokens + sink.tokens)

    def _answer(self, exchange: Exchange, seal: str, answer: BaseModel) -> None:
        body = answer.model_dump_json().encode()
        headers = [
            (b"content-type", b"application/json"),
            (HEADER.encode(), self._seal.of_answer(seal, body).encode()),
        ]
        exchange.respond(200, body, headers)


class _Discarded:
    """Nobody reads the one token that comes of it."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.tokens = 0
        self.found = 0

    def text(self, text: str, tokens: int) -> None:  # noqa: ARG002 - the interface
        """See :class:`engine.types.DeltaSink`."""
        self._life.first_token()
        self.tokens += tokens

    def delta(self, delta: Delta) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.text(delta.text, delta.tokens)

    def cached(self, tokens: int) -> None:
        """See :class:`engine.types.DeltaSink`."""
        self.found += tokens


def _not_a_peer() -> ApiError:
    return ApiError(401, "This address is for the servers of one deployment.", code="invalid_seal")


def _plain(transfer: Mapping[str, object] | None) -> dict[str, object] | None:
    return None if transfer is None else dict(transfer)
