"""Adapters over HTTP on real vLLM: a toy model in float32, four places for adapters, random adapters on disk.

Whatever an adapter says alone is what it must say in every company. Nothing a caller registers may harm the engine:
its process and a neighbour's stream are looked at after every fault.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.adapters.residency import Unobserved
from engine.toy import make_toy_model
from gateway.usage.records import Settled
from tests.support import lora
from tests.support.broken_adapters import BROKEN
from tests.support.client import Client, Response
from tests.support.gateways import KEY, Threaded, eventually, threaded
from tests.support.lora_reference import top_logprobs

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = "toy"
PLACES = 4
FAMILY = 50
PROMPT = "The quick brown fox jumps over the lazy dog and then "
#: Whole blocks of the prefix cache, however large.
LONG_PROMPT = PROMPT * 40
COUNTED = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def base(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_model(tmp_path_factory.mktemp("toy"), default_model)


class CountedLoads(Unobserved):
    """How often the engine was given an adapter."""

    count = 0

    def adapter_loaded(self, seconds: float, *, good: bool) -> None:
        """See :class:`engine.adapters.residency.LoraObserver`."""
        self.count += good


@pytest.fixture(scope="module")
def loads() -> CountedLoads:
    return CountedLoads()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def gateway(
    base: Path, root: Path, loads: CountedLoads, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Threaded]:
    from gateway.engines import build_pool, first_served
    from gateway.settings import load

    engine = {"max_model_len": 1024, "max_num_seqs": 64, "dtype": "float32", "gpu_memory_utilization": 0.15}
    adapters = {
        "roots": [str(root)],
        "enabled": True,
        "batch": PLACES,
        "resident": PLACES,
        "max_rank": 16,
        "max_bytes": 32 * 1024 * 1024,
        "wait": 300.0,
    }
    state = tmp_path_factory.mktemp("state")

    def build() -> Any:
        settings = load(flags={"engine": engine, "adapters": adapters, "state_dir": state})
        return build_pool(settings, [first_served(settings, str(base), MODEL)], loads)

    patient = {"max_wait": 600.0}
    store = {"poll_interval": 0.2}
    with threaded(build, state, with_store=True, admission=patient, adapters=adapters, store=store) as served:
        yield served
        assert served.live.store is not None
        served.live.store.close(5.0)


@pytest.fixture
def client(gateway: Threaded) -> Client:
    return Client("127.0.0.1", gateway.live.port, KEY, timeout=400.0)


def body(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True} | changes


async def said(client: Client, model: str, **changes: Any) -> str:
    answer = await client.post("/v1/completions", body(model, **changes))
    assert answer is not None
    assert answer.status == 200, answer.body
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["text"])


async def register(client: Client, name: str, path: Path, **fields: Any) -> Response:
    answer = await client.post("/v1/adapters", {"name": name, "path": str(path), **fields})
    assert answer is not None
    return answer


async def removed(client: Client, name: str, query: str = "") -> Response:
    return await client.request("DELETE", f"/v1/adapters/{name}{query}")


def engine_pids(gateway: Threaded) -> list[int]:
    return sorted(gateway.live.engine.core.processes.pids)


async def engine_ids(gateway: Threaded) -> set[int]:
    inside: set[int] = await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(gateway.live.engine.core.loras(), gateway.thread.loop)
    )
    return inside


def spoil_copy(gateway: Threaded, sha256: str) -> None:
    """What a faulty disk might do: the checked copy has no weights any more."""
    (copies,) = (Path(gateway.live.settings.state_dir) / "adapters").iterdir()
    (copies / sha256).chmod(0o700)
    (copies / sha256 / lora.WEIGHTS).unlink()


@pytest.fixture(scope="module")
def family(gateway: Threaded, base: Path, root: Path) -> dict[str, str]:
    """Fifty adapters and what each says alone; the base model under the empty name."""
    client = Client("127.0.0.1", gateway.live.port, KEY, timeout=400.0)

    async def meet() -> dict[str, str]:
        alone = {"": await said(client, MODEL)}
        for number in range(FAMILY):
            name = f"f{number}"
            path = lora.make_adapter(root / "family" / name, base, seed=number, scale=2.0)
            made = await register(client, name, path)
            assert made.status == 200, made.body
            alone[name] = await said(client, f"{MODEL}:{name}")
        return alone

    alone = asyncio.run(meet())
    assert len(set(alone.values())) == FAMILY + 1, "each has a voice of its own"
    return alone


async def test_an_adapter_has_two_names_and_the_base_keeps_its_voice(client: Client, family: dict[str, str]) -> None:
    assert await said(client, "f3") == await said(client, f"{MODEL}:f3") == family["f3"]
    assert await said(client, MODEL) == family[""]
    listed = (await client.get("/v1/models")).json()["data"]
    (found,) = [model for model in listed if model["id"] == f"{MODEL}:f3"]
    assert (found["parent"], found["adapter"]) == (MODEL, "f3")
    assert (await client.get("/v1/models/f3")).json() == found
    assert (await client.get(f"/v1/models/{MODEL}:f3")).json() == found


async def test_a_public_name_answers_with_the_version_that_is_active(client: Client, family: dict[str, str]) -> None:
    admin = "/v1/admin/registry"

    async def post(path: str, fields: dict[str, Any]) -> None:
        answer = await client.post(path, fields)
        assert answer is not None
        assert answer.status == 200, answer.body

    for target in (MODEL, "f1", f"{MODEL}:f2"):
        await post(admin, {"name": "voice", "target": target, "activate": True})
    try:
        assert await said(client, "voice") == family["f2"]
        for number, expected in ((1, family[""]), (2, family["f1"])):
            await post(f"{admin}/voice/activate", {"version": number})
            assert await said(client, "voice") == expected
        await post(f"{admin}/voice/rollback", {})
        assert await said(client, "voice") == family[""]
        arms = [{"version": number, "weight": 1} for number in (1, 2, 3)]
        assert (await client.request("PUT", f"{admin}/voice/split", {"arms": arms})).status == 200
        voices = {"voice@1": family[""], "voice@2": family["f1"], "voice@3": family["f2"]}
        asked = [client.post("/v1/completions", body("voice", user=f"u{number}")) for number in range(24)]
        heard = set()
        for answer in await asyncio.gather(*asked):
            assert answer is not None
            heard.add((answer.headers["x-sluice-arm"], answer.json()["choices"][0]["text"]))
        assert heard == set(voices.items())
    finally:
        await client.request("DELETE", f"{admin}/voice")


async def named(client: Client, name: str, *targets: str) -> str:
    """A public name with these versions, of which the first is active; its address."""
    for index, target in enumerate(targets):
        body = {"name": name, "target": target, "activate": not index}
        answer = await client.post("/v1/admin/registry", body)
        assert answer is not None
        assert answer.status == 200, answer.body
    return f"/v1/admin/registry/{name}"


async def asked_by_many(client: Client, model: str, count: int = 16) -> list[Response]:
    asked = [client.post("/v1/completions", body(model, user=f"u{number}")) for number in range(count)]
    return [answer for answer in await asyncio.gather(*asked) if answer is not None]


async def test_a_canary_that_fails_goes_back_by_itself_and_stays_so(
    client: Client, gateway: Threaded, base: Path, root: Path, family: dict[str, str]
) -> None:
    """Its version is an adapter whose copy does not load any more."""
    live, pids = gateway.live, engine_pids(gateway)
    path = lora.make_adapter(root / "sick", base, seed=6000, scale=2.0)
    spoil_copy(gateway, (await register(client, "sick", path)).json()["sha256"])
    name = await named(client, "tried", "f1", "sick")
    rules = {"version": 2, "steps": [50], "min_requests": 2, "min_seconds": 0, "max_latency_ratio": None}
    assert (await client.request("PUT", f"{name}/canary", rules)).status == 200
    neighbour = asyncio.create_task(client.stream("/v1/completions", body("f0", stream=True, max_tokens=300)))
    heard = set()
    for answer in await asked_by_many(client, "tried"):
        whole = answer.json()
        said_or_code = whole["error"]["code"] if "error" in whole else whole["choices"][0]["text"]
        heard.add((answer.headers["x-sluice-arm"], answer.status, said_or_code))
    assert heard == {("tried@1", 200, family["f1"]), ("tried@2", 503, "adapter_unavailable")}

    async def rolled_back() -> bool:
        return (await client.get(name)).json()["canary"] is None

    await eventually(rolled_back, 60)
    version = (await client.get(name)).json()["versions"][1]
    assert (version["stage"], "failed" in version["reason"]) == ("failed", True)
    assert {each.headers["x-sluice-arm"] for each in await asked_by_many(client, "tried")} == {"tried@1"}
    again = await client.request("PUT", f"{name}/canary", rules)
    assert (again.status, again.json()["error"]["code"]) == (409, "version_failed")
    assert live.metric("sluice_registry_canary_turns_total", name="tried", outcome="rolled_back") == 1
    assert live.metric("sluice_registry_requests_total", name="tried", arm="tried@2", outcome="failed") >= 2
    assert {"tried@1", "tried@2"} <= {entry.arm for entry in live.access_log.entries}
    rows = [row for row in live.ledger.entries if row.arm == "tried@1"]
    assert {row.adapter for row in rows} == {"f1"}
    assert (await neighbour).ending == "done"
    assert engine_pids(gateway) == pids
    await client.request("DELETE", name)
    await removed(client, "sick")


async def test_a_shadow_runs_on_the_same_engine_unseen(
    client: Client, gateway: Threaded, family: dict[str, str]
) -> None:
    live = gateway.live
    name = await named(client, "followed", "f1", "f2")
    assert (await client.request("PUT", f"{name}/shadow", {"version": 2})).status == 200
    before = await said(client, "f2")  # it is in the engine: a shadow waits for none
    assert await said(client, "followed") == family["f1"]
    labels = {"name": "followed", "arm": "followed@2", "outcome": "completed"}
    await eventually(lambda: live.metric("sluice_registry_shadows_total", **labels) == 1, 60)
    (settled,) = [row for row in live.ledger.entries if isinstance(row, Settled) and row.arm == "followed@2"]
    assert (settled.tenant, settled.adapter, settled.completion_tokens) == ("shadow", "f2", 8)
    assert before == family["f2"]
    await client.request("DELETE", name)


async def test_a_batch_of_base_and_adapters_says_what_each_says_alone(client: Client, family: dict[str, str]) -> None:
    """On a CPU vLLM gives a row without an adapter the last slot's: see engine/lora_cpu.py."""
    names = ["", "f0", "f1", "", "f2", "f3", ""] * 6
    answers = await asyncio.gather(*[said(client, f"{MODEL}:{name}" if name else MODEL) for name in names])
    assert answers == [family[name] for name in names]


