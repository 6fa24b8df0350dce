"""What a board is made of, and how it becomes Grafana's JSON by Grafana's own typed SDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

#: Every query is of the chosen replicas; `@` stands for this in the expressions. A label that a scrape does not have
#: (`namespace` outside of Kubernetes) matches `.*`.
SELECTOR: Final = 'namespace=~"$namespace",job=~"$job",instance=~"$instance"'
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

#: Of outcomes, everywhere the same.
COLORS: Final = {"completed": "green", "cancelled": "gray", "rejected": "yellow", "error": "red"}

Kind = Literal["lines", "stack", "number", "heat", "table"]


@dataclass(frozen=True)
class Query:
    """PromQL, and what its lines are called."""

    expr: str
    legend: str = ""

    @property
    def promql(self) -> str:
        """The expression as Grafana gets it."""
        return self.expr.replace("@", SELECTOR)


@dataclass(frozen=True)
class Panel:
    """One picture. ``unit`` is one of Grafana's; ``rare``: its series appear only when something has happened."""

    title: str
    unit: str
    queries: Sequence[Query]
    help: str
    kind: Kind = "lines"
    width: int = 12
    rare: bool = False


@dataclass(frozen=True)
class Board:
    """One page; ``slug`` is its file and, with a prefix, its stable id."""

    slug: str
    title: str
    help: str
    panels: Sequence[Panel]


def lines(title: str, unit: str, help: str, *queries: tuple[str, str], rare: bool = False, width: int = 12) -> Panel:
    """Lines over time: expressions with their legends."""
    return Panel(title, unit, [Query(*query) for query in queries], help, width=width, rare=rare)


def stack(title: str, unit: str, help: str, *queries: tuple[str, str], rare: bool = False, width: int = 12) -> Panel:
    """Areas that add up."""
    return Panel(title, unit, [Query(*query) for query in queries], help, "stack", width, rare)


def number(title: str, unit: str, help: str, expr: str) -> Panel:
    """One number now."""
    return Panel(title, unit, [Query(expr)], help, "number", 4)


def heat(title: str, unit: str, help: str, expr: str) -> Panel:
    """A histogram over time."""
    return Panel(title, unit, [Query(expr, "{{le}}")], help, "heat")


def rows(title: str, unit: str, help: str, expr: str) -> Panel:
    """A table of what is now."""
    return Panel(title, unit, [Query(expr)], help, "table")


def quantiles(metric: str, by: str = "", where: str = "") -> list[tuple[str, str]]:
    """The median, the 95th and the 99th percentile of a histogram, ``by`` a label if given."""
    labels = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    inside = f"{{@{',' + where if where else ''}}}"
    rate = f"sum by ({labels}) (rate({metric}_bucket{inside}[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {rate})", f"{name}p{q[2:].ljust(2, '0')}") for q in ("0.5", "0.95", "0.99")]


def to_json(board: Board) -> str:
    """The dashboard as Grafana imports it, the same text for the same board."""
    builder = (
        dashboard.Dashboard(f"Sluice / {board.title}")
        .uid(f"sluice-{board.slug}")
        .description(board.help)
        .tags(["sluice"])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name in ("namespace", "job", "instance"):
        builder.with_variable(_variable(name))
    builder.link(
        dashboard.DashboardLink("Sluice").type(DashboardLinkType.DASHBOARDS).tags(["sluice"]).as_dropdown(True)
    )
    for panel in board.panels:
        builder.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def _variable(name: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values(sluice_build_info, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> Any:
    builder = _BUILDERS[panel.kind](panel)
    builder.title(panel.title).description(panel.help).unit(panel.unit).datasource(SOURCE)
    builder.span(panel.width).height(4 if panel.kind == "number" else 8)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.promql).legend_format(query.legend or "__auto")
        target.ref_id(chr(ord("A") + index)).datasource(SOURCE)
        if panel.kind in ("number", "table"):
            target.instant()
        else:
            target.range()
        target.format(_FORMATS.get(panel.kind, PromQueryFormat.TIME_SERIES))
        builder.with_target(target)
    return builder


_FORMATS: Final = {"table": PromQueryFormat.TABLE, "heat": PromQueryFormat.HEATMAP}


def _lines(panel: Panel) -> Any:
    legend = common.VizLegendOptions().display_mode(models.LegendDisplayMode.TABLE).show_legend(True)
    legend.placement(models.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    tooltip = common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI)
    builder = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).min(0)
    if panel.kind == "stack":
        builder.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL).group("A")).fill_opacity(30)
    outcomes = any(query.legend == "{{outcome}}" for query in panel.queries)
    for name, color in COLORS.items() if outcomes else ():
        fixed = {"mode": "fixed", "fixedColor": color}
        builder.override_by_name(name, [DynamicConfigValue(id_val="color", value=fixed)])
    return builder


def _number(_panel: Panel) -> Any:
    return stat.Panel().graph_mode(models.BigValueGraphMode.NONE).color_mode(models.BigValueColorMode.NONE)


def _heat(_panel: Panel) -> Any:
    from grafana_foundation_sdk.builders.heatmap import HeatmapColorOptions

    return heatmap.Panel().color(HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64))


def _table(_panel: Panel) -> Any:
    return table.Panel()


_BUILDERS: Final = {"lines": _lines, "stack": _lines, "number": _number, "heat": _heat, "table": _table}
