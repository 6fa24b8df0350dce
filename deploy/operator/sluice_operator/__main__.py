"""``python -m sluice_operator``: run until SIGTERM.

SLUICE_OPERATOR_NAMESPACE      one namespace only; default: all
SLUICE_OPERATOR_INTERVAL       seconds between looks at a service without a reason (10)
SLUICE_OPERATOR_RETRY          seconds after a failure (5)
SLUICE_OPERATOR_HEALTH_PORT    port of /healthz (8080); 0 for none
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime

import httpx
import kopf

from sluice_operator import handlers, metrics
from sluice_operator.kubernetes import TIMEOUT, ApiServer
from sluice_operator.reconcile import Reconciler


async def run() -> None:
    """Until the process is told to stop."""
    namespace = os.environ.get("SLUICE_OPERATOR_NAMESPACE")
    interval = float(os.environ.get("SLUICE_OPERATOR_INTERVAL", "10"))
    retry = float(os.environ.get("SLUICE_OPERATOR_RETRY", "5"))
    port = int(os.environ.get("SLUICE_OPERATOR_HEALTH_PORT", "8080"))
    cluster = ApiServer.connect()
    async with httpx.AsyncClient(timeout=metrics.TIMEOUT, follow_redirects=False) as client:
        reconciler = Reconciler(cluster, metrics.Prometheus(client), lambda: datetime.now(UTC))
        try:
            await kopf.operator(
                registry=handlers.registry(reconciler, interval, retry),
                settings=handlers.settings(TIMEOUT),
                standalone=True,
                clusterwide=namespace is None,
                namespaces=[namespace] if namespace else (),
                liveness_endpoint=f"http://0.0.0.0:{port}/healthz" if port else None,
            )
        finally:
            await cluster.close()


def main() -> None:
    """Logs go to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    asyncio.run(run())


if __name__ == "__main__":
    main()
