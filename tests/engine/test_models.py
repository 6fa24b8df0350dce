"""Several real engines in one process: loaded on demand, evicted, unloaded; they say what the reference says."""

from __future__ import annotations

import base64
import gc
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from openai.types import CreateEmbeddingResponse

from engine.toy import make_toy_model
from tests.conformance.contract import assert_error
from tests.conformance.documents import openai_validator
from tests.support.classifiers import make_classifier
from tests.support.gateways import Threaded, threaded

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

GIB = 1024**3
LABELS = ("calm", "storm", "fog")
TEXTS = ["The river is calm today.", "a", "Grüße, 世界!", "word " * 200, "Reset my password, please."]


@pytest.fixture(scope="module")
def places(default_model: Path, minilm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "toy": make_toy_model(root / "toy", default_model),
        "embedder": minilm_model,
        "moods": make_classifier(root / "moods", minilm_model, LABELS),
        "judge": make_classifier(root / "judge", minilm_model, ["relevant"]),
    }


@pytest.fixture(scope="module")
def house(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    """A toy that stays, and three others of which only one fits beside it at a time."""
    from gateway.engines import Served, build_pool
    from gateway.settings import load

    def build() -> Any:
        arguments = {"max_model_len": 1024, "kv_cache_memory_bytes": GIB // 4}
        kinds: dict[str, Any] = {"embedder": "embed", "moods": "classify", "judge": "score"}
        return build_pool(
            load(flags={"pool": {"memory": 6 * GIB, "cold_wait": 600}}),
            [
                Served(str(places["toy"]), "toy", arguments=arguments, pin=True, preload=True, memory=3 * GIB),
                *(Served(str(places[name]), name, kind, memory=2 * GIB) for name, kind in kinds.items()),
                Served(str(places["toy"].parent), "broken", memory=2 * GIB),
                Served(str(places["toy"]), "huge", memory=9 * GIB),
            ],
        )

    with threaded(build, tmp_path_factory.mktemp("state")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def http(house: Threaded) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.live.url, headers=house.live.authorization, timeout=600) as client:
        yield client


def states(http: httpx.Client) -> dict[str, str]:
    return {model["id"]: model["state"] for model in http.get("/v1/models").json()["data"]}


def chat(http: httpx.Client, **more: Any) -> httpx.Response:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **more}
    return http.post("/v1/chat/completions", json=body)


def resident_bytes() -> int:
    own = psutil.Process()
    return sum(process.memory_info().rss for process in [own, *own.children(recursive=True)])


def test_a_life_of_several_models(http: httpx.Client, house: Threaded, places: dict[str, Path]) -> None:
    """One test, because each step stands on the one before: loads take long."""
    assert states(http) == dict.fromkeys(("embedder", "moods", "judge", "broken", "huge"), "cold") | {"toy": "ready"}
    embeddings_are_the_reference_s(http, places["embedder"])
    assert states(http)["embedder"] == "ready"
    the_wire_of_embeddings(http)
    the_official_client_reads_them(house, places["embedder"])
    openais_document_describes_them(http)
    memory_comes_back(http, house)
    memory_comes_back_every_time(http)
    classes_are_the_reference_s(http, places["moods"])
    scores_are_the_reference_s(http, places["judge"])
    assert (states(http)["moods"], states(http)["judge"]) == ("cold", "ready")  # one left for the other
    assert house.live.engine.pool().evictions == {"moods": 1}
    every_engine_is_seen(http, house)
    what_cannot_be_loaded_harms_nobody(http)
    assert house.live.ledger.violations == []


def embeddings_are_the_reference_s(http: httpx.Client, place: Path) -> None:
    answers: list[httpx.Response] = []
    body = {"model": "embedder", "input": TEXTS}
    callers = [
        threading.Thread(target=lambda: answers.append(http.post("/v1/embeddings", json=body))) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    assert chat(http).status_code == 200  # nobody is stalled while it is loaded
    for caller in callers:
        caller.join()
    ours = [np.array([each["embedding"] for each in answer.json()["data"]]) for answer in answers]
    wanted = reference_embeddings(place)
    for vectors in ours:
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert (np.einsum("ij,ij->i", vectors, wanted) >= 0.999).all()
    loads = [line for line in http.get("/metrics").text.splitlines() if line.startswith("sluice_model_loads_total")]
    assert 'sluice_model_loads_total{model="embedder",outcome="loaded"} 1.0' in loads


def reference_embeddings(place: Path) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(place),
        AutoModel.from_pretrained(place, dtype=torch.float32).eval(),
    )
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            hidden = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(rows)


def the_wire_of_embeddings(http: httpx.Client) -> None:
    body = {"model": "embedder", "input": TEXTS[:2], "encoding_format": "base64", "dimensions": 64}
    for each in http.post("/v1/embeddings", json=body).json()["data"]:
        vector = np.frombuffer(base64.b64decode(each["embedding"]), "<f4")
        assert vector.shape == (64,)
        assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    long = http.post("/v1/embeddings", json={"model": "embedder", "input": "word " * 300})
    assert_error(long, 400, "context_length_exceeded", "input")
    wild = http.post("/v1/embeddings", json={"model": "embedder", "input": [10**6]})
    assert_error(wild, 400, "invalid_value", "input")
    assert_error(chat(http, model="embedder"), 400, "model_kind_mismatch", "model")
    ranking = {"model": "embedder", "query": "a calm stream", "documents": ["tax forms", "The river is calm."]}
    assert http.post("/v1/rerank", json=ranking).json()["results"][0]["index"] == 1
    model = http.get("/v1/models/embedder").json()
    assert (model["dimensions"], model["max_model_len"], model["kind"]) == (384, 256, "embed")
    assert model["memory_bytes"] > 200 * 2**20
    assert model["load_seconds"] > 0


def the_official_client_reads_them(house: Threaded, place: Path) -> None:
    """It asks for base64 and decodes it, unless it is told otherwise."""
    from transformers import AutoTokenizer

    texts = [text for text in TEXTS if len(text) < 100]
    ids: list[list[int]] = [AutoTokenizer.from_pretrained(place)(text).input_ids for text in texts]
    with openai.OpenAI(base_url=f"{house.live.url}/v1", api_key=house.live.key, timeout=120, max_retries=0) as client:
        create = partial(client.embeddings.create, model="embedder")
        made = create(input=texts)
        wanted = np.array([each.embedding for each in made.data])
        assert [(each.index, each.object) for each in made.data] == [(at, "embedding") for at in range(len(texts))]
        assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, ids))
        encoded = create(input=texts, encoding_format="base64").data
        asked: list[tuple[Any, Any]] = [
            ([each.embedding for each in create(input=texts, encoding_format="float").data], wanted),
            ([np.frombuffer(base64.b64decode(str(each.embedding)), "<f4") for each in encoded], wanted),
            ([create(input=text).data[0].embedding for text in texts], wanted),
            ([create(input=each).data[0].embedding for each in ids], wanted),
            ([each.embedding for each in create(input=ids).data], wanted),
            ([each.embedding for each in create(input=texts, dimensions=64).data], shortened(wanted, 64)),
        ]
        for given, expected in asked:
            assert np.allclose(np.array(given), expected, atol=1e-5)


