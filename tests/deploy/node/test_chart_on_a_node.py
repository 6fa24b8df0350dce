"""The chart with pods that run: installed with the values of the demo, asked, upgraded under load, removed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.helm import CHART
from tests.deploy.node.node import MODEL, SHARED_CPU, Load, Node, chat, loaded, running, say, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SPACE: Final = "models"
RELEASE: Final = "app.kubernetes.io/instance=sluice"
SELECTOR: Final = "app.kubernetes.io/component=server"
DEMO: Final = CHART / "examples" / "values-cpu-demo.yaml"
#: policy/v1 came with 1.21.
OLD: Final = {"podDisruptionBudget": {"enabled": False}, "resources": SHARED_CPU}


def apply(node: Node, verb: str, chart: Path, **values: Any) -> float:
    """`helm install` or `helm upgrade`, with ``--wait`` and the demo's values; the seconds it took."""
    began = time.monotonic()
    said = ("--namespace", SPACE, "--create-namespace", "--values", DEMO, "--values", "-", "--wait", "--timeout", "14m")
    node.run("helm4", verb, "sluice", chart, *said, stdin=json.dumps({**OLD, **values}))
    return round(time.monotonic() - began, 1)


def uninstall(node: Node, check: bool = True) -> None:
    node.run("helm4", "uninstall", "sluice", "--namespace", SPACE, "--wait", "--timeout", "5m", check=check)


@pytest.fixture(scope="module")
def release(node: Node, old_chart: Path) -> Iterator[Node]:
    """`helm install --wait`, as the page for Kubernetes says."""
    say("helm install --wait", seconds=apply(node, "install", old_chart))
    yield node
    uninstall(node, check=False)


def test_the_pod_runs_without_rights(release: Node) -> None:
    (pod,) = release.pods(SPACE, SELECTOR)
    assert running([pod])
    (status,) = pod["status"]["containerStatuses"]
    assert (status["ready"], status["restartCount"]) == (True, 0)
    name = pod["metadata"]["name"]

    def inside(script: str) -> str:
        return release.kubectl("exec", "--namespace", SPACE, name, "--", "sh", "-c", script).strip()

    assert inside("id -u; id -g") == "10001\n10001"
    assert "Read-only file system" in inside("touch /opt/sluice/x 2>&1; true")
    assert inside("grep -E '^(CapEff|NoNewPrivs)' /proc/1/status").split() == [
        "CapEff:", "0000000000000000", "NoNewPrivs:", "1",
    ]  # fmt: skip
    assert not inside("ls /var/run/secrets/kubernetes.io 2>/dev/null; true")


def test_helms_own_test_passes(release: Node) -> None:
    release.run("helm4", "test", "sluice", "--namespace", SPACE, "--timeout", "5m")


def test_a_chat_through_the_service(release: Node) -> None:
    key = release.secret(SPACE, "sluice-api-key", "api-key")
    answer = chat(f"http://{release.address(SPACE, 'sluice')}:8000", key, MODEL)
    assert answer["choices"][0]["message"]["content"]
    say("chat", **answer["usage"])


async def test_no_stream_is_cut_by_a_rolling_upgrade(release: Node, old_chart: Path) -> None:
    before = running(release.pods(SPACE, SELECTOR))
    key = release.secret(SPACE, "sluice-api-key", "api-key")
    load = Load(f"http://{release.address(SPACE, 'sluice')}:8000", key, MODEL)
    async with loaded(load):
        seconds = await asyncio.to_thread(apply, release, "upgrade", old_chart, podAnnotations={"round": "two"})
        # The old pod is among the living until its streams are done: the clients stay until it has gone.
        await asyncio.to_thread(wait_for, lambda: len(release.pods(SPACE, SELECTOR)) == 1, "the old pod to go")
        await asyncio.sleep(3)
    after = running(release.pods(SPACE, SELECTOR))
    say("rolling upgrade", seconds=seconds, fresh=dict(load.fresh), kept=dict(load.kept))
    assert len(after) == 1
    assert not set(before) & set(after)
    assert set(load.fresh) == {"done"}
    # Who keeps a connection asks the old pod until it closes it: a request that meets the close is refused as a whole.
    assert "cut" not in load.kept


def test_uninstall_leaves_nothing_that_runs(release: Node) -> None:
    uninstall(release)
    wait_for(lambda: not release.pods(SPACE, RELEASE), "the pods to go")
    assert release.get(SPACE, "services,deployments,secrets", "--selector", RELEASE)["items"] == []
