"""Pictures of the boards from real query results: `python -m deploy.grafana.pictures DIRECTORY` (needs matplotlib).

Starts what `tests/deploy/test_prometheus.py` starts, asks Prometheus every query of every board, and draws the panels
where Grafana would put them. There is no Grafana here: what is shown is the data, in a plain likeness of the board.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import dates

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import COLORS, Board, Panel, to_json
from engine.samples import default_cache_root, ensure_default_model
from engine.toy import make_toy_model
from tests.deploy.prometheus import Observed, observed

UNITS = {
    "s": " s", "reqps": " req/s", "ops": " /s", "percentunit": "", "short": "", "bytes": " B",
}  # fmt: skip


def draw(board: Board, seen: Observed, file: Path) -> None:
    """One board as a picture."""
    panels = json.loads(to_json(board))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(15, rows * 0.36 + 0.5), facecolor="#f4f5f5", dpi=72)
    figure.suptitle(f"Sluice / {board.title}", x=0.01, y=0.995, ha="left", va="top", fontsize=13, weight="bold")
    for panel, placed in zip(board.panels, panels, strict=True):
        place = placed["gridPos"]
        top = 1 - 0.5 / (rows * 0.36 + 0.5)
        axes = figure.add_axes(
            (
                place["x"] / 24 + 0.03,
                top * (1 - (place["y"] + place["h"]) / rows) + 0.02,
                place["w"] / 24 - 0.045,
                top * place["h"] / rows - 0.045,
            )
        )
        _panel(axes, panel, seen)
    figure.savefig(file, facecolor=figure.get_facecolor())
    plt.close(figure)


def _panel(axes: Any, panel: Panel, seen: Observed) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    found = [(query, labels, points) for query in panel.queries for labels, points in seen.lines(query.promql)]
    if panel.kind in ("number", "table"):
        axes.axis("off")
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#888", transform=axes.transAxes)
    elif panel.kind == "number":
        last = found[0][2][-1][1]
        value = f"{last:.1%}" if panel.unit == "percentunit" else f"{last:.3g}{UNITS[panel.unit]}"
        axes.text(0.5, 0.4, value, ha="center", va="center", fontsize=20, transform=axes.transAxes)
    elif panel.kind == "table":
        cells = [[*labels.values(), f"{points[-1][1]:.4g}"] for _query, labels, points in found]
        columns = [*found[0][1], "value"]
        table = axes.table(cellText=cells, colLabels=columns, loc="upper center", cellLoc="left")
        table.set_fontsize(8)
    elif panel.kind == "heat":
        _heat(axes, found)
    else:
        _lines(axes, panel, found)


def _lines(axes: Any, panel: Panel, found: list[Any]) -> None:
    named = [(_legend(query.legend, labels), points) for query, labels, points in found]
    if panel.kind == "stack":
        moments = sorted({when for _name, points in named for when, _value in points})
        series = [[dict(map(tuple, points)).get(when, 0.0) for when in moments] for _name, points in named]
        labels = [name for name, _points in named]
        colors = [COLORS.get(name, f"C{number}") for number, name in enumerate(labels)]
        axes.stackplot([_time(when) for when in moments], series, labels=labels, colors=colors, alpha=0.6)
    else:
        for name, points in named:
            axes.plot([_time(when) for when, _value in points], [value for _when, value in points], lw=1.2, label=name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes.set_ylabel(UNITS[panel.unit].strip(), fontsize=7)
    axes.legend(fontsize=6, loc="upper left", ncol=2, framealpha=0.7)


def _heat(axes: Any, found: list[Any]) -> None:
    series = sorted(((float(labels["le"].replace("+Inf", "inf")), points) for _query, labels, points in found))
    moments = sorted({when for _bound, points in series for when, _value in points})
    grid, below = [], [0.0] * len(moments)
    for _bound, points in series:
        values = dict(map(tuple, points))
        now = [values.get(when, 0.0) for when in moments]
        grid.append([max(0.0, a - b) for a, b in zip(now, below, strict=True)])
        below = now
    axes.imshow(grid, aspect="auto", origin="lower", cmap="Blues")
    axes.set_yticks(range(len(series)), [f"{bound:g}" for bound, _points in series], fontsize=6)
    axes.set_xticks([])


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def _time(when: float) -> datetime:
    return datetime.fromtimestamp(when)


def main() -> None:
    """Draw every board."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = make_toy_model(Path(scratch) / "model", ensure_default_model(default_cache_root(), None))
        with observed(model, Path(scratch), seconds=45) as seen:
            for board in BOARDS:
                draw(board, seen, directory / f"{board.slug}.png")


if __name__ == "__main__":
    main()
