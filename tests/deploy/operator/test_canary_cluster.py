"""A canary on a real API server: pods by weight, rolled back by the metrics, and it stays so."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.deploy.cluster import served
from tests.deploy.operator.control_plane import Namespace, Object, watched
from tests.deploy.operator.services import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Answers(ThreadingHTTPServer):
    """A stand-in for Prometheus: ``good`` and ``bad`` requests of the canary, or no answer at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.good, self.bad, self.away = 0, 0, False
        self.looked = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        value = self.server.good if "completed" in self.path else self.server.bad if "error" in self.path else 0
        result = [{"metric": {}, "value": [0, str(value)]}]
        self.send_response(503 if self.server.away else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "success", "data": {"result": result}}).encode())
        self.server.looked.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as server, served(server):
        yield server


def state(namespace: Namespace) -> Object:
    found: Object = namespace.get("inferenceservices", "demo").get("status", {}).get("canary") or {}
    return found


def begin(namespace: Namespace, answers: Answers, **canary: Any) -> None:
    namespace.make(
        "demo",
        {
            **SMALL,
            "replicas": 4,
            "metrics": {"prometheusURL": answers.url},
            "canary": {"version": "v2", "source": "/models/next", "weight": 20, **canary},
        },
    )
    namespace.await_("deployments", "demo-canary", lambda item: item.get("status", {}).get("replicas") == 1)
    namespace.await_("deployments", "demo", lambda item: item.get("status", {}).get("replicas") == 4)


def phase(namespace: Namespace, wanted: str) -> Object:
    def is_there(item: Object) -> bool:
        return bool(((item.get("status") or {}).get("canary") or {}).get("phase") == wanted)

    found: Object = namespace.await_("inferenceservices", "demo", is_there)["status"]["canary"]
    return found


def test_a_bad_canary_is_rolled_back_and_stays_so_until_its_version_changes(
    namespace: Namespace, answers: Answers
) -> None:
    begin(namespace, answers)
    assert state(namespace)["phase"] == "Starting"
    assert state(namespace)["shareOfPods"] == 20
    namespace.start_pods()
    namespace.start_pods("canary")
    phase(namespace, "Progressing")
    namespace.await_condition("demo", "Canary", "Unknown", "TooFewRequests")
    answers.away, answers.bad = True, 50
    namespace.await_condition("demo", "Canary", "Unknown", "MetricsUnavailable")
    assert namespace.find("deployments", "demo-canary") is not None
    stable = namespace.get("deployments", "demo")["metadata"]["generation"]
    answers.good, answers.away = 50, False
    rolled = phase(namespace, "RolledBack")
    assert (rolled["reason"], rolled["weight"]) == ("RuleBroken", 0)
    assert "success rate 0.5000 of 100 requests" in rolled["message"]
    namespace.gone("deployments", "demo-canary")
    namespace.gone("configmaps", "demo-canary")
    assert namespace.get("deployments", "demo")["metadata"]["generation"] == stable
    namespace.await_condition("demo", "Canary", "False", "RolledBack")
    events = namespace.plane.ask("GET", namespace.path("events"))["items"]
    assert [event["reason"] for event in events if event["involvedObject"]["kind"] == "InferenceService"] == [
        "CanaryRolledBack"
    ]
    # Good figures do not bring it back, nor another specification with the same version.
    answers.bad = 0
    namespace.change("demo", config={"log": {"level": "debug"}})
    assert watched(lambda: namespace.find("deployments", "demo-canary") is None, 3) == {True}
    namespace.change("demo", canary={"version": "v3"})
    namespace.await_("deployments", "demo-canary")
    assert phase(namespace, "Starting")["version"] == "v3"


def test_a_good_canary_passes_and_becomes_the_model(namespace: Namespace, answers: Answers) -> None:
    begin(namespace, answers, steps=[{"weight": 20, "seconds": 1}, {"weight": 50, "seconds": 1}])
    answers.good = 100
    namespace.start_pods()
    namespace.start_pods("canary")
    # Four stable pods: half of the traffic is four of its own.
    namespace.await_("deployments", "demo-canary", lambda item: item["spec"]["replicas"] == 4)
    assert phase(namespace, "Passed")["weight"] == 50
    namespace.await_condition("demo", "Canary", "True")
    namespace.change("demo", model={"source": "/models/next", "version": "v2"}, canary=None)
    namespace.gone("deployments", "demo-canary")
    made = namespace.await_("configmaps", "demo", lambda item: "/models/next" in item["data"]["sluice.yaml"])
    assert made
    assert (
        state(namespace) == {}
        or "canary"
        not in namespace.await_("inferenceservices", "demo", lambda item: "canary" not in item["status"])["status"]
    )
