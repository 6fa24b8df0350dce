"""Who is served when: the bounded queue in front of the engine, divided fairly between tenants."""

from gateway.admission.gate import Gate, GateLimits, GateObserver, Slot
from gateway.admission.ticket import Ticket

__all__ = ["Gate", "GateLimits", "GateObserver", "Slot", "Ticket"]
