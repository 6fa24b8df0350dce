"""Alerts: each fires in promtool's hands when it must, and has a page that says what to do."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.helm import CHART, ROOT
from tests.deploy.prometheus import RULES, debian_binary

UNIT_TESTS = ROOT / "deploy" / "prometheus" / "rules_test.yaml"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: Any) -> str:
    done = subprocess.run(
        [debian_binary("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtools_unit_tests_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", UNIT_TESTS)


def test_rules_and_the_example_configuration_are_sound() -> None:
    assert promtool("check", "rules", *RULES).count("SUCCESS") == len(RULES)
    assert "FAILED" not in promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")


def test_every_alert_is_seen_to_fire() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_a_runbook_that_names_it(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    page = (ROOT / annotations["runbook_url"]).read_text("utf-8")
    assert f"`{alert['alert']}`" in page
    for heading in ("## What it means", "## Look", "## Do"):
        assert heading in page
