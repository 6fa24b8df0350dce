"""What becomes of a canary, on every path, and what is asked of Prometheus about it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import promql_parser
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sluice_operator import metrics
from sluice_operator.canary import Pods, Seen, State, advance, broken, plan, steps
from sluice_operator.metrics import MetricsUnavailable, Prometheus
from sluice_operator.spec import Canary
from tests.deploy.cluster import served
from tests.deploy.operator.services import CANARY, service

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = Seen(100, 1.0, 1.0)


def canary(**fields: Any) -> Canary:
    return Canary.model_validate({"version": "v2", **fields})


TWO_STEPS = canary(steps=[{"weight": 5, "seconds": 60}, {"weight": 50, "seconds": 60}], rules={"maxLatencyRatio": 1.5})


def after(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def at(phase: Any, step: int = 0, version: str = "v2") -> State:
    return State(version, phase, START, step, "Judged", "so")


def test_a_good_one_goes_step_by_step_and_waits_for_its_user() -> None:
    state = advance(TWO_STEPS, None, Pods.STARTING, None, START)
    assert (state.phase, plan(TWO_STEPS, state, 19)) == ("Starting", plan(TWO_STEPS, at("Starting"), 19))
    found = plan(TWO_STEPS, state, 19)
    assert found is not None
    assert (found.weight, found.replicas) == (0, 1)  # no share before its pods are ready
    state = advance(TWO_STEPS, state, Pods.STARTING, None, after(500))
    assert state.phase == "Starting"
    state = advance(TWO_STEPS, state, Pods.READY, None, after(500))
    assert (state.phase, state.step, state.since) == ("Progressing", 0, after(500))
    assert advance(TWO_STEPS, state, Pods.READY, GOOD, after(559)).step == 0
    state = advance(TWO_STEPS, state, Pods.READY, GOOD, after(560))
    assert (state.phase, state.step, state.since) == ("Progressing", 1, after(560))
    state = advance(TWO_STEPS, state, Pods.READY, GOOD, after(700))
    assert (state.phase, state.step) == ("Passed", 1)
    found = plan(TWO_STEPS, state, 4)
    assert found is not None
    assert (found.weight, found.replicas) == (50, 4)


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Seen(100, 0.5, 1.0), "success rate 0.5000 of 100 requests is below 0.99"),
        (Seen(100, 1.0, 1.51), "timeToFirstToken is 1.51 times"),
        (Seen(20, 0.98, None), "success rate"),
    ],
)
@pytest.mark.parametrize("phase", ["Progressing", "Passed"])
def test_a_broken_rule_rolls_back_with_figures(phase: str, seen: Seen, word: str) -> None:
    state = advance(TWO_STEPS, at(phase), Pods.READY, seen, after(1))
    assert (state.phase, state.reason) == ("RolledBack", "RuleBroken")
    assert word in state.message
    assert plan(TWO_STEPS, state, 4) is None


@pytest.mark.parametrize("seen", [Seen(19, 0.0, 9.0), Seen(0, None, None), Seen(100, 1.0, None), GOOD])
def test_too_few_requests_and_nothing_to_compare_break_no_rule(seen: Seen) -> None:
    assert broken(TWO_STEPS.rules, seen) is None


@pytest.mark.parametrize("phase", ["Starting", "Progressing", "Passed"])
def test_pods_that_do_not_become_ready_roll_back(phase: str) -> None:
    state = advance(TWO_STEPS, at(phase), Pods.FAILED, GOOD, after(1))
    assert (state.phase, state.reason) == ("RolledBack", "NotReady")


def test_rolled_back_is_final_for_a_version_and_no_other() -> None:
    gone = at("RolledBack")
    assert advance(TWO_STEPS, gone, Pods.READY, GOOD, after(10**6)) == gone
    again = advance(canary(version="v3"), gone, Pods.READY, GOOD, after(1))
    assert (again.version, again.phase) == ("v3", "Starting")


def test_without_metrics_or_requests_it_stays_where_it_is() -> None:
    for phase in ("Progressing", "Passed"):
        blind = advance(TWO_STEPS, at(phase), Pods.READY, None, after(10**6))
        assert (blind.phase, blind.step, blind.reason) == (phase, 0, "MetricsUnavailable")
        quiet = advance(TWO_STEPS, at(phase), Pods.READY, Seen(3, 0.0, None), after(10**6))
        assert (quiet.phase, quiet.step, quiet.reason) == (phase, 0, "TooFewRequests")


@given(st.integers(1, 99), st.integers(0, 200))
def test_the_number_of_pods_is_the_nearest_to_the_weight(weight: int, stable: int) -> None:
    found = plan(canary(weight=weight), at("Progressing"), stable)
    assert found is not None
    assert found.replicas >= 1

    def distance(pods: int) -> float:
        return abs(pods - stable * weight / (100 - weight))

    assert all(
        distance(found.replicas) <= distance(other) for other in (found.replicas + 1, max(1, found.replicas - 1))
    )


events = st.tuples(
    st.sampled_from(list(Pods)),
    st.one_of(st.none(), st.builds(Seen, st.integers(0, 200), st.floats(0, 1), st.floats(0.5, 3))),
    st.integers(0, 200),
)


@given(st.lists(events, max_size=30))
def test_in_any_history_nothing_skips_a_step_or_comes_back(history: list[tuple[Pods, Seen | None, int]]) -> None:
    state, now = advance(TWO_STEPS, None, Pods.STARTING, None, START), START
    for pods, seen, seconds in history:
        now += timedelta(seconds=seconds)
        new = advance(TWO_STEPS, state, pods, seen, now)
        if state.phase == "RolledBack":
            assert new == state
        elif new.phase != "RolledBack":
            assert new.step - state.step in (0, 1)
            order = ["Starting", "Progressing", "Passed"]
            assert order.index(new.phase) >= order.index(state.phase)
            moved = (new.step, new.phase) != (state.step, state.phase)
            if moved and state.phase != "Starting":
                assert (now - state.since).total_seconds() >= steps(TWO_STEPS)[state.step].seconds
                assert seen is not None
                assert seen.requests >= TWO_STEPS.rules.min_requests
        assert State.read({"canary": new.write()}) == State(
            new.version, new.phase, new.since.replace(microsecond=0), new.step, new.reason, new.message
        )
        state = new


@pytest.mark.parametrize("raw", [{}, {"canary": None}, {"canary": {"version": "v2"}}, {"canary": {"since": "x"}}])
def test_a_status_that_is_not_ours_is_no_state(raw: Mapping[str, Any]) -> None:
    assert State.read(raw) is None


class _Prometheus(BaseHTTPRequestHandler):
    answer: Any = None

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)["query"][0]
        status, body = self.answer(query)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def vector(value: str | None) -> dict[str, Any]:
    result = [] if value is None else [{"metric": {}, "value": [0, value]}]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


@pytest.fixture
def prometheus() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Prometheus,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with served(server):
        yield server


async def look(server: ThreadingHTTPServer, answer: Any, **rules: Any) -> Seen:
    server.RequestHandlerClass.answer = staticmethod(answer)  # type: ignore[attr-defined]
    spec = {
        **CANARY,
        "metrics": {"prometheusURL": f"http://127.0.0.1:{server.server_port}/"},
        "canary": {"version": "v2", "rules": rules},
    }
    wanted = service(spec)
    assert wanted.spec.canary is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        return await Prometheus(client).look(wanted, wanted.spec.canary)


async def test_rates_and_ratios_come_from_answers(prometheus: ThreadingHTTPServer) -> None:
    def answer(query: str) -> tuple[int, Any]:
        if "histogram_quantile" in query:
            return 200, vector("0.6" if "-canary-" in query else "0.4")
        kinds = {metrics.GOOD: "90", metrics.BROKEN: "8", metrics.REFUSED: "2"}
        return 200, vector(next(value for kind, value in kinds.items() if kind in query))

    seen = await look(prometheus, answer, maxLatencyRatio=2.0)
    assert (seen.requests, seen.success_rate) == (100, 0.9)
    assert seen.latency_ratio == pytest.approx(1.5)


async def test_nothing_and_not_a_number_are_no_figures(prometheus: ThreadingHTTPServer) -> None:
    assert await look(prometheus, lambda query: (200, vector(None)), maxLatencyRatio=2) == Seen(0, None, None)
    nan = await look(prometheus, lambda query: (200, vector("NaN" if "quantile" in query else "5")), maxLatencyRatio=2)
    assert (nan.requests, nan.latency_ratio) == (15, None)
    assert nan.success_rate == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"away"), (200, b"<html>"), (200, {}), (200, {"status": "error"}), (422, vector("1")), (200, [])],
)
async def test_any_other_answer_is_no_answer(prometheus: ThreadingHTTPServer, status: int, body: Any) -> None:
    with pytest.raises(MetricsUnavailable):
        await look(prometheus, lambda query: (status, body))


async def test_nobody_there_is_no_answer() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        spec = {**CANARY, "metrics": {"prometheusURL": "http://127.0.0.1:9"}}
        wanted = service(spec)
        assert wanted.spec.canary is not None
        with pytest.raises(MetricsUnavailable):
            await Prometheus(client).look(wanted, wanted.spec.canary)


def queries() -> dict[str, str]:
    wanted = service({**CANARY, "canary": {"version": "v2", "rules": {"windowSeconds": 300}}})
    assert wanted.spec.canary is not None
    ours, theirs = (metrics.selector(wanted, track, version) for track, version in (("canary", "v2"), ("stable", "v1")))
    kinds = {"good": metrics.GOOD, "broken": metrics.BROKEN, "refused": metrics.REFUSED}
    return {
        **{name: metrics.requests(ours, kind, 300) for name, kind in kinds.items()},
        "theirs": metrics.requests(theirs, metrics.GOOD, 300),
        "latency": metrics.latency(ours, wanted.spec.canary.rules),
    }


def test_queries_are_promql() -> None:
    for query in queries().values():
        promql_parser.parse(query)


def test_versions_can_be_told_apart_by_a_label() -> None:
    spec = {**CANARY, "metrics": {"prometheusURL": "http://p", "versionLabel": "version"}}
    assert 'version="v2"' in metrics.selector(service(spec), "canary", "v2")


def test_prometheus_itself_counts_what_was_born_in_the_window_and_the_right_pods(tmp_path: Path) -> None:
    """promtool's evaluation of our queries: a series that appears with its first errors counts whole."""

    def series(pod: str, labels: str, values: str) -> dict[str, str]:
        return {"series": f'sluice_requests_total{{namespace="models",pod="{pod}",{labels}}}', "values": values}

    done, error = 'outcome="completed",status="200",code=""', 'outcome="error",status="500",code="generation_failed"'
    shed = 'outcome="rejected",status="503",code="engine_overloaded"'
    dead = 'outcome="rejected",status="503",code="engine_unavailable"'
    canary_pod, stable_pod = "demo-canary-6f7c9-abcde", "demo-5d8f7-xyz12"
    test = {
        "interval": "15s",
        "input_series": [
            series(canary_pod, done, "100x40 200x20"),
            series(canary_pod, error, "_x50 7x10"),
            series(canary_pod, shed, "_x50 9x10"),
            series(canary_pod, dead, "_x50 2x10"),
            series(stable_pod, done, "1000x40 1500x20"),
            series("other-canary-6f7c9-abcde", done, "5x40 500x20"),
        ],
        "promql_expr_test": [
            {
                "expr": f"round({queries()['good']})",
                "eval_time": "15m",
                "exp_samples": [{"labels": "{}", "value": 100}],
            },
            {"expr": queries()["broken"], "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": 7}]},
            {"expr": queries()["refused"], "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": 2}]},
            {
                "expr": f"round({queries()['theirs']})",
                "eval_time": "15m",
                "exp_samples": [{"labels": "{}", "value": 500}],
            },
        ],
    }
    (tmp_path / "rules.yaml").write_text("groups: []\n")
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [test]}))
    done_ = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done_.returncode == 0, done_.stdout + done_.stderr