async def test_fifty_adapters_through_four_places_each_with_its_own_answer(
    client: Client, gateway: Threaded, loads: CountedLoads, family: dict[str, str]
) -> None:
    chance = random.Random(7)
    names = [f"f{chance.randrange(FAMILY)}" for _ in range(180)] + [""] * 20
    chance.shuffle(names)
    pids = engine_pids(gateway)
    before = loads.count
    answers = await asyncio.gather(*[said(client, f"{MODEL}:{name}" if name else MODEL) for name in names])
    assert answers == [family[name] for name in names]
    # Who waits for the same adapter is served by one load of it: no thrashing, however random they come.
    assert loads.count - before <= FAMILY + PLACES
    assert len(await engine_ids(gateway)) <= PLACES
    assert engine_pids(gateway) == pids
    assert all(info.running == 0 for info in gateway.live.engine.adapters())


async def test_a_storm_of_random_adapters_loads_less_often_than_it_answers(
    client: Client, loads: CountedLoads, family: dict[str, str]
) -> None:
    """Forty-eight callers, each with one request at a time, fifty adapters, four places."""
    chance = random.Random(8)
    queue = [f"f{chance.randrange(FAMILY)}" for _ in range(240)]
    wrong: list[str] = []
    before = loads.count

    async def caller() -> None:
        while queue:
            name = queue.pop()
            if await said(client, name) != family[name]:
                wrong.append(name)

    await asyncio.gather(*(caller() for _ in range(48)))
    assert wrong == []
    # Taking turns at random, four of fifty places would find their adapter there once in twelve requests.
    assert loads.count - before <= 0.85 * 240


