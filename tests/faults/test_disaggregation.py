"""Prefill in one process, generation in another, on real vLLM: the cache crosses, the answer is the same."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.processes import ENGINE, Server

#: Three starts of an engine: a machine that has other things to do takes minutes for that.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "what both processes are given, and nobody else"
PROMPT_TOKENS = 700


class Pair:
    """The prefill server can be started again at its address."""

    def __init__(self, model: Path, directory: Path, stack: ExitStack) -> None:
        self._model = model
        self._directory = directory
        self._stack = stack
        self.prefill = self._server("prefill", {})
        peers = json.dumps([self.prefill.url])
        self.decode = self._server("decode", {"SLUICE_DISAGGREGATION__PEERS": peers})

    def _server(self, role: str, settings: dict[str, str]) -> Server:
        transfer = {
            "kv_connector": "ExampleConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(self._directory / "kv")},
        }
        directory = self._directory / role
        directory.mkdir(exist_ok=True)
        settings = {
            "SLUICE_SECRET": SECRET,
            "SLUICE_ENGINE": json.dumps(ENGINE | {"kv_transfer_config": transfer}),
            "SLUICE_DISAGGREGATION__ROLE": role,
            "SLUICE_DISAGGREGATION__MIN_PROMPT_TOKENS": "200",
            "SLUICE_DISAGGREGATION__TIMEOUT": "60",
            **settings,
        }
        if role == "decode":
            settings["SLUICE_DISAGGREGATION__MAX_POLL_INTERVAL"] = "1"
        server = Server(self._model, directory, **settings)
        self._stack.callback(server.close)
        return server

    def restart_prefill(self) -> None:
        port, url = self.prefill.port, self.prefill.url
        self.prefill = self._server("prefill", {"SLUICE_PORT": str(port)})
        self.prefill.port, self.prefill.url = port, url
        self.prefill.wait_ready()

    def wait_for_standing(self, standing: str) -> None:
        name = self.prefill.url.removeprefix("http://")
        self.decode.wait_for(
            lambda: metric(self.decode, "sluice_disaggregation_peer", peer=name, standing=standing) == 1, 120
        )


@pytest.fixture
def pair(toy_model: Path, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        made = Pair(toy_model, tmp_path, stack)
        made.prefill.wait_ready()
        made.decode.wait_ready()
        made.wait_for_standing("usable")
        yield made


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def prompt(seed: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 20_000), k=PROMPT_TOKENS)


def said(server: Server, which: int, **fields: Any) -> str:
    body = {"prompt": prompt(which), "temperature": 0, "max_tokens": 24, "logprobs": 1} | fields
    answer = server.completion(**body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return str((choice["text"], choice["logprobs"]["tokens"]))


def streamed(server: Server, which: int) -> str:
    body = server.body(prompt=prompt(which), temperature=0, max_tokens=24, stream=True)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=60) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


def test_the_cache_crosses_and_losing_the_peer_costs_nothing_but_time(pair: Pair, tmp_path: Path) -> None:
    prefill, decode = pair.prefill, pair.decode
    computed = {"source": "local_compute"}
    # What each says alone: the prefill server generates too, for its own callers.
    alone = {seed: said(prefill, seed) for seed in range(4)}

    before = metric(decode, "vllm:prompt_tokens_by_source_total", **computed)
    assert {seed: said(decode, seed) for seed in range(3)} == {seed: alone[seed] for seed in range(3)}
    assert metric(decode, "sluice_disaggregation_prompts_total", where="peer") == 3
    moved = (PROMPT_TOKENS - 1) // 128 * 128
    assert metric(decode, "vllm:external_prefix_cache_hits_total") == 3 * moved
    here = metric(decode, "vllm:prompt_tokens_by_source_total", **computed) - before
    assert here == 3 * (PROMPT_TOKENS - moved), "not prefilled again: less than a block of each prompt"
    assert not list((tmp_path / "kv").iterdir()), "what was fetched is gone"
    assert metric(prefill, "sluice_disaggregation_served_total", outcome="completed") == 3

    # Sampled text depends on nothing but its seed, wherever the prompt was computed.
    warm = {"temperature": 1.0, "seed": 7}
    assert said(decode, 3, **warm) == said(prefill, 3, **warm)

    assert streamed(decode, 4) == streamed(prefill, 4) != ""

    prefill.process.kill()
    prefill.process.wait(30)
    assert said(decode, 0) == alone[0]
    assert said(decode, 3) == alone[3]
    assert metric(decode, "sluice_disaggregation_prompts_total", where="here") == 2
    pair.wait_for_standing("unreachable")

    pair.restart_prefill()
    pair.wait_for_standing("usable")
    before = metric(decode, "sluice_disaggregation_prompts_total", where="peer")
    assert said(decode, 9) == said(pair.prefill, 9)
    assert metric(decode, "sluice_disaggregation_prompts_total", where="peer") == before + 1
    rows = [json.loads(line) for line in (tmp_path / "decode/state/ledger.jsonl").read_text().splitlines()]
    assert all(row["principal"] == "static" for row in rows)
