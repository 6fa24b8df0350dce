"""Speculative decoding changes the speed, never the output: greedy text equals the plain engine's, token for token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.toy import make_toy_model
from tests.conformance.contract import assert_error
from tests.faults.processes import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROMPTS = [
    "one two three four five one two three four five one two three four five one two",
    "The capital of France is",
    "def add(a, b):\n    return a + b\n\ndef add(a, b):\n",
    "Once upon a time, in a small village by the sea,",
]


#: In bfloat16, checking several tokens at once rounds otherwise than one at a time, which can turn a near tie.
ENGINE = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 8, "gpu_memory_utilization": 0.2}
GREEDY = {"max_tokens": 40, "temperature": 0, "ignore_eos": False}


@pytest.fixture(scope="module")
def plain(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the sample model answers by itself."""
    directory = tmp_path_factory.mktemp("plain")
    with serving(default_model, directory, {"SLUICE_ENGINE": json.dumps(ENGINE)}) as server:
        return [server.completion(prompt=prompt, **GREEDY).json() for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["ngram", "draft_model"])
def speculating(
    request: pytest.FixtureRequest,
    plain: list[dict[str, Any]],  # before this one starts: one engine at a time
    default_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server over the sample model that guesses from the prompt, or with another model."""
    directory = tmp_path_factory.mktemp(request.param)
    guess: dict[str, Any] = {"method": request.param, "num_speculative_tokens": 3}
    if request.param == "ngram":
        guess["prompt_lookup_max"] = 4
    else:
        # Its weights are random: nearly every guess is wrong, and the output must be right all the same.
        guess["model"] = str(make_toy_model(directory / "draft", default_model))
    engine = {**ENGINE, "speculative_config": guess}
    with serving(default_model, directory, {"SLUICE_ENGINE": json.dumps(engine)}) as server:
        yield server


def count(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_greedy_output_is_the_plain_one(plain: list[dict[str, Any]], speculating: Server) -> None:
    guessed = count(speculating, "vllm:spec_decode_num_draft_tokens_total")
    for prompt, expected in zip(PROMPTS, plain, strict=True):
        answer = speculating.completion(prompt=prompt, **GREEDY).json()
        assert answer["choices"] == expected["choices"]
        assert answer["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
    assert count(speculating, "vllm:spec_decode_num_draft_tokens_total") > guessed


def test_a_stream_is_the_whole_answer(speculating: Server) -> None:
    wanted = {"prompt": PROMPTS[0], "max_tokens": 40, "temperature": 0}
    whole = speculating.completion(**wanted).json()
    body = speculating.body(**wanted, stream=True, stream_options={"include_usage": True})
    response = httpx.post(f"{speculating.url}/v1/completions", json=body, headers=speculating.headers, timeout=60)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole["choices"][0]["text"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 40


@pytest.mark.parametrize("speculating", ["ngram"], indirect=True)
def test_guesses_that_were_right_are_counted(speculating: Server) -> None:
    before = count(speculating, "vllm:spec_decode_num_accepted_tokens_total")
    speculating.completion(prompt=PROMPTS[0], max_tokens=40, temperature=0)
    assert count(speculating, "vllm:spec_decode_num_accepted_tokens_total") > before


@pytest.mark.parametrize(("field", "value"), [("min_p", 0.1), ("logit_bias", {"5": 1.0})])
def test_what_it_cannot_sample_is_refused_by_name(speculating: Server, field: str, value: object) -> None:
    answer = speculating.completion(**{field: value})
    assert_error(answer, 400, "unsupported_parameter", field)
    assert speculating.completion(min_p=0.0, max_tokens=2).status_code == 200
