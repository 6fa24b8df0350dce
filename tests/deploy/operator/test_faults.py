"""An API server that fails: nothing is concluded from it, nothing deleted or made twice, and all is well afterwards."""

from __future__ import annotations

import time

import pytest

from tests.deploy.operator.control_plane import Namespace, wait_for
from tests.deploy.operator.faults import FaultyProxy
from tests.deploy.operator.services import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FAULTS = ("500", "503", "429", "403", "404 of a proxy", "404 of an API", "reset", "empty", "hang")


def uids(namespace: Namespace) -> dict[str, str]:
    names = [("deployments", "demo"), ("services", "demo"), ("configmaps", "demo"), ("secrets", "demo-api-key"),
             ("secrets", "demo-deployment"), ("horizontalpodautoscalers", "demo")]  # fmt: skip
    return {f"{plural}/{name}": namespace.get(plural, name)["metadata"]["uid"] for plural, name in names}


@pytest.mark.parametrize("what", FAULTS)
def test_no_failure_is_read_as_not_found(namespace: Namespace, proxy: FaultyProxy, what: str) -> None:
    """Whatever reading of this namespace, or of the list of APIs, is answered with."""
    namespace.make("demo", {**SMALL, "autoscaling": {"minReplicas": 2}})
    namespace.await_("deployments", "demo", lambda item: item["spec"]["replicas"] == 2)
    namespace.await_condition("demo", "Autoscaling", "True")
    before, secret = uids(namespace), namespace.get("secrets", "demo-api-key")["data"]
    mine = f"/namespaces/{namespace.name}/"

    start = len(proxy.asked)
    proxy.failed.clear()
    enough = 0 if what == "hang" else 2

    proxy.fault = lambda method, path: what if method == "GET" and mine in path else None
    namespace.change("demo", config={"log": {"level": "debug"}})
    wait_for(lambda: len(proxy.failed) > enough, "failures of reading")
    time.sleep(1)
    proxy.failed.clear()
    proxy.fault = lambda method, path: what if method == "GET" and path == "/apis" else None
    namespace.change("demo", config={"log": {"level": "error"}})
    wait_for(lambda: len(proxy.failed) > enough, "failures of discovery")
    time.sleep(1)
    writes = [
        (method, path)
        for method, path in proxy.asked[start:]
        if mine in path and "inferenceservices" not in path and method in ("DELETE", "POST")
    ]
    assert writes == []
    proxy.fault = lambda method, path: None
    namespace.await_("configmaps", "demo", lambda item: "level: error" in item["data"]["sluice.yaml"])
    assert uids(namespace) == before
    assert namespace.get("secrets", "demo-api-key")["data"] == secret
    assert namespace.get("deployments", "demo")["spec"]["replicas"] == 2


def test_every_seventh_request_fails_and_it_gets_there_all_the_same(namespace: Namespace, proxy: FaultyProxy) -> None:
    count = iter(range(10**9))
    kinds = iter(("500", "reset", "503", "404 of a proxy") * 10**6)
    mine = f"/namespaces/{namespace.name}/"
    proxy.fault = lambda method, path: next(kinds) if mine in path and next(count) % 7 == 2 else None
    namespace.make("demo", {**SMALL, "autoscaling": {"minReplicas": 2}})
    namespace.await_("deployments", "demo", lambda item: item["spec"]["replicas"] == 2)
    namespace.await_condition("demo", "Autoscaling", "True")
    namespace.change("demo", port=80)
    namespace.await_("services", "demo", lambda item: item["spec"]["ports"][0]["port"] == 80)
    assert proxy.failed
    namespace.plane.ask("DELETE", namespace.path("inferenceservices", "demo"))
    namespace.gone("inferenceservices", "demo")
    assert namespace.names("deployments") == namespace.names("services") == set()


@pytest.mark.parametrize("what", ["500", "404 of a proxy", "empty"])
def test_a_service_is_not_let_go_while_it_is_unknown_what_is_left(
    namespace: Namespace, proxy: FaultyProxy, what: str
) -> None:
    namespace.make("demo", SMALL)
    namespace.await_condition("demo", "Valid", "True")
    lists = namespace.path("secrets")
    proxy.failed.clear()
    proxy.fault = lambda method, path: what if method == "GET" and path == lists else None
    namespace.plane.ask("DELETE", namespace.path("inferenceservices", "demo"))
    wait_for(lambda: len(proxy.failed) > 2, "failures")
    assert namespace.get("inferenceservices", "demo")["metadata"]["finalizers"]
    proxy.fault = lambda method, path: None
    namespace.gone("inferenceservices", "demo")
    assert namespace.names("deployments") == set()
    assert "demo-api-key" not in namespace.names("secrets")