async def test_usage_is_the_bases_and_the_adapters(client: Client, gateway: Threaded, family: dict[str, str]) -> None:
    before = gateway.live.metric("sluice_adapter_requests_total", model=MODEL, adapter="f5")
    await said(client, "f5")
    settled = [row for row in gateway.live.ledger.entries if getattr(row, "outcome", None)][-1]
    assert (settled.model, settled.adapter) == (MODEL, "f5")
    assert gateway.live.metric("sluice_adapter_requests_total", model=MODEL, adapter="f5") == before + 1
    assert gateway.live.access_log.entries[-1].adapter == "f5"


async def test_streams_and_whole_answers_agree(client: Client, family: dict[str, str]) -> None:
    stream = await client.stream("/v1/completions", body(f"{MODEL}:f8", stream=True))
    assert (stream.ending, stream.text()) == ("done", family["f8"])
    messages = [{"role": "user", "content": "Hello"}]
    chat = {"model": "f8", "messages": messages, "max_tokens": 8, "temperature": 0, "n": 2}
    whole = await client.post("/v1/chat/completions", chat)
    assert whole is not None
    assert whole.status == 200
    assert len(whole.json()["choices"]) == 2


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "toy:", ":f1", ":", "toy:f1:f1", "toy:../../x", "toy:/etc/passwd", "toy:~root", "toy:%2e%2e", "toy:org/repo",
        "toy:https://h/x", "other:f1", "toy:nobody", "nobody", "toy:F1", "f1:toy",
    ],
)  # fmt: skip
async def test_names_that_mean_nothing_get_one_and_the_same_404(client: Client, name: str) -> None:
    answer = await client.post("/v1/completions", body(name))
    unknown = await client.post("/v1/completions", body("no-such-model"))
    assert answer is not None
    assert unknown is not None
    assert (answer.status, answer.body) == (404, unknown.body)
    assert answer.json()["error"]["code"] == "model_not_found"


