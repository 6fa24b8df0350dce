"""Who is served when: the bounded queue in front of the engine, divided fairly between tenants."""

from gateway.admission.gate import Gate, GateLimits, GateObserver, Slot
from gateway.admission.gates import Gates
from gateway.admission.ticket import Ticket

__all__ = ["Gate", "GateLimits", "GateObserver", "Gates", "Slot", "Ticket"]
