"""One InferenceService brought to what it should be: level-triggered, idempotent, and safe to stop at any line."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import yaml

from sluice_operator import canary as canaries
from sluice_operator import manifests, status
from sluice_operator.api import CONFIG_MAP, DEPLOYMENT, MANAGER, OWNER, SECRET, Apis, Manifest, kind_of
from sluice_operator.canary import State
from sluice_operator.kubernetes import Kubernetes, Refused, Unclear
from sluice_operator.metrics import Metrics, MetricsUnavailable
from sluice_operator.rules import Invalid, parse
from sluice_operator.service import CANARY, CanaryPlan, Documents, Service, Situation
from sluice_operator.spec import Canary, Reference
from sluice_operator.status import Condition

#: Holds `spec.replicas` while an autoscaler takes over, so that the number does not fall to one in between.
HANDOVER: Final = "sluice-operator-handover"
_LETTERS: Final = string.ascii_letters + string.digits
Key = tuple[str, str]
Owned = dict[Key, Manifest]


class NotYet(Exception):
    """The specification is right, but what it refers to is not; the first word is the reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _key(manifest: Mapping[str, Any]) -> Key:
    return manifest["kind"], manifest["metadata"]["name"]


def _random(key: str) -> str:
    """A value of a made Secret, in the form that the chart makes."""
    text = "".join(secrets.choice(_LETTERS) for _ in range(64))
    return f"sk-{text[:12].lower()}-{text[12:55]}" if key == "api-key" else text


