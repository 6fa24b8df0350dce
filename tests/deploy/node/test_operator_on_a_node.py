"""The operator with pods that run: installed by its manifests, a service made, scaled, given a canary, and deleted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.deploy.helm import ROOT
from tests.deploy.node.node import SHARED_CPU, Load, Node, Object, chat, loaded, running, say, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SPACE: Final = "serving"
STABLE: Final = "serving.sluice.dev/track=stable"
CANARY: Final = "serving.sluice.dev/track=canary"
ENGINE: Final = {"max_model_len": 2048, "max_num_seqs": 16}


@pytest.fixture(scope="module")
def operator(node: Node) -> Iterator[Node]:
    """Installed as its page says, but by a plain apply: the server is too old to know CEL, and is strict otherwise."""
    began = time.monotonic()
    node.kubectl("apply", "--validate=false", "-k", ROOT / "deploy" / "operator" / "manifests")
    node.kubectl(
        "rollout", "status", "deployment/sluice-operator", "--namespace", "sluice-operator", "--timeout", "300s"
    )
    say("operator", seconds=round(time.monotonic() - began, 1))
    node.kubectl("create", "namespace", SPACE)
    yield node
    node.kubectl("delete", "slis", "--all", "--namespace", SPACE, "--timeout=300s", check=False)


def service(node: Node) -> Object:
    return {
        "apiVersion": "serving.sluice.dev/v1alpha1", "kind": "InferenceService",
        "metadata": {"name": "demo", "namespace": SPACE},
        "spec": {
            "model": {"source": "sample:smollm2-135m-instruct", "version": "v1", "engine": ENGINE},
            "resources": SHARED_CPU,
            # Three pods on two cores: threads that wait for one another must not spin.
            "pod": {
                "env": [
                    {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"},
                    {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"},
                ]
            },
            "metrics": {"prometheusURL": f"http://{node.ip}:9090"},
        },
    }  # fmt: skip


def change(node: Node, **spec: Any) -> None:
    node.kubectl("patch", "slis", "demo", "--namespace", SPACE, "--type=merge", "--patch", json.dumps({"spec": spec}))


def status(node: Node) -> Object:
    found: Object = node.get(SPACE, "slis", "demo").get("status") or {}
    return found


def ready(node: Node, selector: str, number: int) -> list[str]:
    """Waits for so many pods."""

    def look() -> list[str] | None:
        found = running(node.pods(SPACE, selector))
        return found if len(found) == number else None

    names: list[str] = wait_for(look, f"{number} pods of {selector}")
    return names


def answered(node: Node) -> dict[str, float]:
    """Completed requests by pod, as Prometheus has seen them."""
    question = 'sum by (pod) (sluice_requests_total{namespace="serving",outcome="completed"})'
    answer = httpx.get(f"http://{node.ip}:9090/api/v1/query", params={"query": question}, trust_env=False).json()
    return {line["metric"]["pod"]: float(line["value"][1]) for line in answer["data"]["result"]}


def test_a_service_becomes_ready_and_answers(operator: Node) -> None:
    began = time.monotonic()
    operator.kubectl("apply", "-f", "-", stdin=json.dumps(service(operator)))
    operator.kubectl("wait", "slis/demo", "--namespace", SPACE, "--for=condition=Ready", "--timeout=850s")
    say("service ready", seconds=round(time.monotonic() - began, 1))
    key = operator.secret(SPACE, "demo-api-key", "api-key")
    answer = chat(f"http://{operator.address(SPACE, 'demo')}:8000", key, "demo")
    assert answer["choices"][0]["message"]["content"]


def test_scaling_adds_a_pod_that_answers(operator: Node) -> None:
    began = time.monotonic()
    change(operator, replicas=2)
    first, second = ready(operator, STABLE, 2)
    say("scaled to 2", seconds=round(time.monotonic() - began, 1))
    url, key = f"http://{operator.address(SPACE, 'demo')}:8000", operator.secret(SPACE, "demo-api-key", "api-key")
    for _ in range(24):
        chat(url, key, "demo")
    wait_for(lambda: answered(operator).keys() >= {first, second}, "both pods to have answered", 60)
    say("both answer", **answered(operator))


async def test_a_slow_canary_gets_its_share_and_is_rolled_back(operator: Node) -> None:
    stable = ready(operator, STABLE, 2)
    url, key = f"http://{operator.address(SPACE, 'demo')}:8000", operator.secret(SPACE, "demo-api-key", "api-key")
    load = Load(url, key, "demo")
    began = time.monotonic()
    # One request at a time where the stable pods batch sixteen: it answers, but who comes second waits.
    rules = {"minRequests": 20, "maxLatencyRatio": 1.5, "windowSeconds": 60}
    canary = {"version": "v2", "engine": {**ENGINE, "max_num_seqs": 1}, "weight": 33, "rules": rules}
    async with loaded(load):
        change(operator, canary=canary)
        (pod,) = await asyncio.to_thread(ready, operator, CANARY, 1)
        say("canary ready", seconds=round(time.monotonic() - began, 1), share=status(operator)["canary"]["shareOfPods"])
        before = answered(operator)
        split: dict[str, float] = {}

        def rolled_back() -> Object | None:
            split.update(answered(operator))
            found: Object = status(operator)["canary"]
            return found if found["phase"] == "RolledBack" else None

        said = await asyncio.to_thread(wait_for, rolled_back, "the canary to be rolled back")
        say("rolled back", seconds=round(time.monotonic() - began, 1), reason=said["reason"], message=said["message"])
        await asyncio.to_thread(wait_for, lambda: not operator.pods(SPACE, CANARY), "the canary's pod to go")
    grown = {name: split[name] - before.get(name, 0) for name in (*stable, pod)}
    say("canary", split=grown, fresh=dict(load.fresh), kept=dict(load.kept))
    assert said["reason"] == "RuleBroken"
    assert "timeToFirstToken" in said["message"]
    assert all(number > 0 for number in grown.values())
    assert set(load.fresh) == {"done"}
    assert "cut" not in load.kept
    assert ready(operator, STABLE, 2) == stable
    reasons = {event["reason"] for event in operator.get(SPACE, "events")["items"]}
    assert "CanaryRolledBack" in reasons


def test_deleting_it_takes_everything_away(operator: Node) -> None:
    began = time.monotonic()
    operator.kubectl("delete", "slis", "demo", "--namespace", SPACE, "--timeout=300s")
    kinds = "pods,services,deployments,replicasets,configmaps,secrets,serviceaccounts,poddisruptionbudgets"
    left = operator.get(SPACE, kinds, "--selector", "app.kubernetes.io/managed-by=sluice-operator")["items"]
    say("deleted", seconds=round(time.monotonic() - began, 1))
    assert [item["metadata"]["name"] for item in left] == []
    assert not operator.pods(SPACE, "")
