"""The life of one request: received -> admitted -> dispatched -> first token -> one ending.

The rules, in every environment alike: the first ending wins and is the only one recorded. A second ending, a second
admission or a completion of what was never admitted changes nothing and is reported to ``Ledger.violation`` (which
raises in tests, and counts and logs in production). A request that ends without admission leaves no row. Marks
(dispatched, first token) count the first time; later ones, and those after the end, are ignored, because an engine
may push once more while a cancellation is on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.access.principal import DEFAULT_TENANT
from gateway.usage.ledger import Ledger
from gateway.usage.records import Admitted, Outcome, Settled


class Life:
    """Every ``*_at`` is a reading of ``clock``, in seconds.

    ``received_at``: when the request was received, if that was before this object was made. ``cached_tokens`` (of the
    prompt) and ``reasoning_tokens`` (of the completion) are set before the end, if at all.
    """

    __slots__ = (
        "_admission",
        "_clock",
        "_ledger",
        "admitted_at",
        "cached_tokens",
        "code",
        "dispatched_at",
        "ended_at",
        "first_token_at",
        "outcome",
        "prompt_tokens",
        "reasoning_tokens",
        "received",
        "received_at",
        "request_id",
    )

    def __init__(
        self,
        ledger: Ledger,
        request_id: str,
        *,
        received_at: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self.request_id = request_id
        now = clock()
        self.received_at = now if received_at is None else received_at
        self.received = wall() - (now - self.received_at)
        self.admitted_at: float | None = None
        self.dispatched_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self._admission: Admitted | None = None
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self.outcome: Outcome | None = None
        self.code: str | None = None

    @property
    def ended(self) -> bool:
        """Whether an ending was recorded."""
        return self.outcome is not None

    def admitted(
        self,
        *,
        principal: str,
        tenant: str = DEFAULT_TENANT,
        route: str,
        model: str,
        adapter: str | None = None,
        prompt_tokens: int,
        max_tokens: int,
        n: int,
        http_request_id: str | None = None,
        arm: str | None = None,
    ) -> None:
        """It may run and must be accounted for. See :class:`Admitted` for the values."""
        if self.admitted_at is not None or self.ended:
            self._ledger.violation(self.request_id, "admitted twice" if not self.ended else "admitted after its end")
            return
        self.admitted_at = self._clock()
        self.prompt_tokens = prompt_tokens
        ts = self.received + (self.admitted_at - self.received_at)
        self._admission = Admitted(
            self.request_id,
            ts,
            principal,
            route,
            model,
            prompt_tokens,
            max_tokens,
            n,
            http_request_id,
            tenant,
            adapter,
            arm,
        )
        self._ledger.write(self._admission)

    def dispatched(self) -> None:
        """The engine has it."""
        if self.dispatched_at is None and self.outcome is None:
            self.dispatched_at = self._clock()

    def first_token(self) -> None:
        """The engine produced something."""
        if self.first_token_at is None and self.outcome is None:
            self.first_token_at = self._clock()

    def completed(self, *, completion_tokens: int, finish_reasons: tuple[str, ...]) -> bool:
        """The caller has the whole answer. Returns False if it had ended before, as the other endings do."""
        if self.admitted_at is None and not self.ended:
            self._ledger.violation(self.request_id, "completed without admission")
        return self._end("completed", None, completion_tokens, finish_reasons)

    def cancelled(self, *, completion_tokens: int = 0) -> bool:
        """The caller went away after the engine had emitted ``completion_tokens``."""
        return self._end("cancelled", None, completion_tokens, ())

    def failed(self, code: str, *, completion_tokens: int = 0) -> bool:
        """It ended in the error ``code``, the one its caller sees."""
        return self._end("error", code, completion_tokens, ())

    def ttft(self) -> float | None:
        """Seconds from receipt to the first token."""
        return self._after(self.first_token_at)

    def duration(self) -> float:
        """Seconds from receipt to the end, or to now."""
        return (self._clock() if self.ended_at is None else self.ended_at) - self.received_at

    def _end(self, outcome: Outcome, code: str | None, completion_tokens: int, reasons: tuple[str, ...]) -> bool:
        if self.outcome is not None:
            self._ledger.violation(self.request_id, f"ended twice: {self.outcome}, then {outcome}")
            return False
        self.outcome = outcome
        self.code = code
        self.ended_at = self._clock()
        if self._admission is not None:
            self._ledger.write(self._settled(self._admission, completion_tokens, reasons))
        return True

    def _settled(self, admission: Admitted, completion_tokens: int, reasons: tuple[str, ...]) -> Settled:
        assert self.outcome is not None
        duration = self.duration()
        return Settled(
            request_id=self.request_id,
            ts=self.received + duration,
            outcome=self.outcome,
            code=self.code,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion_tokens,
            received=self.received,
            admitted=self._after(self.admitted_at) or 0.0,
            dispatched=self._after(self.dispatched_at),
            first_token=self._after(self.first_token_at),
            ended=duration,
            finish_reasons=reasons,
            principal=admission.principal,
            tenant=admission.tenant,
            route=admission.route,
            model=admission.model,
            adapter=admission.adapter,
            http_request_id=admission.http_request_id,
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.reasoning_tokens,
            arm=admission.arm,
        )

    def _after(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.received_at
