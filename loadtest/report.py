"""The comparison as a reader sees it: figures per system, ratios to the peer, targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from loadtest.figures import Spread, paired_difference, paired_ratio, spread
from loadtest.workload import Figures


@dataclass(frozen=True, slots=True)
class Visit:
    """One start of one system. ``load_before`` is the machine's 1-minute load average before it."""

    system: str
    round: int
    load_before: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Row:
    """A figure by its key, as it is labelled and formatted."""

    key: str
    label: str
    format: str


ROWS: Final = (
    Row("tokens_per_s", "64 streams: tokens/s", ",.0f"),
    Row("cpu_us_per_token", "  front-end CPU per token, us", ".1f"),
    Row("ttft_p50_ms", "  TTFT p50, ms", ".1f"),
    Row("ttft_p99_ms", "  TTFT p99, ms", ".1f"),
    Row("gap_p50_ms", "  between token events p50, ms", ".2f"),
    Row("gap_p99_ms", "  between token events p99, ms", ".2f"),
    Row("tokens_per_event", "  tokens per event", ".3f"),
    Row("generator_busy", "  load generator, cores busy", ".2f"),
    Row("requests_per_s", "1-token requests: requests/s", ",.0f"),
    Row("cpu_us_per_request", "  front-end CPU per request, us", ",.0f"),
    Row("ttft1_p50_ms", "1 stream: TTFT p50, ms", ".2f"),
    Row("ttft1_p99_ms", "  TTFT p99, ms", ".2f"),
    Row("rss_mib", "front-end RSS, MiB", ",.0f"),
)
_RATIO_KEYS: Final = (
    "tokens_per_s",
    "cpu_us_per_token",
    "ttft_p50_ms",
    "gap_p50_ms",
    "requests_per_s",
    "cpu_us_per_request",
    "ttft1_p50_ms",
    "rss_mib",
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What Sluice is to reach against another system, compared round by round."""

    label: str
    key: str
    against: str
    how: Literal["ratio", "difference"]
    bound: Literal["at most", "at least"]
    limit: float


GOALS: Final = (
    Goal("CPU per streamed token / vllm serve", "cpu_us_per_token", "vllm", "ratio", "at most", 0.5),
    Goal("CPU per 1-token request / vllm serve", "cpu_us_per_request", "vllm", "ratio", "at most", 0.6),
    Goal("TTFT p50 at 1 stream - direct AsyncLLM, ms", "ttft1_p50_ms", "direct", "difference", "at most", 1.0),
    Goal("tokens/s at 64 streams / vllm serve", "tokens_per_s", "vllm", "ratio", "at least", 1.0),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a goal."""

    goal: Goal
    value: Spread

    @property
    def met(self) -> bool:
        median, limit = self.value.median, self.goal.limit
        return median <= limit if self.goal.bound == "at most" else median >= limit


class Results:
    """All visits of a comparison."""

    def __init__(self, visits: Sequence[Visit]) -> None:
        self.visits = visits
        self.systems = list(dict.fromkeys(visit.system for visit in visits))

    def samples(self, system: str, key: str) -> list[float]:
        """A figure of a system, one value per round; empty if it was not taken."""
        return [visit.figures[key] for visit in self.visits if visit.system == system and key in visit.figures]

    def verdicts(self) -> list[Verdict]:
        """One verdict for every goal whose two systems were measured."""
        return [Verdict(goal, value) for goal in GOALS if (value := self._value(goal)) is not None]

    def _value(self, goal: Goal) -> Spread | None:
        ours, theirs = self.samples("sluice", goal.key), self.samples(goal.against, goal.key)
        if not ours or len(ours) != len(theirs):
            return None
        return paired_ratio(ours, theirs) if goal.how == "ratio" else paired_difference(ours, theirs)


def render(results: Results, *, titles: Mapping[str, str], baseline: str = "vllm", alone: Collection[str] = ()) -> str:
    """The whole report as plain text: medians over rounds with (minimum - maximum).

    Systems in ``alone`` have no model behind them; their figures are shown but not set in relation to ``baseline``.
    """
    parts = [_legend(results, titles), _figures(results)]
    if baseline in results.systems:
        parts.append(_ratios(results, baseline, alone))
    if verdicts := results.verdicts():
        parts.append(_targets(verdicts))
    return "\n\n".join(part for part in parts if part)


def _legend(results: Results, titles: Mapping[str, str]) -> str:
    return "\n".join(f"{system:8}{titles[system]}" for system in results.systems)


def _figures(results: Results) -> str:
    lines = [["median (min - max)", *results.systems]]
    for row in ROWS:
        cells = [_cell(results.samples(system, row.key), row.format) for system in results.systems]
        lines.append([row.label, *cells])
    return _table(lines)


def _ratios(results: Results, baseline: str, leave_out: Collection[str]) -> str:
    skipped = {baseline, *leave_out}
    others = [name for name in results.systems if name not in skipped and results.samples(name, "tokens_per_s")]
    if not others:
        return ""
    labels = {row.key: row.label.strip() for row in ROWS}
    labels["ttft_p50_ms"], labels["gap_p50_ms"] = "TTFT p50, 64 streams", "between token events p50"
    lines = [[f"ratio to {baseline}, by round", *others]]
    for key in _RATIO_KEYS:
        theirs = results.samples(baseline, key)
        ratios = [_ratio_cell(results.samples(system, key), theirs) for system in others]
        lines.append([labels[key].split(", us")[0].split(", ms")[0], *ratios])
    return _table(lines)


def _targets(verdicts: Sequence[Verdict]) -> str:
    lines = [["target", "measured", "asked", ""]]
    for verdict in verdicts:
        goal = verdict.goal
        lines.append(
            [
                goal.label,
                _format(verdict.value, ".2f"),
                f"{goal.bound} {goal.limit}",
                "met" if verdict.met else "MISSED",
            ]
        )
    return _table(lines)


def _cell(samples: Sequence[float], fmt: str) -> str:
    return _format(spread(samples), fmt) if samples else "-"


def _ratio_cell(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return _format(paired_ratio(ours, theirs), ".2f") if ours and len(ours) == len(theirs) else "-"


def _format(value: Spread, fmt: str) -> str:
    middle, low, high = (f"{number:{fmt}}" for number in (value.median, value.low, value.high))
    return middle if low == high else f"{middle} ({low} - {high})"


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "-" * max(map(len, rows)), *rows[1:]])
