"""The goals' own machinery: what clients saw, what a table says, and one goal on a real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.client import Recording
from loadtest.goals import __main__ as goals
from loadtest.goals import stubbed, table
from loadtest.goals.books import header, saw, texts
from loadtest.goals.goal import Figure, Goal, Run, at_least, at_most, exactly, told
from loadtest.goals.servers import Server
from loadtest.goals.watch import lag_p99, slope
from tests.loadtest.scripted import CHUNKED, chunk
from tests.support.recorder import Saw

HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: one\r\n"
CHUNKS = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def recording(raw: bytes) -> Recording:
    return Recording(0.0, bytearray(raw), [(1.0, len(raw))])


def stream(*events: bytes) -> Recording:
    return recording(CHUNKS + b"".join(chunk(b"data: " + event + b"\n\n") for event in events) + chunk(b""))


SAID = b'{"choices":[{"delta":{"content":"a\\n\\n[DONE]"}}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}'
ERROR = b'{"error":{"code":"engine_unavailable"}}'


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (stream(SAID, USAGE, b"[DONE]"), Saw("one", 200, "done", None, 2, prompt_tokens=7)),
        (stream(SAID, ERROR), Saw("one", 200, "error_event", "engine_unavailable")),
        (stream(SAID), Saw("one", 200, "truncated")),
        (recording(HEAD + b"\r\n" + USAGE), Saw("one", 200, "body", None, 2, prompt_tokens=7)),
        (
            recording(b"HTTP/1.1 503 Gone\r\nX-Request-Id: two\r\n\r\n" + ERROR),
            Saw("two", 503, "error_response", "engine_unavailable"),
        ),
    ],
    ids=["done", "error event", "truncated", "body", "error response"],
)
def test_what_a_client_saw(answer: Recording, seen: Saw) -> None:
    assert saw(answer) == seen


def test_headers_and_texts() -> None:
    answer = stream(SAID, SAID, USAGE, b"[DONE]")
    assert header(answer, b"x-request-id") == "one"
    assert header(recording(CHUNKED), b"x-request-id") is None
    assert texts([answer]) == ["a\n\n[DONE]" * 2]


def test_a_slope_is_that_of_the_line() -> None:
    assert slope([(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) == pytest.approx(2.0)
    assert slope([(3.0, 1.0)]) == slope([]) == 0.0


def test_the_lag_is_that_of_the_time_between() -> None:
    def samples(fast: float, slow: float) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        counts = {"0.001": fast, "0.05": fast + slow, "+Inf": fast + slow}
        name = "sluice_event_loop_lag_seconds_bucket"
        return {(name, frozenset({("le", bound)})): count for bound, count in counts.items()}

    assert lag_p99(samples(0, 500), samples(1000, 500)) == 0.001
    assert lag_p99(samples(0, 500), samples(1000, 520)) == 0.05


def test_a_figure_is_judged_by_what_was_asked() -> None:
    assert [figure.met for figure in (at_most("a", 2, 1), at_least("a", 2, 1), exactly("a", 1, 1), told("a", 9))] == [
        False,
        True,
        True,
        True,
    ]
    text = table.rows(Goal("L1", "title", lambda _: []), [at_most("wait", 2.5, 1, "ms"), told("n", 12345)], (0.5, 2.0))
    assert text.splitlines() == [
        "| L1 title (load 0.5 to 2.0) | wait | 2.5 ms | at most 1 ms | **missed** |",
        "|  | n | 12,345 |  |  |",
    ]


def test_goals_are_shown_in_the_order_of_their_numbers_and_unknown_ones_refused() -> None:
    assert [goal.id for goal in goals.chosen("l15,L3")] == ["L3", "L15"]
    assert len(goals.chosen(None)) == len(goals.GOALS)
    with pytest.raises(SystemExit) as refused:
        goals.main(["--only", "L99"])
    assert refused.value.code == 2


@pytest.mark.parametrize(("seen", "status"), [(1, 0), (2, 1)])
def test_a_missed_goal_is_an_exit_code_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, seen: float, status: int
) -> None:
    def show(run: Run) -> list[Figure]:
        return [at_most("wait", seen, 1)]

    monkeypatch.setattr(goals, "GOALS", {"L1": Goal("L1", "title", show)})
    assert goals.main(["--check"]) == status
    assert goals.main([]) == 0


def test_a_goal_on_a_real_gateway_and_a_ledger_that_lacks_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {each.name: each for each in stubbed.many_requests(Run(tmp_path / "whole", 0.01, 0))}
    assert figures["requests/s"].seen > 0
    assert figures["not answered with 200"].met
    assert figures["ledger, clients and engine disagree"].met

    judge = Server.judge

    def lose_a_row(server: Server) -> None:
        file = server.directory / "ledger.jsonl"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
        judge(server)

    monkeypatch.setattr(Server, "judge", lose_a_row)
    figures = {each.name: each for each in stubbed.many_requests(Run(tmp_path / "torn", 0.01, 0))}
    assert not figures["ledger, clients and engine disagree"].met
