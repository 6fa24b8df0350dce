"""Two front-end workers on one engine, by `sluice serve` and real Redis: they serve, share limits and the engine's
places for adapters, take new settings together, survive, end.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.processes import ENGINE, Server, gone, serving
from tests.support import lora
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

PATIENCE = 300.0
CONCURRENT = 6
#: Adapters that the engine has room for, and that there are.
PLACES = 2
VOICES = 6
#: What limits.max_n and limits.key.requests_per_minute are, one after the other.
FEW = (2, 100_002)
MORE = (4, 100_004)
MOST = (6, 100_006)


def settings_file(allowed: tuple[int, int]) -> dict[str, Any]:
    max_n, per_minute = allowed
    return {"limits": {"max_n": max_n, "key": {"requests_per_minute": per_minute}}}


@pytest.fixture(scope="module")
def two(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("workers")
    redis = RedisServer(directory).start()
    adapters = tmp_path_factory.mktemp("adapters")
    for number in range(VOICES):
        lora.make_adapter(adapters / f"v{number}", toy_model, seed=number, scale=2.0)
    config = directory / "sluice.yaml"
    config.write_text(json.dumps(settings_file(FEW)))
    settings = {
        "SLUICE_CONFIG": str(config),
        # One answer each, whoever is in the batch.
        "SLUICE_ENGINE": json.dumps({**ENGINE, "dtype": "float32"}),
        "SLUICE_ADAPTERS__ENABLED": "true",
        "SLUICE_ADAPTERS__ROOTS": json.dumps([str(adapters)]),
        "SLUICE_ADAPTERS__RESIDENT": str(PLACES),
        "SLUICE_ADAPTERS__BATCH": str(PLACES),
        "SLUICE_ADAPTERS__MAX_RANK": "8",
        "SLUICE_ADAPTERS__WAIT": "120",
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


def settled_by(server: Server) -> dict[str, int]:
    """Requests that each worker has settled, by its ledger."""
    files = (server.directory / "state").glob("ledger*.jsonl")
    return {file.stem: file.read_text().count('"settled"') for file in files}


def shares(server: Server) -> list[int]:
    return list(settled_by(server).values())


def stream(server: Server, tokens: int, **fields: Any) -> str:
    """All of a stream's text, on a connection of its own."""
    body = server.body(stream=True, max_tokens=tokens, **fields)
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


