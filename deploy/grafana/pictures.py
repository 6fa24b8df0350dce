"""Pictures of the boards from real query results: `python -m deploy.grafana.pictures DIRECTORY` (needs matplotlib).

Starts what `tests/deploy/loaded.py` starts, asks Prometheus every query of every board, and draws the panels
where Grafana would put them. There is no Grafana here: what is shown is the data, in a plain likeness of the board.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
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
from tests.deploy.loaded import Observed, observed

SECONDS = 45.0
#: Between the end of the load and the end of what was scraped.
SETTLED_SECONDS = 5.0
#: A row of Grafana's grid, and the line above it all.
ROW_INCHES = 0.36
TITLE_INCHES = 0.5


def _written(value: float, unit: str) -> str:
    """A number as Grafana writes it in that unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g}%" if value < 10 else f"{value * 100:.0f}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    if unit == "bytes":
        scale = next(power for power in (3, 2, 1, 0) if abs(value) >= 1024**power or not power)
        return f"{value / 1024**scale:.3g} {('B', 'KiB', 'MiB', 'GiB')[scale]}"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return number + {"reqps": " req/s", "ops": " /s"}.get(unit, "")


def draw(board: Board, seen: Observed, file: Path) -> None:
    """One board as a picture."""
    panels = json.loads(to_json(board))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 15.0, rows * ROW_INCHES + TITLE_INCHES
    figure = plt.figure(figsize=(width, height), facecolor="#f4f5f5", dpi=72)
    figure.text(0.15 / width, 1 - 0.3 / height, f"Sluice / {board.title}", fontsize=13, weight="bold")
    for panel, placed in zip(board.panels, panels, strict=True):
        place = placed["gridPos"]
        left, bottom = place["x"] / 24 * width + 0.75, (rows - place["y"] - place["h"]) * ROW_INCHES + 0.35
        size = (place["w"] / 24 * width - 0.95, place["h"] * ROW_INCHES - 0.75)
        axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
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
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#888", transform=axes.transAxes)
    elif panel.kind == "number":
        value = _written(found[0][2][-1][1], panel.unit)
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
    axes.yaxis.set_major_formatter(lambda value, _position: _written(value, panel.unit) if value else "0")
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    # Above the highest line there is room for the names.
    axes.set_ylim(top=axes.get_ylim()[1] * 1.35 or 1.0)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[:12], names[:12], fontsize=6, loc="upper left", ncol=3, framealpha=0.7)


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
        with observed(model, Path(scratch), seconds=SECONDS) as seen:
            # What is asked for the moment is asked while there still is a load.
            loaded = replace(seen, end=seen.end - SETTLED_SECONDS)
            for board in BOARDS:
                draw(board, loaded, directory / f"{board.slug}.png")


if __name__ == "__main__":
    main()