# -- files that must not be loaded ------------------------------------------------------------------------------------


async def test_every_kind_of_broken_adapter_is_refused_while_a_neighbour_streams(
    client: Client, gateway: Threaded, base: Path, root: Path, family: dict[str, str]
) -> None:
    pids = engine_pids(gateway)
    neighbour = asyncio.create_task(
        client.stream("/v1/completions", body("f0", stream=True, max_tokens=600, **COUNTED))
    )
    wrong: list[object] = []
    for number, (kind, (spoil, status, code)) in enumerate(BROKEN.items()):
        path = lora.make_adapter(root / "broken" / f"b{number}", base, seed=number)
        spoil(path, base)
        answer = await register(client, f"b{number}", path)
        error = answer.json().get("error", {})
        if (answer.status, error.get("code"), error.get("param")) != (status, code, "path"):
            wrong.append((kind, answer.status, answer.body))
        if str(root) in answer.body.decode():
            wrong.append((kind, "tells the path", answer.body))
    assert wrong == []
    listed = (await client.get("/v1/adapters")).json()["data"]
    assert [each["name"] for each in listed if each["name"].startswith("b")] == []
    stream = await neighbour
    assert (stream.ending, stream.chunks()[-1]["usage"]["completion_tokens"]) == ("done", 600)
    assert engine_pids(gateway) == pids
    assert await said(client, MODEL) == family[""]