@contextmanager
def on_each(server: Server) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A connection to either worker."""
    found: dict[str, httpx.Client] = {}
    opened = []
    try:
        while len(found) < 2:
            client = httpx.Client(base_url=server.url, headers=server.headers, timeout=300)
            opened.append(client)
            before = settled_by(server)
            assert client.post("/v1/completions", json=server.body(max_tokens=1)).status_code == 200
            server.wait_for(lambda before=before: settled_by(server) != before, 60)
            (name,) = [name for name, rows in settled_by(server).items() if rows > before.get(name, 0)]
            found.setdefault(name, client)
            assert len(opened) < 200
        yield found["ledger"], found["ledger-worker1"]
    finally:
        for client in opened:
            client.close()


def said(client: httpx.Client, model: str, **changes: Any) -> str:
    body = {"model": model, "prompt": "The quick brown fox", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    while (answer := client.post("/v1/completions", json=body | changes)).status_code == 429:
        time.sleep(0.1)  # who has left is counted until it is noticed
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def register(server: Server, client: httpx.Client, name: str, **fields: Any) -> dict[str, Any]:
    (root,) = json.loads(server.environment["SLUICE_ADAPTERS__ROOTS"])
    answer = client.post("/v1/adapters", json={"name": name, "path": f"{root}/{name}", **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def adapter(client: httpx.Client, name: str) -> dict[str, Any]:
    described: dict[str, Any] = client.get(f"/v1/adapters/{name}").json()
    return described


def resident(client: httpx.Client) -> set[str]:
    return {each["name"] for each in client.get("/v1/adapters").json()["data"] if each["status"] == "resident"}


def copies(server: Server) -> set[str]:
    """The contents that the engine has private copies of."""
    return {file.parent.name for file in (server.directory / "state" / "adapters").glob("*/*/adapter_config.json")}


@pytest.fixture(scope="module")
def voices(two: Server) -> dict[str, str]:
    """What each adapter says alone, registered over one worker and asked of the other; the base under its own name."""
    with on_each(two) as (one, other):
        alone = {"toy": said(one, "toy")}
        for number in range(VOICES):
            register(two, one, f"v{number}")
            # Whoever was told that it is there finds it there, on every worker.
            alone[f"v{number}"] = said(other, f"v{number}")
    assert len(set(alone.values())) == VOICES + 1, "each has a voice of its own"
    return alone


def test_an_adapter_is_served_by_all_and_the_base_keeps_its_voice(two: Server, voices: dict[str, str]) -> None:
    with on_each(two) as (one, other):
        for client in (one, other):
            assert {name: said(client, name) for name in voices} == voices
            assert len(resident(client)) <= PLACES
        assert adapter(one, "v0")["sha256"] == adapter(other, "v0")["sha256"]


def test_more_adapters_than_places_each_with_its_own_voice(two: Server, voices: dict[str, str]) -> None:
    engine, evicted = two.engine(), count(two, "sluice_adapter_evictions_total")
    chance = random.Random(1)
    with on_each(two) as clients, ThreadPoolExecutor(CONCURRENT) as pool:

        def ask(name: str, client: httpx.Client, leaves: bool) -> tuple[str, str]:
            if not leaves:
                return name, said(client, name)
            body = two.body(model=name, stream=True, max_tokens=900)
            with client.stream("POST", "/v1/completions", json=body) as answer:
                assert answer.status_code in (200, 429)
                next(answer.iter_text())
            return name, voices[name]

        plan = [(chance.choice(list(voices)), chance.choice(clients), chance.random() < 0.2) for _ in range(90)]
        answers = list(pool.map(lambda each: ask(*each), plan))
        assert [text for _, text in answers] == [voices[name] for name, _ in answers]
        assert count(two, "sluice_adapter_evictions_total") > evicted >= 0
        # Nobody is left who holds one.
        two.wait_for(lambda: not any(adapter(clients[0], name)["running"] for name in voices if name != "toy"), 60)
        assert len(resident(clients[0])) <= PLACES
    assert two.engine().pid == engine.pid


def test_removing_frees_the_place_and_the_copy_for_all(two: Server, voices: dict[str, str]) -> None:
    with on_each(two) as (one, other), ThreadPoolExecutor(1) as pool:
        made = register(two, one, "v0")
        said(one, "v0")
        assert "v0" in resident(other)
        body = two.body(model="v0", stream=True, max_tokens=900)
        running = pool.submit(lambda: one.post("/v1/completions", json=body).text)
        two.wait_for(lambda: adapter(other, "v0")["running"] == 1, PATIENCE)
        refused = other.delete("/v1/adapters/v0")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "in_use")
        assert other.delete("/v1/adapters/v0?drain=true").status_code == 202
        assert running.result().rstrip().endswith("[DONE]")
        for client in (one, other):
            assert client.post("/v1/completions", json=two.body(model="v0")).status_code == 404
            assert client.get("/v1/adapters/v0").status_code == 404
        two.wait_for(lambda: made["sha256"] not in copies(two), PATIENCE)
        assert resident(one) == resident(other) != {"v0"}
        # With nothing running it is out when the answer is there.
        made = register(two, other, "v0", pinned=True)
        assert said(one, "v0") == voices["v0"]
        assert one.patch("/v1/adapters/v0", json={"pinned": False}).json()["pinned"] is False
        assert adapter(other, "v0")["pinned"] is False
        assert one.delete("/v1/adapters/v0").status_code == 200
        assert "v0" not in resident(other)
        two.wait_for(lambda: made["sha256"] not in copies(two), PATIENCE)
        register(two, one, "v0")


def test_limits_are_those_of_the_whole(two: Server) -> None:
    with ThreadPoolExecutor(4 * CONCURRENT) as pool:
        answers = list(pool.map(lambda _index: stream(two, 900), range(4 * CONCURRENT)))
    granted = [each for each in answers if each.startswith("200")]
    assert len(granted) == CONCURRENT
    assert all("429" in each[:4] for each in answers if each not in granted)


def write(server: Server, values: Any) -> None:
    config = Path(server.environment["SLUICE_CONFIG"])
    fresh = config.with_suffix(".new")
    fresh.write_text(json.dumps(values))
    fresh.rename(config)


def allowed(client: httpx.Client) -> tuple[int, int]:
    """Answers at once, and requests per minute, that this worker allows."""
    body = {"model": "toy", "prompt": "hello", "max_tokens": 1}
    answers = {n: client.post("/v1/completions", json=body | {"n": n}) for n in range(1, 9)}
    granted = [n for n, answer in answers.items() if answer.status_code == 200]
    assert all(answers[n].json()["error"]["param"] == "n" for n in answers if n not in granted)
    return max(granted), int(answers[1].headers["x-ratelimit-limit-requests"])


def reloads(client: httpx.Client) -> list[tuple[str, bool]]:
    """Who asked for settings to be read anew, and whether they were taken, latest first."""
    rows = client.get("/v1/admin/audit").json()["data"]
    # Static keys are named by what they are, not by what they say.
    return [(row["actor"], row["allowed"]) for row in rows if row["act"] == "config.reload"]


def test_settings_are_read_anew_by_all_whoever_asks(two: Server) -> None:
    with on_each(two) as clients:
        one, other = clients
        assert [allowed(each) for each in clients] == [FEW, FEW]
        write(two, settings_file(MORE) | {"admission": {"max_queue": 7}})
        answer = one.post("/v1/admin/reload")
        # When the answer is there the other one has them too.
        assert [allowed(each) for each in clients] == [MORE, MORE]
        assert answer.json() == {
            "generation": 2,
            "changed": ["limits.key.requests_per_minute", "limits.max_n"],
            "needs_restart": ["admission.max_queue"],
            "workers_behind": 0,
        }
        again = other.post("/v1/admin/reload").json()
        assert (again["generation"], again["changed"]) == (2, [])
        # A signal to the parent; what it asks for holds for both together, in Redis.
        write(two, settings_file((6, 1)))
        two.signal(signal.SIGHUP)
        two.wait_for(lambda: count(two, "sluice_config_generation") == 3, 60)
        answers = [each.post("/v1/completions", json=two.body(max_tokens=1)) for each in (one, other, one)]
        assert [answer.status_code for answer in answers[1:]] == [429, 429]
        # The file is looked at.
        write(two, settings_file(MOST))
        two.wait_for(lambda: count(two, "sluice_config_generation") == 4, 60)
        assert [allowed(each) for each in clients] == [MOST, MOST]
        two.wait_for(lambda: len(reloads(one)) >= 4, 60)
        actors = [actor for actor, taken in reloads(other) if taken]
        assert (actors[0], actors[1], len(actors)) == ("file", "signal", 4)
        # What cannot be used changes nothing anywhere, and stays in the file for the next test.
        write(two, {"limits": {"max_n": "many"}})
        refused = other.post("/v1/admin/reload")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limits.max_n")
        assert refused.json()["error"]["code"] == "invalid_config"
        assert [allowed(each) for each in clients] == [MOST, MOST]
        assert count(two, "sluice_config_generation") == 4
        assert count(two, "sluice_config_reload_failures_total") >= 1


def test_a_killed_worker_takes_nobody_with_it(two: Server, voices: dict[str, str]) -> None:
    engine, before = two.engine(), completions(two)
    victim, other = workers(two)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(stream, two, 900, model=model) for model in ("toy", "toy", "v1", "v1")]
        two.wait_for(lambda: count(two, "sluice_requests_in_flight") == 4, PATIENCE)
        victim.kill()
        ended = [each.exception() or each.result() for each in running]
    survived = [each for each in ended if isinstance(each, str) and each.rstrip().endswith("[DONE]")]
    assert all(each in survived or isinstance(each, httpx.TransportError) for each in ended)
    # The kernel gives new connections to the other one, and the dead one's share is there again later.
    assert [two.completion(max_tokens=4).status_code for _ in range(8)] == [200] * 8
    # It holds no adapter any more: all others find a place, one after the other and at last its own is free.
    with httpx.Client(base_url=two.url, headers=two.headers, timeout=300) as client:
        assert {name: said(client, name) for name in voices} == voices
        two.wait_for(lambda: adapter(client, "v1")["running"] == 0, PATIENCE)
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
    # The new one serves with the settings in force, although the file is spoiled.
    with on_each(two) as clients:
        assert [allowed(each) for each in clients] == [MOST, MOST]


def test_a_dead_engine_is_replaced_under_all(two: Server, voices: dict[str, str]) -> None:
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
    with on_each(two) as clients:
        assert [{name: said(client, name) for name in voices} for client in clients] == [voices] * 2
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
