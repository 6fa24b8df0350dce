"""The API server as the operator needs it: few verbs on plain manifests, and no answer is read as more than it says.

"Not found" is only what the API server itself says about this object by name. A 404 of a proxy, of an API that is being
registered, a 403, a 500 and a time-out are all :class:`Unclear`: nothing is concluded from them, and nothing is deleted
or made because of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

import httpx2
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

from sluice_operator.api import GROUP, MANAGER, PLURAL, VERSION, Apis, Kind, Manifest, kind_of

TIMEOUT: Final = 10.0
#: Seconds before a request is sent again; None: that was the last time.
PAUSES: Final = (0.1, 0.4, None)
AGAIN: Final = (429, 500, 502, 503, 504)


class Unclear(Exception):
    """The API server did not answer, or not in its own words: try again later."""


class Refused(Exception):
    """The API server will not have this object as it is; the message is its own."""


class Kubernetes(Protocol):
    """What the operator asks of a cluster. Every method may raise :class:`Unclear`."""

    async def apis(self) -> Apis:
        """The group versions that are served."""
        ...

    async def get(self, kind: Kind, version: str, namespace: str, name: str) -> Manifest | None:
        """One object; None only when the API server says that there is none of this name."""
        ...

    async def list(self, kind: Kind, version: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """All objects with these labels."""
        ...

    async def create(self, manifest: Manifest) -> bool:
        """Make an object; False when one of its name is there already, which is left as it is."""
        ...

    async def apply(self, manifest: Manifest, manager: str = MANAGER) -> Manifest:
        """Own the fields of ``manifest``, and no others (server-side apply). Raises :class:`Refused`."""
        ...

    async def delete(self, manifest: Manifest) -> None:
        """Delete exactly this object, by its uid; one that is gone or was made anew is left alone."""
        ...

    async def service(self, namespace: str, name: str) -> Manifest | None:
        """An InferenceService as it is now."""
        ...

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Merge into the status; a None deletes a field. A service that is gone is no error."""
        ...


_INFERENCE_SERVICE: Final = Kind("InferenceService", PLURAL, (f"{GROUP}/{VERSION}",))


def _path(kind: Kind, version: str, namespace: str, name: str = "") -> str:
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{kind.plural}" + (f"/{name}" if name else "")


def _status_of(response: httpx2.Response) -> Mapping[str, Any]:
    """The API server's own words about a failure; empty when the answer is not its own."""
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("kind") == "Status" else {}


def _is_about(status: Mapping[str, Any], reason: str, name: str) -> bool:
    return status.get("reason") == reason and (status.get("details") or {}).get("name") == name


class ApiServer:
    """A real cluster, over one connection pool; credentials as in a pod or from KUBECONFIG."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> ApiServer:
        """By the pod's service account, KUBECONFIG, or the user's own configuration."""
        config = KubeConfig.from_env().get()
        if config is None:
            raise Unclear("neither a service account nor a kubeconfig is here")
        return cls(AsyncClient(config, ConnectionParams(timeout=httpx2.Timeout(TIMEOUT))))

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """One answer, whatever it says. All our requests may be repeated: a quick failure is tried again."""
        for pause in PAUSES:
            try:
                response = await self._client.request(method, path, **more)
            except httpx2.TimeoutException as error:
                raise Unclear(f"{method} {path}: no answer in time") from error
            except httpx2.HTTPError as error:
                if pause is None:
                    raise Unclear(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from error
            else:
                if pause is None or response.status_code not in AGAIN:
                    return response
            await asyncio.sleep(pause)
        raise AssertionError("the last pause is None")

    @staticmethod
    def _answer(response: httpx2.Response) -> Any:
        """The body of a success. Raises :class:`Unclear` for everything else."""
        request = response.request
        if response.is_success:
            try:
                return response.json()
            except ValueError as error:
                raise Unclear(f"{request.method} {request.url.path}: an answer that is no JSON") from error
        said = _status_of(response).get("message", response.reason_phrase)
        raise Unclear(f"{request.method} {request.url.path}: {response.status_code} {said}")

    async def apis(self) -> Apis:
        """See :class:`Kubernetes`."""
        core = self._answer(await self._ask("GET", "/api"))
        groups = self._answer(await self._ask("GET", "/apis"))
        if core.get("kind") != "APIVersions" or groups.get("kind") != "APIGroupList":
            raise Unclear("GET /apis: not a list of API groups")
        served = {entry["groupVersion"] for group in groups["groups"] for entry in group["versions"]}
        return Apis(frozenset(served | set(core["versions"])))

    async def get(self, kind: Kind, version: str, namespace: str, name: str) -> Manifest | None:
        """See :class:`Kubernetes`."""
        response = await self._ask("GET", _path(kind, version, namespace, name))
        if response.status_code == 404 and _is_about(_status_of(response), "NotFound", name):
            return None
        found: Manifest = self._answer(response)
        return found

    async def list(self, kind: Kind, version: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """See :class:`Kubernetes`."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = self._answer(
            await self._ask("GET", _path(kind, version, namespace), params={"labelSelector": selector})
        )
        if not str(answer.get("kind", "")).endswith("List") or (answer.get("metadata") or {}).get("continue"):
            raise Unclear(f"GET {kind.plural}: not a whole list")
        # Items of a list do not name their kind.
        return [{"apiVersion": version, "kind": kind.name, **item} for item in answer.get("items") or []]

    async def create(self, manifest: Manifest) -> bool:
        """See :class:`Kubernetes`."""
        path = _path(kind_of(manifest), manifest["apiVersion"], manifest["metadata"]["namespace"])
        response = await self._ask("POST", path, json=manifest, params={"fieldManager": MANAGER})
        if response.status_code == 409 and _is_about(
            _status_of(response), "AlreadyExists", manifest["metadata"]["name"]
        ):
            return False
        self._answer(response)
        return True

    async def apply(self, manifest: Manifest, manager: str = MANAGER) -> Manifest:
        """See :class:`Kubernetes`."""
        metadata = manifest["metadata"]
        response = await self._ask(
            "PATCH",
            _path(kind_of(manifest), manifest["apiVersion"], metadata["namespace"], metadata["name"]),
            params={"fieldManager": manager, "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            json=manifest,
        )
        if response.status_code in (400, 422) and (status := _status_of(response)):
            raise Refused(str(status.get("message", "")))
        made: Manifest = self._answer(response)
        return made

    async def delete(self, manifest: Manifest) -> None:
        """See :class:`Kubernetes`."""
        metadata = manifest["metadata"]
        options: Manifest = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        if manifest["kind"] == "Deployment":
            # Gone means that its pods are gone.
            options["propagationPolicy"] = "Foreground"
        path = _path(kind_of(manifest), manifest["apiVersion"], metadata["namespace"], metadata["name"])
        response = await self._ask("DELETE", path, json=options)
        status = _status_of(response)
        if _is_about(status, "NotFound", metadata["name"]) or _is_about(status, "Conflict", metadata["name"]):
            return
        self._answer(response)

    async def service(self, namespace: str, name: str) -> Manifest | None:
        """See :class:`Kubernetes`."""
        return await self.get(_INFERENCE_SERVICE, _INFERENCE_SERVICE.versions[0], namespace, name)

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """See :class:`Kubernetes`."""
        path = _path(_INFERENCE_SERVICE, _INFERENCE_SERVICE.versions[0], namespace, name)
        headers = {"Content-Type": "application/merge-patch+json"}
        response = await self._ask("PATCH", f"{path}/status", headers=headers, json={"status": status})
        if response.status_code == 404 and _is_about(_status_of(response), "NotFound", name):
            return
        self._answer(response)
