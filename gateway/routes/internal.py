"""What only the servers of one deployment ask of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.disaggregation.serving import Prefiller
from gateway.disaggregation.wire import PREFILL, STATE, PeerState, PrefillAnswer, PrefillRequest
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.routing import Route

#: Who asks has reserved and judged already, in the name of its caller.
PEERS: dict[str, Any] = {"scope": None, "peers": True, "limit_class": LimitClass.NONE, "guard": GuardPolicy.NONE}


def routes(prefiller: Prefiller | None) -> Sequence[Route]:
    """None where no prompts are computed for others."""
    if prefiller is None:
        return ()
    return [
        Route("GET", STATE, prefiller.state, "How this server is, for its peers", response=PeerState, **PEERS),
        Route(
            "POST",
            PREFILL,
            prefiller.prefill,
            "Compute a prompt for a peer",
            runs_model=True,
            request=PrefillRequest,
            response=PrefillAnswer,
            errors=frozenset({409}),
            **PEERS,
        ),
    ]
