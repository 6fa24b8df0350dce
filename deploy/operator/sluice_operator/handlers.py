"""kopf's side: which events lead to a reconciliation. What happens then is :mod:`sluice_operator.reconcile`'s."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any, Final

import kopf

from sluice_operator.api import GROUP, KIND, MANAGER, PLURAL, VERSION
from sluice_operator.kubernetes import Unclear
from sluice_operator.reconcile import Reconciler

FINALIZER: Final = f"{GROUP}/cleanup"
LOG: Final = logging.getLogger("sluice_operator")


def settings(answers: float) -> kopf.OperatorSettings:
    """kopf's settings: its notes in annotations of our own, and no Event for each of its steps."""
    made = kopf.OperatorSettings()
    made.persistence.finalizer = FINALIZER
    made.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    made.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, key="last-handled")
    made.peering.standalone = True
    made.posting.loggers = False
    made.posting.level = logging.WARNING
    made.networking.request_timeout = answers
    # A watch ends in silence when a proxy or the network forgets it.
    made.watching.server_timeout = 300
    made.watching.client_timeout = 330
    return made


def registry(reconciler: Reconciler, interval: float, retry: float) -> kopf.OperatorRegistry:
    """The handlers. ``interval`` seconds between looks without a reason, ``retry`` seconds after a failure."""
    made = kopf.OperatorRegistry()
    # One reconciliation of a service at a time: changes, the timer and the Deployment's events come from several tasks.
    turns: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def reconcile(namespace: str | None, name: str, body: kopf.Body) -> None:
        place = str(namespace), name
        async with turns[place]:
            try:
                news = await reconciler.reconcile(*place)
            except Unclear as error:
                raise kopf.TemporaryError(str(error), delay=retry) from error
        if news is not None:
            tell(place, str(body.metadata.uid), news)

    def tell(place: tuple[str, str], uid: str, news: str) -> None:
        metadata: Any = {"namespace": place[0], "name": place[1], "uid": uid}
        about = kopf.Body({"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata})
        kopf.event(about, type="Warning", reason="CanaryRolledBack", message=news)

    @kopf.on.login(registry=made)
    def credentials(**kwargs: Any) -> kopf.ConnectionInfo | None:
        found: kopf.ConnectionInfo | None = kopf.login_with_service_account(**kwargs)
        return found or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.create(GROUP, VERSION, PLURAL, registry=made, backoff=retry)
    @kopf.on.update(GROUP, VERSION, PLURAL, registry=made, backoff=retry, field="spec")
    @kopf.on.resume(GROUP, VERSION, PLURAL, registry=made, backoff=retry)
    async def changed(namespace: str | None, name: str, body: kopf.Body, **_: Any) -> None:
        await reconcile(namespace, name, body)

    @kopf.timer(GROUP, VERSION, PLURAL, registry=made, interval=interval, initial_delay=interval, backoff=retry)
    async def looked_at(namespace: str | None, name: str, body: kopf.Body, **_: Any) -> None:
        await reconcile(namespace, name, body)

    @kopf.on.event("apps", "v1", "deployments", registry=made, labels={"app.kubernetes.io/managed-by": MANAGER})
    async def pods_changed(meta: kopf.Meta, namespace: str | None, **_: Any) -> None:
        for owner in meta.get("ownerReferences") or []:
            if owner["kind"] == KIND and owner["apiVersion"].startswith(f"{GROUP}/"):
                place = str(namespace), owner["name"]
                try:
                    async with turns[place]:
                        news = await reconciler.reconcile(*place)
                except Unclear as error:
                    # Events are not tried again; the timer is not far.
                    LOG.info("%s/%s: %s", *place, error)
                    continue
                if news is not None:
                    tell(place, owner["uid"], news)

    @kopf.on.delete(GROUP, VERSION, PLURAL, registry=made, backoff=retry)
    async def deleted(namespace: str | None, name: str, uid: str, **_: Any) -> None:
        place = str(namespace), name
        async with turns[place]:
            try:
                left = await reconciler.remove(place[0], uid)
            except Unclear as error:
                raise kopf.TemporaryError(str(error), delay=retry) from error
        if left:
            raise kopf.TemporaryError(f"{left} objects are still there", delay=min(1.0, retry))
        turns.pop(place, None)

    return made
