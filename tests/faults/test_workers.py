"""Two front-end workers on one engine, by `sluice serve` and real Redis: they serve, share limits, survive, end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.processes import Server, gone, serving
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

PATIENCE = 300.0
CONCURRENT = 6


@pytest.fixture(scope="module")
def two(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("workers")
    redis = RedisServer(directory).start()
    settings = {
        "SLUICE_WORKERS": "2",
        "SLUICE_REDIS_URL": redis.url,
        "SLUICE_LIMITS__KEY__CONCURRENT": str(CONCURRENT),
        "SLUICE_LIMITS__REDIS_TIMEOUT": "5",
    }
    try:
        with serving(toy_model, directory, settings) as server:
            server.wait_for(lambda: count(server, "sluice_workers") == 2, PATIENCE)
            yield server
    finally:
        redis.kill()


def count(server: Server, name: str, **labels: str) -> float:
    """The sum of all samples of that name and these labels."""
    try:
        text = httpx.get(f"{server.url}/metrics", timeout=30).text
    except httpx.TransportError:
        return -1.0
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    fits = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    return sum(fits) if fits else -1.0


def completions(server: Server) -> float:
    return count(server, "sluice_requests_total", route="/v1/completions", status="200")


def workers(server: Server) -> list[psutil.Process]:
    return [each for each in server.family() if "gateway.workers.worker" in " ".join(each.cmdline())]


def shares(server: Server) -> list[int]:
    """Requests that each worker has settled, by its ledger."""
    files = sorted((server.directory / "state").glob("ledger*.jsonl"))
    return [file.read_text().count('"settled"') for file in files]


def stream(server: Server, tokens: int) -> str:
    """All of a stream's text, on a connection of its own."""
    body = server.body(stream=True, max_tokens=tokens)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=120) as answer:
        return f"{answer.status_code}\n" + "".join(answer.iter_text())


def test_both_serve_and_what_they_count_is_whole(two: Server) -> None:
    sent = 0
    while sent < 12 or len(shares(two)) < 2 or not all(shares(two)):
        assert two.completion(max_tokens=4).status_code == 200
        sent += 1
        assert sent < 200
    with ThreadPoolExecutor(CONCURRENT) as pool:
        streams = list(pool.map(lambda _index: stream(two, 64), range(CONCURRENT)))
    assert all(each.startswith("200") and each.rstrip().endswith("[DONE]") for each in streams)
    assert completions(two) == sent + CONCURRENT
    assert count(two, "sluice_tokens_total", kind="completion") == 4 * sent + 64 * CONCURRENT


def test_limits_are_those_of_the_whole(two: Server) -> None:
    with ThreadPoolExecutor(4 * CONCURRENT) as pool:
        answers = list(pool.map(lambda _index: stream(two, 900), range(4 * CONCURRENT)))
    granted = [each for each in answers if each.startswith("200")]
    assert len(granted) == CONCURRENT
    assert all("429" in each[:4] for each in answers if each not in granted)


def test_a_killed_worker_takes_nobody_with_it(two: Server) -> None:
    engine, before = two.engine(), completions(two)
    victim, other = workers(two)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(stream, two, 900) for _ in range(4)]
        two.wait_for(lambda: count(two, "sluice_requests_in_flight") == 4, PATIENCE)
        victim.kill()
        ended = [each.exception() or each.result() for each in running]
    survived = [each for each in ended if isinstance(each, str) and each.rstrip().endswith("[DONE]")]
    assert all(each in survived or isinstance(each, httpx.TransportError) for each in ended)
    # The kernel gives new connections to the other one, and the dead one's share is there again later.
    assert [two.completion(max_tokens=4).status_code for _ in range(8)] == [200] * 8
    two.wait_for(lambda: count(two, "sluice_workers") == 2, PATIENCE)
    assert count(two, "sluice_worker_restarts_total") == 1
    assert completions(two) >= before + 8
    assert other.is_running()
    assert engine.is_running()
    assert victim.pid not in {each.pid for each in workers(two)}
    # What the dead one left running was ended, not finished for nobody.
    two.wait_for(lambda: count(two, "vllm:num_requests_running") == 0, PATIENCE)
    settled = sum(shares(two))
    while len(shares(two)) < 2 or sum(shares(two)) < settled + 8:
        assert two.completion(max_tokens=4).status_code == 200


def test_a_dead_engine_is_replaced_under_all(two: Server) -> None:
    engine, seen = two.engine(), completions(two)
    engine.kill()
    two.wait_for(lambda: two.status("/readyz") == 503, PATIENCE)
    refused = two.completion(max_tokens=4)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert int(refused.headers["retry-after"]) > 0
    two.wait_for(lambda: [two.status("/readyz") for _ in range(6)] == [200] * 6, PATIENCE)
    assert [two.completion(max_tokens=4).status_code for _ in range(6)] == [200] * 6
    assert completions(two) == seen + 6
    assert two.engine().pid != engine.pid


def test_all_drain_and_nothing_is_left(two: Server) -> None:
    family = two.family()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(stream, two, 600) for _ in range(4)]
        two.wait_for(lambda: count(two, "sluice_requests_in_flight") == 4, PATIENCE)
        two.signal(signal.SIGTERM)
        assert all(each.result().rstrip().endswith("[DONE]") for each in running)
    assert two.process.wait(120) == 0
    assert gone(family, 60)
