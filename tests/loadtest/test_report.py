import pytest

from loadtest.machine import machine_facts
from loadtest.page import page
from loadtest.report import ROWS, Results, Visit, render
from loadtest.workload import Figures, Workload

TITLES = {"sluice": "ours", "vllm": "theirs", "direct": "no HTTP"}


def figures(**known: float) -> Figures:
    return {row.key: 1.0 for row in ROWS} | known


def results(*visits: tuple[str, Figures]) -> Results:
    seen: dict[str, int] = {}
    numbered = []
    for system, taken in visits:
        seen[system] = seen.get(system, 0) + 1
        numbered.append(Visit(system, seen[system], 0.0, taken))
    return Results(numbered)


@pytest.mark.parametrize(("ours", "met"), [(50.0, True), (51.0, False)])
def test_cpu_per_token_may_be_half_of_the_peers(ours: float, met: bool) -> None:
    compared = results(("sluice", figures(cpu_us_per_token=ours)), ("vllm", figures(cpu_us_per_token=100.0)))
    verdicts = {verdict.goal.key: verdict.met for verdict in compared.verdicts()}
    assert verdicts["cpu_us_per_token"] is met


@pytest.mark.parametrize(("ours", "met"), [(100.0, True), (99.0, False)])
def test_throughput_must_not_be_lower_than_the_peers(ours: float, met: bool) -> None:
    compared = results(("sluice", figures(tokens_per_s=ours)), ("vllm", figures(tokens_per_s=100.0)))
    assert {verdict.goal.key: verdict.met for verdict in compared.verdicts()}["tokens_per_s"] is met


@pytest.mark.parametrize(("ours", "met"), [(5.0, True), (5.01, False)])
def test_ttft_may_be_a_millisecond_more_than_direct(ours: float, met: bool) -> None:
    compared = results(("sluice", figures(ttft1_p50_ms=ours)), ("direct", {"ttft1_p50_ms": 4.0}))
    (verdict,) = compared.verdicts()
    assert verdict.met is met


def test_one_lucky_round_does_not_meet_a_target() -> None:
    pairs = [(10.0, 100.0), (80.0, 100.0), (90.0, 100.0)]
    visits = [
        visit
        for ours, theirs in pairs
        for visit in (("sluice", figures(cpu_us_per_token=ours)), ("vllm", figures(cpu_us_per_token=theirs)))
    ]
    verdict = next(v for v in results(*visits).verdicts() if v.goal.key == "cpu_us_per_token")
    assert (verdict.value.median, verdict.met) == (0.8, False)


def test_a_system_that_was_not_measured_gives_no_verdict() -> None:
    assert results(("sluice", figures())).verdicts() == []


def test_the_report_shows_medians_extremes_ratios_and_targets() -> None:
    visits = [("sluice", figures(cpu_us_per_token=30.0)), ("vllm", figures(cpu_us_per_token=60.0))]
    visits += [("sluice", figures(cpu_us_per_token=40.0)), ("vllm", figures(cpu_us_per_token=100.0))]
    report = render(results(*visits), titles=TITLES)
    assert "35.0 (30.0 - 40.0)" in report
    assert "0.45 (0.40 - 0.50)" in report
    assert "at most 0.5" in report
    assert "met" in report


def test_a_system_without_a_model_is_not_set_in_relation_to_one_with() -> None:
    compared = results(("sluice", figures()), ("vllm", figures()), ("direct", figures(tokens_per_s=77.0)))
    report = render(compared, titles=TITLES, alone={"direct"})
    assert "77" in report
    (heading,) = [line for line in report.splitlines() if line.startswith("ratio to vllm")]
    assert "sluice" in heading
    assert "direct" not in heading


def test_a_figure_that_was_not_taken_is_a_dash() -> None:
    report = render(results(("direct", {"ttft1_p50_ms": 4.0})), titles=TITLES)
    line = next(line for line in report.splitlines() if "tokens/s" in line)
    assert line.split()[-1] == "-"


def test_the_page_says_what_was_run_and_what_came_of_it() -> None:
    written = page("tokens/s 12.5", machine_facts(), Workload(streams_each=7), rounds=1)
    assert "7 streams of 128 tokens" in written
    assert "`max_model_len=1024`" in written
    assert "12.5" in written
