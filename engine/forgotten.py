"""Inside a shared engine's core: end what a front-end worker left running when it died.

Fence around vLLM's ``EngineCore`` (vllm/v1/engine/core.py, checked against 0.32.0): clients call its methods by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

#: What clients call it.
FORGET_CLIENT: Final = "sluice_forget_client"


def forget_client(core: Any, client: int) -> None:
    """Abort every request of ``client``; nobody reads their tokens any more."""
    requests: Iterable[Any] = core.scheduler.requests.values()
    core.abort_requests([request.request_id for request in requests if request.client_index == client])


def install() -> None:
    """Let clients call :func:`forget_client`, if this process has an engine core."""
    module = sys.modules.get("vllm.v1.engine.core")
    if module is not None:
        setattr(module.EngineCore, FORGET_CLIENT, forget_client)