@pytest.mark.parametrize(
    "path", ["{root}/../..", "/etc", "{root}", "{root}/away", "relative", "/proc/self/root/etc", "~"]
)
async def test_paths_outside_are_not_looked_at(client: Client, base: Path, root: Path, path: str) -> None:
    if not (root / "away").is_symlink():
        lora.make_adapter(root.parent / "elsewhere", base, seed=1)
        (root / "away").symlink_to(root.parent / "elsewhere")
    answer = await client.post("/v1/adapters", {"name": "out", "path": path.format(root=root)})
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (400, "path_not_allowed")
    assert answer.json()["error"]["param"] == "path"


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"name": "a/b", "path": "/x"}, 400, "name", "invalid_value"),
        ({"name": "", "path": "/x"}, 400, "name", "invalid_value"),
        ({"name": "x" * 65, "path": "/x"}, 400, "name", "invalid_value"),
        ({"name": "x"}, 400, "path", "invalid_value"),
        ({"name": "x", "path": "/x", "source": "hub:a/b"}, 400, "path", "invalid_value"),
        ({"name": "x", "source": "hub:a/b"}, 400, "source", "source_not_allowed"),
        ({"name": "x", "source": "https://h/x.tar", "sha256": "0" * 64}, 400, "source", "source_not_allowed"),
        ({"name": "x", "source": "s3://bucket/x.tar", "sha256": "0" * 64}, 400, "source", "source_not_allowed"),
        ({"name": "x", "path": "/x", "sha256": "nope"}, 400, "sha256", "invalid_value"),
        ({"name": "x", "path": "/x", "model": "other"}, 404, "model", "model_not_found"),
        ({"name": "toy", "path": "/x"}, 409, "name", "already_exists"),
        ({"name": "x", "path": "/x", "weight": 1}, 400, "weight", "unknown_parameter"),
        ({"path": "/x"}, 400, "name", "missing_required_parameter"),
    ],
)
async def test_bodies_are_checked_by_name(
    client: Client, fields: dict[str, Any], status: int, param: str, code: str
) -> None:
    answer = await client.post("/v1/adapters", fields)
    assert answer is not None
    error = answer.json()["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code)


# -- what an adapter means --------------------------------------------------------------------------------------------

LAYER = "model.layers.1.self_attn.q_proj"
ALL_BUT_ORDER = {"self_attn.q_proj": 12, LAYER: 1, "mlp.down_proj": 0.5}
MEANT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plainly": ({}, {}),
    "against the base": ({}, {"lora_alpha": -4}),
    "by the root of its rank": ({}, {"use_rslora": True}),
    "more here than there": ({}, {"alpha_pattern": {"q_proj": 16, "v_proj": 1}}),
    "by the first pattern that matches": ({}, {"alpha_pattern": ALL_BUT_ORDER}),
    "in one layer alone": ({"only": LAYER}, {}),
    "with a rank of its own": ({"ranks": {"o_proj": 8}}, {"rank_pattern": {"o_proj": 8}}),
    "in half precision": ({"dtype": "float16"}, {}),
    "in the embedding": ({"embedding": True, "modules": ()}, {}),
    "in the last layer": ({"modules": ("lm_head",)}, {"target_modules": ["lm_head"]}),
    "everywhere": ({"embedding": True, "modules": (*lora.ALL, "lm_head")}, {"target_modules": "all-linear"}),
    "without its library's root": ({"rootless": True}, {"target_modules": r".*\\.(q|v)_proj"}),
    "with fields of other versions": ({}, {"peft_version": "9.9", "corda_config": None, "lora_dropout": 0.1, "x": {}}),
}