def shortened(vectors: Any, width: int) -> Any:
    cut = vectors[:, :width]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def openais_document_describes_them(http: httpx.Client) -> None:
    validate = openai_validator()
    answer = http.post("/v1/embeddings", json={"model": "embedder", "input": TEXTS[:2]}).json()
    validate("CreateEmbeddingResponse", answer)
    CreateEmbeddingResponse.model_validate(answer, strict=True)
    validate("ListModelsResponse", http.get("/v1/models").json())
    validate("Model", http.get("/v1/models/embedder").json())


def memory_comes_back(http: httpx.Client, house: Threaded) -> None:
    with_it = resident_bytes()
    size = http.get("/v1/models/embedder").json()["memory_bytes"]
    pids = house.live.engine.runtime("embedder").core.processes.pids
    message = {"role": "user", "content": "hi"}
    long = {"model": "toy", "messages": [message], "max_tokens": 600, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=long) as stream:
        assert http.delete("/v1/models/embedder").json()["deleted"] is True
        assert stream.read().endswith(b"data: [DONE]\n\n")
    assert not any(psutil.pid_exists(pid) for pid in pids)
    freed = with_it - resident_bytes()
    assert freed > 0.9 * size
    gone = http.post("/v1/embeddings", json={"model": "embedder", "input": "a"})
    assert_error(gone, 503, "model_not_loaded", "model")


def memory_comes_back_every_time(http: httpx.Client) -> None:
    """What engines leave in our own process does not add up."""
    first = own_bytes()
    for _ in range(2):
        assert http.post("/v1/models/embedder/load").status_code == 200
        assert http.post("/v1/embeddings", json={"model": "embedder", "input": TEXTS}).status_code == 200
        assert http.delete("/v1/models/embedder").json()["deleted"] is True
    assert own_bytes() < 1.05 * first


def own_bytes() -> int:
    """Without what the next full collection would free: engines are full of cycles."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def classes_are_the_reference_s(http: httpx.Client, place: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    texts = [text for text in TEXTS if len(text) < 100]
    body = {"model": "moods", "input": texts, "return_all_scores": True}
    data = http.post("/v1/classify", json=body).json()["data"]
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = BertForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    for text, each in zip(texts, data, strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert list(each["scores"].values()) == pytest.approx(wanted, abs=1e-4)
        assert each["label"] == LABELS[int(np.argmax(wanted))]


def scores_are_the_reference_s(http: httpx.Client, place: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    second = ["tax forms", "The river is calm.", "a"]
    data = http.post("/v1/score", json={"model": "judge", "text_1": "a stream", "text_2": second}).json()["data"]
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = BertForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    for text, each in zip(second, data, strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer("a stream", text, return_tensors="pt")).logits.sigmoid().item()
        assert each["score"] == pytest.approx(wanted, abs=1e-4)


def what_cannot_be_loaded_harms_nobody(http: httpx.Client) -> None:
    broken = http.post("/v1/models/broken/load")
    assert broken.status_code == 503
    assert broken.json()["error"]["code"] == "model_failed"
    began = time.monotonic()
    assert_error(chat(http, model="broken"), 503, "model_failed", "model")
    assert time.monotonic() - began < 5  # it is not tried again at once
    assert http.post("/v1/models/huge/load").json()["error"]["code"] == "model_failed"
    assert (states(http)["broken"], states(http)["huge"]) == ("failed", "failed")
    assert chat(http).status_code == 200
    assert http.get("/readyz").status_code == 200
    assert "broken" in http.get("/readyz").headers["x-degraded"]


def every_engine_is_seen(http: httpx.Client, house: Threaded) -> None:
    text = http.get("/metrics").text
    running = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    seen = {line.split('model_name="')[1].split('"')[0] for line in running}
    # The registry is the process's: the session's shared engine may be there too, with families of its own.
    assert {"toy", "judge"} <= seen
    assert not {"embedder", "moods", "broken", "huge"} & seen
    families = [family.name for family in house.live.engine._metrics.collect()]
    assert families.count("vllm:num_requests_running") == 1
    assert len(families) == len(set(families))
