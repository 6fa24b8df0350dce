"""Writes the boards into the chart: `python -m deploy.grafana.build`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import to_json

DIRECTORY: Final = Path(__file__).parents[1] / "helm" / "sluice" / "dashboards"


def main() -> None:
    """Write every board; a file without a board goes."""
    DIRECTORY.mkdir(exist_ok=True)
    for file in DIRECTORY.glob("*.json"):
        file.unlink()
    for board in BOARDS:
        (DIRECTORY / f"{board.slug}.json").write_text(to_json(board), "utf-8")


if __name__ == "__main__":
    main()