def meant(base: Path, seed: int, how: dict[str, Any]) -> dict[str, lora.Array]:
    """Random tensors, as a row of the table wants them."""
    modules = tuple(how.get("modules", lora.ALL))
    tensors = lora.tensors_of(base, seed=seed, scale=2.0, modules=modules) if modules else {}
    if "only" in how:
        tensors = {name: value for name, value in tensors.items() if how["only"] in name}
    for module, rank in how.get("ranks", {}).items():
        tensors |= lora.tensors_of(base, seed=seed + 1, rank=rank, modules=(module,))
    if how.get("embedding"):
        tensors |= lora.embedding_of(base, seed=seed)
    if "dtype" in how:
        tensors = {name: value.astype(how["dtype"]) for name, value in tensors.items()}
    if how.get("rootless"):
        tensors = {name.removeprefix("base_model.model."): value for name, value in tensors.items()}
    return tensors


@pytest.mark.parametrize("kind", MEANT)
async def test_an_adapter_is_what_its_library_means_by_it(client: Client, base: Path, root: Path, kind: str) -> None:
    how, fields = MEANT[kind]
    tensors, config = meant(base, 7000, how), lora.config_of(**fields)
    path = lora.write(root / "meant" / kind.replace(" ", "-"), tensors, config)
    made = await register(client, "meant", path)
    assert made.status == 200, made.body
    ids = list(range(300, 340))
    answer = await client.post("/v1/completions", body("meant", prompt=ids, max_tokens=1, logprobs=5))
    assert answer is not None
    assert answer.status == 200, answer.body
    (top,) = answer.json()["choices"][0]["logprobs"]["top_logprobs"]
    heard = sorted(top.values(), reverse=True)[:5]
    assert heard == pytest.approx(top_logprobs(base, tensors, config, ids), abs=0.005)
    assert (await removed(client, "meant")).status == 200


# -- versions, and files that change ----------------------------------------------------------------------------------


async def test_a_new_version_is_heard_at_once_and_old_streams_end_on_the_old(
    client: Client, gateway: Threaded, base: Path, root: Path
) -> None:
    path = lora.make_adapter(root / "versions", base, seed=1000, scale=2.0)
    first = (await register(client, "v", path)).json()
    long = {"prompt": LONG_PROMPT}
    one = await said(client, "v", **long)
    assert one == await said(client, "v", **long), "from the prefix cache"
    running = asyncio.create_task(client.stream("/v1/completions", body("v", stream=True, max_tokens=300, **long)))
    await eventually(lambda: any(info.name == "v" and info.running for info in gateway.live.engine.adapters()), 60)
    lora.make_adapter(path, base, seed=1001, scale=2.0)
    second = (await register(client, "v", path)).json()
    assert second["sha256"] != first["sha256"]
    two = await said(client, "v", **long)
    assert two != one, "no block of the prefix cache is stale"
    old = await running
    assert old.ending == "done"
    assert old.text().startswith(one)
    # Equal content is the same version, whatever its date.
    assert (await register(client, "v", path)).json()["sha256"] == second["sha256"]
    (copies,) = (Path(gateway.live.settings.state_dir) / "adapters").iterdir()
    await eventually(lambda: not (copies / first["sha256"]).exists(), 20)
    assert (copies / second["sha256"]).is_dir()
    assert (await removed(client, "v")).status == 200
    await eventually(lambda: not (copies / second["sha256"]).exists(), 20)


async def test_sources_may_vanish_and_change_after_they_were_registered(
    client: Client, gateway: Threaded, base: Path, root: Path, family: dict[str, str]
) -> None:
    """Evicted by us, so that the worker has to read the files again: it reads our copy."""
    pids = engine_pids(gateway)
    path = lora.make_adapter(root / "vanishing", base, seed=2000, scale=2.0)
    await register(client, "vanishing", path)
    alone = await said(client, "vanishing")
    (path / lora.WEIGHTS).write_bytes(b"garbage")
    shutil.rmtree(path)
    for number in range(2 * PLACES):
        await said(client, f"f{number}")
    assert await said(client, "vanishing") == alone
    assert engine_pids(gateway) == pids


