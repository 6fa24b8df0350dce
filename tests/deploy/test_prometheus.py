"""Every query of every board and rule, asked of a real Prometheus that scraped a loaded Sluice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Panel
from engine.toy import make_toy_model
from tests.deploy.loaded import Observed, observed
from tests.deploy.prometheus import RULES, names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PANELS = [pytest.param(panel, id=f"{board.slug}: {panel.title}") for board in BOARDS for panel in board.panels]
#: What even this load does not provoke.
QUIET = {
    "Failures of the shared store",
    "JWTs",
    "Looks without a verdict",
    "Evaluators asked",
    "Agents",
    "Server-side tools",
    "Images",
    "Models come and go",
    "Traces",
    "Computed here instead",
    "Failures of peers",
    "Time of an image",
}


@pytest.fixture(scope="module")
def seen(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    model = make_toy_model(tmp_path_factory.mktemp("toy"), default_model)
    with observed(model, tmp_path_factory.mktemp("observed")) as seen:
        yield seen


@pytest.mark.parametrize("panel", PANELS)
def test_the_queries_of_a_panel_return_data(seen: Observed, panel: Panel) -> None:
    for query in panel.queries:
        found = seen.lines(query.promql)
        assert found or panel.title in QUIET, query.promql


def test_the_rules_are_evaluated_without_error(seen: Observed) -> None:
    groups = seen.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == sum(
        len(group["rules"]) for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    )
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not seen.lines(name)] == []


def test_every_metric_that_boards_and_rules_name_is_exported(seen: Observed) -> None:
    exprs = [query.promql for board in BOARDS for panel in board.panels for query in panel.queries]
    for file in RULES:
        groups = yaml.safe_load(file.read_text("utf-8"))["groups"]
        exprs += [rule["expr"] for group in groups for rule in group["rules"]]
    exported = set(seen.prometheus.get("label/__name__/values"))
    # A labelled metric without a label yet has its HELP all the same.
    declared = set(seen.prometheus.get("metadata"))
    declared |= {f"{name}_{part}" for name in declared for part in ("bucket", "sum", "count", "total")}
    assert names(exprs) - exported - declared == set()
    assert "sluice_no_such_metric" in names(["rate(sluice_no_such_metric[5m])"])


def test_what_each_tenant_used_adds_up_to_the_whole(seen: Observed) -> None:
    (_, by_tenant), (_, whole) = (
        seen.lines(f"sum({expr})")[0]
        # What Sluice asks itself has rows and tenants of its own, and is not among the tokens of requests.
        for expr in (
            'sluice_tenant_tokens_total{kind="completion",tenant!~"prefill|shadow"}',
            'sluice_tokens_total{kind="completion"}',
        )
    )
    assert by_tenant[-1][1] == whole[-1][1] > 0