class Reconciler:
    """Brings services to what they should be. Raises :class:`sluice_operator.kubernetes.Unclear` to be asked again."""

    def __init__(self, cluster: Kubernetes, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock

    async def reconcile(self, namespace: str, name: str) -> str | None:
        """Returns what people should be told of (a roll-back), once."""
        body = await self._cluster.service(namespace, name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return None
        try:
            return await self._bring(body)
        except Invalid as error:
            await self._refuse(body, "Invalid", str(error))
        except NotYet as error:
            await self._refuse(body, error.reason, str(error))
        except Refused as error:
            await self._refuse(body, "Refused", str(error))
        except Unclear as error:
            # Said where it can be said: a failure that lasts is not to be found in a log only.
            await self._say(body, Condition("Reconciled", "Unknown", "ApiServer", str(error)[:1024]))
            raise
        return None

    async def remove(self, namespace: str, uid: str) -> int:
        """Delete everything of a service that is being deleted; how many objects are still there."""
        owned = await self._owned(await self._cluster.apis(), namespace, uid)
        for manifest in reversed(owned.values()):
            if not manifest["metadata"].get("deletionTimestamp"):
                await self._cluster.delete(manifest)
        return len(owned)

    async def _bring(self, body: Manifest) -> str | None:
        metadata, old = body["metadata"], body.get("status") or {}
        spec = parse(body["spec"], metadata["name"])
        apis = await self._cluster.apis()
        documents = Documents(
            await self._settings(metadata["namespace"], spec.guard),
            await self._settings(metadata["namespace"], spec.limits),
        )
        service = Service(metadata["name"], metadata["namespace"], metadata["uid"], spec, documents)
        owned = await self._owned(apis, service.namespace, service.uid)

        stable = _replicas(service, owned.get((DEPLOYMENT.name, service.name)))
        state = await self._judge(service, owned, State.read(old))
        plan = canaries.plan(spec.canary, state, stable) if spec.canary and state else None
        told = _news(State.read(old), state)
        if state is not None:
            # Written before anything is done: a roll-back that was begun is not forgotten.
            await self._write(body, {"canary": _shown(state, plan, stable)})

        wanted = manifests.desired(service, Situation(apis, plan))
        await self._check_names(service, wanted, owned)
        await self._make_secrets(service, owned)
        if spec.autoscaling is not None:
            await self._hand_over(owned.get((DEPLOYMENT.name, service.name)))
        made = {_key(manifest): await self._cluster.apply(manifest) for manifest in wanted}
        await self._prune(owned, made)

        deployment = made[DEPLOYMENT.name, service.name]
        found = [
            Condition("Valid", "True", "Accepted"),
            Condition("Reconciled", "True", "Applied"),
            status.ready(deployment),
            status.progressing(deployment),
            *status.optional(service, apis),
            *status.of_canary(state),
        ]
        shown = None if state is None else _shown(state, plan, stable)
        await self._write(body, {**status.counts(service, deployment), "canary": shown}, found)
        return told

    async def _owned(self, apis: Apis, namespace: str, uid: str) -> Owned:
        """All objects that are ours, by kind and name, in the order in which they are made."""
        found: Owned = {}
        for kind in apis.kinds:
            version = apis.version_of(kind)
            if version is not None:
                for manifest in await self._cluster.list(kind, version, namespace, {OWNER: uid}):
                    found[_key(manifest)] = manifest
        return found

    async def _settings(self, namespace: str, reference: Reference | None) -> Mapping[str, Any] | None:
        if reference is None:
            return None
        found = await self._cluster.get(CONFIG_MAP, CONFIG_MAP.versions[0], namespace, reference.name)
        text = ((found or {}).get("data") or {}).get(reference.key)
        if text is None:
            raise NotYet("ReferenceMissing", f"there is no ConfigMap {reference.name} with the key {reference.key}")
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise NotYet("ReferenceInvalid", f"ConfigMap {reference.name}, {reference.key}: {error}") from None
        if not isinstance(tree, dict):
            raise NotYet("ReferenceInvalid", f"ConfigMap {reference.name}, {reference.key}: a mapping is expected")
        return tree

    async def _judge(self, service: Service, owned: Owned, state: State | None) -> State | None:
        """The canary's next state."""
        canary = service.spec.canary
        if canary is None:
            return None
        pods = status.pods_of(owned.get((DEPLOYMENT.name, f"{service.name}-{CANARY}")), canary.version)
        try:
            seen = await self._look(service, canary, state)
        except MetricsUnavailable:
            seen = None
        return canaries.advance(canary, state, pods, seen, self._clock())

    async def _look(self, service: Service, canary: Canary, state: State | None) -> canaries.Seen | None:
        watched = state is not None and state.version == canary.version and state.phase in ("Progressing", "Passed")
        return await self._metrics.look(service, canary) if watched else None

    async def _check_names(self, service: Service, wanted: list[Manifest], owned: Owned) -> None:
        """Nothing of somebody else's is taken over because it has the same name."""
        for manifest in wanted:
            if _key(manifest) in owned:
                continue
            kind, name = kind_of(manifest), manifest["metadata"]["name"]
            there = await self._cluster.get(kind, manifest["apiVersion"], service.namespace, name)
            if there is not None and (there["metadata"].get("labels") or {}).get(OWNER) != service.uid:
                raise NotYet("NameTaken", f"there is a {kind.name} {name} that is not of this service")

    async def _make_secrets(self, service: Service, owned: Owned) -> None:
        """Made by creating, never by writing: one that is there is left as it is, whatever was seen of it."""
        for name, key in manifests.secrets(service):
            if (SECRET.name, name) not in owned:
                body = {"type": "Opaque", "stringData": {key: _random(key)}}
                await self._cluster.create(service.manifest("v1", SECRET.name, name, body))

    async def _hand_over(self, deployment: Manifest | None) -> None:
        """When ours was the number of pods and is now an autoscaler's: another owner holds it before we let go."""
        if deployment is None or not _owns_replicas(deployment):
            return
        metadata = {key: deployment["metadata"][key] for key in ("name", "namespace")}
        held = {"replicas": deployment["spec"]["replicas"]}
        body = {"apiVersion": deployment["apiVersion"], "kind": deployment["kind"], "metadata": metadata, "spec": held}
        await self._cluster.apply(body, HANDOVER)

    async def _prune(self, owned: Owned, made: Mapping[Key, Manifest]) -> None:
        """What is ours and no longer wanted goes. Made Secrets stay until the service goes."""
        for key, manifest in reversed(owned.items()):
            if key not in made and key[0] != SECRET.name and not manifest["metadata"].get("deletionTimestamp"):
                await self._cluster.delete(manifest)

    async def _refuse(self, body: Manifest, reason: str, message: str) -> None:
        """Say why nothing was changed. What runs goes on running."""
        await self._say(body, Condition("Valid", "False", reason, message[:1024]))

    async def _say(self, body: Manifest, condition: Condition) -> None:
        """One condition; the others stay as they are."""
        old = (body.get("status") or {}).get("conditions") or []
        kept = [
            Condition(item["type"], item["status"], item["reason"], item["message"])
            for item in old
            if item["type"] != condition.type
        ]
        await self._write(body, {}, [condition, *kept])

    async def _write(self, body: Manifest, change: Manifest, found: list[Condition] | None = None) -> None:
        """Merge into the status, if that changes anything."""
        metadata, old = body["metadata"], body.get("status") or {}
        if found is not None:
            rows = status.conditions(old.get("conditions") or [], found, metadata["generation"], self._clock())
            change = {**change, "conditions": rows, "observedGeneration": metadata["generation"]}
        if any(old.get(key) != value for key, value in change.items()):
            await self._cluster.write_status(metadata["namespace"], metadata["name"], change)
            body["status"] = {**old, **change}


def _replicas(service: Service, deployment: Manifest | None) -> int:
    """Stable pods that are wanted now, by whoever decides that."""
    spec = service.spec
    if spec.autoscaling is None:
        return 1 if spec.replicas is None else spec.replicas
    return int(deployment["spec"].get("replicas", 1)) if deployment else spec.autoscaling.min_replicas


def _owns_replicas(deployment: Manifest) -> bool:
    return any(
        entry.get("manager") == MANAGER and "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
        for entry in deployment["metadata"].get("managedFields") or []
    )


def _shown(state: State, plan: CanaryPlan | None, stable: int) -> Manifest:
    return {
        **state.write(),
        "weight": plan.weight if plan else 0,
        "shareOfPods": status.share(plan, stable) if plan else 0,
    }


def _news(old: State | None, new: State | None) -> str | None:
    if new is None or new.phase != "RolledBack":
        return None
    if old is not None and (old.phase, old.version) == ("RolledBack", new.version):
        return None
    return f"canary {new.version} was rolled back: {new.message}"
