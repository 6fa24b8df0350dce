"""Who is next: tenants are served in proportion to their weights, by the tokens they really took.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-Time Fair Queuing", SIGCOMM 1996) over tenants, with costs in
tokens that are estimated at dispatch and corrected at the end, as in the virtual token counter of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024). A tenant that was idle starts at the virtual time of now: it
banks no credit, and what it owes it goes on owing until the others have caught up. Now is where the tenant that is due
stands without its running requests: they were charged when they began, but have not been served yet.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

MAX_IDLE_TENANTS: Final = 4096
#: Weight of the newest request in what requests are expected to cost.
_NEWEST: Final = 0.2

T = TypeVar("T")


class Share(Generic[T]):
    """One tenant: its waiting requests in their order, and where it stands in virtual time."""

    __slots__ = ("last_charge", "next_start", "running", "tenant", "typical_cost", "unserved", "waiting")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.waiting: deque[T] = deque()
        self.running = 0
        self.next_start = 0.0
        self.last_charge = 0.0
        self.unserved = 0.0
        self.typical_cost: float | None = None

    @property
    def idle(self) -> bool:
        """Nothing of it waits or runs."""
        return not self.waiting and not self.running


class FairShares(Generic[T]):
    """The order among tenants. Within one tenant, first come, first served."""

    def __init__(self, max_idle: int = MAX_IDLE_TENANTS) -> None:
        self._max_idle = max_idle
        self._shares: dict[str, Share[T]] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[str, Share[T]] = {}
        self._now = 0.0
        self._typical_cost: float | None = None

    @property
    def tenants_waiting(self) -> int:
        """Tenants with something in the queue."""
        return len(self._waiting)

    def share(self, tenant: str) -> Share[T]:
        """Where ``tenant`` stands; made if it is new."""
        found = self._shares.get(tenant)
        if found is None:
            found = self._shares[tenant] = Share(tenant)
            self._rest(found)
        return found

    def waits(self, tenant: str) -> bool:
        """Whether something of ``tenant`` is in the queue."""
        return tenant in self._waiting

    def expect(self, tenant: str, most: int) -> float:
        """Tokens that a request which can cost ``most`` will probably cost: what its tenant's, or else all, did."""
        typical = self.share(tenant).typical_cost or self._typical_cost
        return most if typical is None else min(most, typical)

    def push(self, tenant: str, item: T) -> None:
        """``item`` waits from now on."""
        share = self.share(tenant)
        self._wake(share)
        share.waiting.append(item)
        self._waiting[tenant] = share

    def due(self) -> Share[T]:
        """The tenant whose turn it is, of those that wait. Raises ValueError if nobody does."""
        return min(self._waiting.values(), key=_turn)

    def newcomer(self, due: Share[T]) -> Share[T] | None:
        """Who may go before ``due``, of whom something runs: the first of those of whom nothing does.

        Requests are charged when they begin, so ``due`` may stand still for as long as its requests run. A newcomer may
        be ahead of it by what one of them was charged, and not more, or light tenants would always be newcomers.
        """
        new = min((share for share in self._waiting.values() if not share.running), key=_turn, default=None)
        return new if new is not None and new.next_start <= due.next_start + due.last_charge else None

    def pop(self, share: Share[T]) -> T:
        """Take the tenant's first item out of the queue; :meth:`dispatch` must follow at once."""
        item = share.waiting.popleft()
        if not share.waiting:
            del self._waiting[share.tenant]
        return item

    def remove(self, tenant: str, item: T) -> None:
        """``item`` does not wait any longer. Raises ValueError if it did not."""
        share = self._shares[tenant]
        share.waiting.remove(item)
        self._forget_if_done(share)

    def dispatch(self, tenant: str, weight: float, sequences: int, cost: float) -> float:
        """A request begins to run; its start in virtual time, which orders requests of all tenants."""
        share = self.share(tenant)
        self._wake(share)
        start = share.next_start
        self._now = max(self._now, start)
        share.last_charge = cost / weight
        share.next_start = start + share.last_charge
        share.unserved += share.last_charge
        share.running += sequences
        return start

    def finish(self, tenant: str, weight: float, sequences: int, expected: float, served: int) -> None:
        """A request has ended and cost ``served`` tokens where ``expected`` were charged."""
        share = self._shares[tenant]
        share.running -= sequences
        share.next_start += (served - expected) / weight
        share.unserved = share.unserved - expected / weight if share.running else 0.0
        if served:
            share.typical_cost = _smoothed(share.typical_cost, served)
            self._typical_cost = _smoothed(self._typical_cost, served)
        self._forget_if_done(share)

    def _wake(self, share: Share[T]) -> None:
        if share.tenant in self._idle:
            share.next_start = max(share.next_start, self._virtual_now())
            del self._idle[share.tenant]

    def _virtual_now(self) -> float:
        """With nobody waiting, where the last request began."""
        if not self._waiting:
            return self._now
        due = self.due()
        return due.next_start - due.unserved

    def _forget_if_done(self, share: Share[T]) -> None:
        if not share.waiting:
            self._waiting.pop(share.tenant, None)
        if share.idle:
            self._rest(share)

    def _rest(self, share: Share[T]) -> None:
        self._idle[share.tenant] = None
        self._idle.move_to_end(share.tenant)
        if len(self._idle) > self._max_idle:
            del self._shares[self._idle.popitem(last=False)[0]]


def _smoothed(before: float | None, newest: int) -> float:
    return newest if before is None else before + _NEWEST * (newest - before)


def _turn(share: Share[T]) -> tuple[float, int]:
    return share.next_start, share.running
