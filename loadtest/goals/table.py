"""Figures as a table that reads in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.goals.goal import Figure, Goal

HEAD = "| goal | figure | seen | asked | |\n| --- | --- | --- | --- | --- |"


def rows(goal: Goal, figures: Sequence[Figure], load: tuple[float, float]) -> str:
    """The lines of one goal; ``load`` are the machine's load averages before and after."""
    title = f"{goal.id} {goal.title} (load {load[0]:.1f} to {load[1]:.1f})"
    names = [title, *([""] * (len(figures) - 1))]
    return "\n".join(
        f"| {name} | {figure.name} | {_number(figure.seen, figure.unit)} | {_asked(figure)} | {_verdict(figure)} |"
        for name, figure in zip(names, figures, strict=True)
    )


def failed(goal: Goal, error: Exception) -> str:
    """The line of a goal whose load could not be put on."""
    return f"| {goal.id} {goal.title} | could not be shown | {str(error).splitlines()[0][:120]} | | **missed** |"


def _asked(figure: Figure) -> str:
    if figure.bound is None:
        return ""
    words = "" if figure.asked == "exactly" else figure.asked + " "
    return words + _number(figure.bound, figure.unit)


def _verdict(figure: Figure) -> str:
    if figure.bound is None:
        return ""
    return "met" if figure.met else "**missed**"


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.3g}"
    return f"{digits} {unit}".strip()
