"""Puts refused callers into the audit log, without letting them write it as fast as they can ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.access.principal import Scope
from gateway.errors import ApiError
from gateway.store.audit import AuditEntry

if TYPE_CHECKING:
    from gateway.exchange import Exchange

DENIED: Final = "access.denied"
QUIET_SECONDS: Final = 60.0
_REMEMBERED: Final = 1024


@dataclass(slots=True)
class _Told:
    at: float
    repeated: int = 0


class DenialAudit:
    """An :class:`~gateway.access.door.OnDenied`: callers that are known and lack a scope, and all who try admin routes.

    Wrong keys elsewhere are for the access log and the metrics. The same caller at the same route with the same error
    is recorded once a minute; the next entry says how often it came back in between.
    """

    def __init__(self, record: Callable[[AuditEntry], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._told: OrderedDict[tuple[str, ...], _Told] = OrderedDict()

    def __call__(self, exchange: Exchange, scope: Scope, error: ApiError) -> None:
        """Record it, or count it."""
        if scope is not Scope.ADMIN and error.status != 403:
            return
        actor = exchange.principal.id if exchange.principal else "unknown"
        route = f"{exchange.route.method} {exchange.route.path}" if exchange.route else "(none)"
        repeated = self._repeated(actor, exchange.address, route, error.code or "")
        if repeated is None:
            return
        detail = {"route": route, "scope": scope.value, "code": error.code}
        if repeated:
            detail["repeated"] = str(repeated)
        self._record(
            AuditEntry(
                ts=time.time(),
                actor=actor,
                act=DENIED,
                allowed=False,
                target=exchange.path_rest or None,
                detail=detail,
                client_ip=exchange.address or None,
                request_id=exchange.request_id,
            )
        )

    def _repeated(self, *what: str) -> int | None:
        """None if it was recorded a moment ago, else how often it was not since."""
        now = self._clock()
        told = self._told.get(what)
        if told is not None and now - told.at < QUIET_SECONDS:
            told.repeated += 1
            return None
        self._told[what] = _Told(now)
        self._told.move_to_end(what)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return told.repeated if told else 0
