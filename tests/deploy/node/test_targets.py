"""Whom the node's Prometheus is told to scrape."""

from __future__ import annotations

from typing import Any

from tests.deploy.node.targets import groups


def pod(name: str, phase: str = "Running", ip: str | None = "10.244.0.3", **annotations: str) -> dict[str, Any]:
    notes = {f"prometheus.io/{name}": value for name, value in annotations.items()}
    status = {"phase": phase} | ({"podIP": ip} if ip else {})
    return {"metadata": {"name": name, "namespace": "serving", "annotations": notes}, "status": status}


def test_a_running_pod_that_asks_for_it_is_scraped() -> None:
    assert groups([pod("demo", scrape="true", port="8000", path="/m")]) == [
        {
            "targets": ["10.244.0.3:8000"],
            "labels": {"namespace": "serving", "pod": "demo", "__metrics_path__": "/m"},
        }
    ]


def test_others_are_not() -> None:
    asked = {"scrape": "true", "port": "8000"}
    assert not groups([pod("silent"), pod("done", "Succeeded", **asked), pod("new", "Pending", None, **asked)])
    assert not groups([{"metadata": {"name": "bare", "namespace": "n"}, "status": {"phase": "Running"}}])