async def test_a_copy_that_is_spoiled_is_its_callers_trouble_only(
    client: Client, gateway: Threaded, base: Path, root: Path, family: dict[str, str]
) -> None:
    pids = engine_pids(gateway)
    path = lora.make_adapter(root / "spoiled", base, seed=3000, scale=2.0)
    spoil_copy(gateway, (await register(client, "spoiled", path)).json()["sha256"])
    assert gateway.live.engine.adapters()
    for _ in range(5):
        answer = await client.post("/v1/completions", body("spoiled"))
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "adapter_unavailable")
        assert answer.headers["x-should-retry"] == "false"
        assert int(answer.headers["retry-after"]) > 30
    assert (await client.get("/v1/adapters/spoiled")).json()["status"] == "broken"
    assert await said(client, "f1") == family["f1"]
    assert engine_pids(gateway) == pids
    assert (await removed(client, "spoiled")).status == 200


# -- in use, pinned, gone ---------------------------------------------------------------------------------------------


async def test_removal_of_one_in_use_is_refused_or_waits(
    client: Client, gateway: Threaded, base: Path, root: Path
) -> None:
    await register(client, "busy", lora.make_adapter(root / "busy", base, seed=4000))
    running = asyncio.create_task(
        client.stream("/v1/completions", body("busy", stream=True, max_tokens=500, **COUNTED))
    )
    await eventually(lambda: any(info.name == "busy" and info.running for info in gateway.live.engine.adapters()), 60)
    refused = await removed(client, "busy")
    assert (refused.status, refused.json()["error"]["code"]) == (409, "in_use")
    assert refused.headers["x-should-retry"] == "false"
    before = await engine_ids(gateway)
    assert (await removed(client, "busy", "?drain=true")).status == 202
    answer = await client.post("/v1/completions", body("busy"))
    assert answer is not None
    assert answer.status == 404
    stream = await running
    assert (stream.ending, stream.chunks()[-1]["usage"]["completion_tokens"]) == ("done", 500)

    async def freed() -> bool:
        return len(await engine_ids(gateway)) < len(before)

    await eventually(freed, 20)
    assert (await removed(client, "busy")).status == 404


async def test_equal_registrations_at_once_are_one(client: Client, base: Path, root: Path) -> None:
    path = lora.make_adapter(root / "together", base, seed=5000)
    answers = await asyncio.gather(*[register(client, "together", path) for _ in range(6)])
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.json()["sha256"] for answer in answers}) == 1
    assert (await removed(client, "together")).status == 200


async def test_pinned_ones_stay_and_are_back_after_the_engine_died(
    client: Client, gateway: Threaded, family: dict[str, str]
) -> None:
    pinned = await client.request("PATCH", "/v1/adapters/f7", {"pinned": True})
    assert (pinned.status, pinned.json().get("pinned")) == (200, True), pinned.body

    def resident(name: str) -> bool:
        return any(info.name == name and info.state == "resident" for info in gateway.live.engine.adapters())

    await eventually(lambda: resident("f7"), 20)
    for number in range(20, 20 + 2 * PLACES):
        await said(client, f"f{number}")
    assert resident("f7")
    old = engine_pids(gateway)
    os.kill(old[-1], 9)
    await eventually(lambda: engine_pids_or_none(gateway) not in (None, old), 150)
    await eventually(lambda: resident("f7"), 60)
    assert await said(client, "f7") == family["f7"]
    assert await said(client, "f2") == family["f2"]
    assert await said(client, MODEL) == family[""]


def engine_pids_or_none(gateway: Threaded) -> list[int] | None:
    engine = gateway.live.engine
    return engine_pids(gateway) if engine.core is not None and engine.state().phase.value == "ready" else None
