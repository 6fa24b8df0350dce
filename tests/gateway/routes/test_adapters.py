"""Who may register and see adapters, what is written down, and that replicas agree. The engine is a stub here."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.adapters.catalog import Adapter
from gateway.adapters.service import AdapterService
from gateway.adapters.sources import Source, SourcePolicy, SourceRefused, Sources
from gateway.protocol.adapters import AdapterObject, AdapterObjects
from gateway.store.tables import audit
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import StubEngine

POLL = 0.05


def settings_of(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    (tmp_path / "root").mkdir(exist_ok=True)
    return {"enabled": True, "roots": [str(tmp_path / "root")], "poll_interval": POLL} | changes


def adapter_at(tmp_path: Path, name: str) -> str:
    path = tmp_path / "root" / name
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with running(StubEngine(), tmp_path, with_store=True, adapters=settings_of(tmp_path)) as gateway:
        yield gateway


def http(live: Live, key: str | None = None) -> httpx.AsyncClient:
    headers = live.authorization if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=live.url, headers=headers, timeout=20.0)


async def key_of(live: Live, **fields: Any) -> str:
    async with http(live) as owner:
        made = await owner.post(
            "/v1/admin/keys", json={"name": "k", "scopes": ["inference", "training", "read_only"], **fields}
        )
    assert made.status_code == 200, made.text
    return str(made.json()["key"])


def code(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def complete(client: httpx.AsyncClient, model: str) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": model, "prompt": "hello", "max_tokens": 4})


async def test_the_life_of_an_adapter(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        made = await client.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "one")})
        described = AdapterObject.model_validate(made.json())
        assert (described.id, described.origin, described.tenant) == ("stub:ad", "registered", "default")
        assert (await client.get("/v1/adapters/ad")).json() == made.json()
        AdapterObjects.model_validate((await client.get("/v1/adapters")).json())
        assert {model["id"] for model in (await client.get("/v1/models")).json()["data"]} == {"stub", "stub:ad"}
        base = (await complete(client, "stub")).json()["choices"][0]["text"]
        voice = (await complete(client, "ad")).json()["choices"][0]["text"]
        assert base != voice == (await complete(client, "stub:ad")).json()["choices"][0]["text"]
        off = await client.patch("/v1/adapters/ad", json={"enabled": False})
        assert off.json()["status"] == "disabled"
        unknown = await complete(client, "nobody")
        assert (await complete(client, "ad")).content == unknown.content
        await client.patch("/v1/adapters/ad", json={"enabled": True, "pinned": True})
        assert (await complete(client, "ad")).status_code == 200
        assert (await client.delete("/v1/adapters/ad")).status_code == 200
        assert (await complete(client, "ad")).content == unknown.content
        assert code(await client.delete("/v1/adapters/ad")) == (404, "adapter_not_found", "name")
    assert live.engine.adapters() == []


def slow_to_look(live: Live) -> tuple[asyncio.Event, asyncio.Event]:
    """The next look at the store has read, and waits: (it has, it may go on)."""
    service = next(each for each in live.gateway._services if isinstance(each, AdapterService))
    read, go_on = asyncio.Event(), asyncio.Event()
    looked = service._call

    async def look(work: Any) -> Any:
        found = await looked(work)
        read.set()
        await go_on.wait()
        service._call = looked
        return found

    service._call = look
    return read, go_on


async def test_what_is_registered_or_removed_during_a_look_at_the_store_stays_so(live: Live, tmp_path: Path) -> None:
    path = adapter_at(tmp_path, "one")
    async with http(live) as client:
        read, go_on = slow_to_look(live)
        await read.wait()
        assert (await client.post("/v1/adapters", json={"name": "new", "path": path})).status_code == 200
        go_on.set()
        for _ in range(10):
            assert (await complete(client, "new")).status_code == 200
            await asyncio.sleep(POLL / 2)
        read, go_on = slow_to_look(live)
        await read.wait()
        assert (await client.delete("/v1/adapters/new")).status_code == 200
        go_on.set()
        for _ in range(10):
            assert (await complete(client, "new")).status_code == 404
            await asyncio.sleep(POLL / 2)


async def test_what_is_changed_during_a_look_at_the_store_stays_so(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await client.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "one")})
        read, go_on = slow_to_look(live)
        await read.wait()
        assert (await client.patch("/v1/adapters/ad", json={"enabled": False})).json()["status"] == "disabled"
        go_on.set()
        for _ in range(30):
            assert (await complete(client, "ad")).status_code == 404


async def test_paths_that_lead_nowhere(live: Live, tmp_path: Path) -> None:
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root" / "circle")
    async with http(live) as client:
        for path in (str(tmp_path / "root" / "circle"), "~nobody-of-this-name/x", "/proc/self/fd/0"):
            answer = await client.post("/v1/adapters", json={"name": "x", "path": path})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "path_not_allowed", "path")


async def test_tenants_do_not_see_each_others_adapters(live: Live, tmp_path: Path) -> None:
    mine, others = await key_of(live, tenant="team-a"), await key_of(live, tenant="team-b")
    path = adapter_at(tmp_path, "one")
    async with http(live, mine) as a, http(live, others) as b, http(live) as owner:
        assert (await a.post("/v1/adapters", json={"name": "ours", "path": path})).status_code == 200
        unknown = await complete(b, "stub:nobody")
        for name in ("ours", "stub:ours"):
            assert (await complete(a, name)).status_code == 200
            hidden = await complete(b, name)
            assert (hidden.status_code, hidden.content) == (404, unknown.content)
        assert [model["id"] for model in (await b.get("/v1/models")).json()["data"]] == ["stub"]
        assert (await b.get("/v1/adapters")).json()["data"] == []
        assert code(await b.get("/v1/adapters/ours")) == (404, "adapter_not_found", "name")
        assert code(await b.delete("/v1/adapters/ours")) == (404, "adapter_not_found", "name")
        taken = await b.post("/v1/adapters", json={"name": "ours", "path": path})
        assert code(taken) == (409, "already_exists", "name")
        assert taken.headers["x-should-retry"] == "false"
        beyond = await b.post("/v1/adapters", json={"name": "all", "path": path, "shared": True})
        assert code(beyond) == (403, "insufficient_scope", "shared")
        assert (await owner.post("/v1/adapters", json={"name": "all", "path": path, "shared": True})).status_code == 200
        assert (await complete(b, "all")).status_code == 200
        assert code(await b.delete("/v1/adapters/all")) == (404, "adapter_not_found", "name")
        assert (await owner.delete("/v1/adapters/ours")).status_code == 200


async def test_a_key_may_be_held_to_some_adapters(live: Live, tmp_path: Path) -> None:
    held, free = await key_of(live, adapters=["a"]), await key_of(live)
    async with http(live, held) as narrow, http(live, free) as wide:
        for name in ("a", "b"):
            made = await wide.post("/v1/adapters", json={"name": name, "path": adapter_at(tmp_path, name)})
            assert made.status_code == 200
        assert (await complete(narrow, "a")).status_code == 200
        assert (await complete(narrow, "b")).content == (await complete(narrow, "c")).content
        assert [each["name"] for each in (await narrow.get("/v1/adapters")).json()["data"]] == ["a"]
        beyond = await narrow.post("/v1/adapters", json={"name": "c", "path": adapter_at(tmp_path, "a")})
        assert code(beyond) == (403, "insufficient_scope", "name")


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
async def test_writing_needs_the_scope_training(live: Live, method: str) -> None:
    plain = await key_of(live, scopes=["inference", "read_only"])
    path = "/v1/adapters" if method == "POST" else "/v1/adapters/x"
    async with http(live, plain) as client:
        answer = await client.request(method, path, json={"name": "x", "path": "/x"})
        assert code(answer)[:2] == (403, "insufficient_scope")
        assert (await client.get("/v1/adapters")).status_code == 200
    async with httpx.AsyncClient(base_url=live.url) as browser:
        form = await browser.request(method, path, content=b"name=x", headers={"Cookie": "key=" + live.key})
        assert code(form)[:2] == (401, "missing_api_key")


async def test_acts_and_denials_are_written_down(live: Live, tmp_path: Path) -> None:
    async with http(live) as client:
        await client.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "one")})
        await client.patch("/v1/adapters/ad", json={"pinned": True})
        await client.delete("/v1/adapters/ad?drain=true")
    async with http(live, await key_of(live)) as client:
        await client.post("/v1/adapters", json={"name": "ad", "path": "/x", "shared": True})
    assert live.store is not None
    assert live.store.audit.flush(10)
    with live.store.database.read() as connection:
        rows = connection.execute(select(audit).where(audit.c.target == "ad").order_by(audit.c.id)).all()
    acts = [("adapter.create", True), ("adapter.update", True), ("adapter.delete", True), ("adapter.create", False)]
    assert [(row.act, row.allowed) for row in rows] == acts


async def test_replicas_converge(live: Live, tmp_path: Path) -> None:
    """A second gateway over the same store, with an engine of its own."""
    second = running(StubEngine(), tmp_path, with_store=True, adapters=settings_of(tmp_path))
    async with second as other, http(live) as one, http(other) as two:
        await one.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "one")})

        async def both_serve() -> bool:
            return (await complete(two, "ad")).status_code == 200

        await eventually(both_serve)
        assert [info.sha256 for info in other.engine.adapters()] == [info.sha256 for info in live.engine.adapters()]
        await two.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "two")})
        await eventually(lambda: live.engine.adapters() == other.engine.adapters())
        await two.patch("/v1/adapters/ad", json={"pinned": True})
        await eventually(lambda: all(info.pinned for info in live.engine.adapters()))
        await one.delete("/v1/adapters/ad")
        await eventually(lambda: not other.engine.adapters())
        assert (await complete(two, "ad")).status_code == 404


async def test_a_gateway_that_starts_finds_what_was_registered(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with running(StubEngine(), tmp_path, with_store=True, adapters=settings) as first, http(first) as client:
        await client.post("/v1/adapters", json={"name": "ad", "path": adapter_at(tmp_path, "one")})
    async with running(StubEngine(), tmp_path, with_store=True, adapters=settings) as second, http(second) as client:

        async def serves() -> bool:
            return (await complete(client, "ad")).status_code == 200

        await eventually(serves)


async def test_what_is_configured_is_there_and_cannot_be_taken_over(tmp_path: Path) -> None:
    inside = tmp_path / "directory"
    for name in ("there", "later"):
        (inside / name).mkdir(parents=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (inside / "there" / file).write_text("1")
    listed = [{"name": "named", "source": adapter_at(tmp_path, "one"), "tenant": "team-a"}]
    settings = settings_of(tmp_path, directory=str(inside), listed=listed)
    async with running(StubEngine(), tmp_path, with_store=True, adapters=settings) as live, http(live) as client:

        async def names() -> dict[str, str]:
            return {each["name"]: each["origin"] for each in (await client.get("/v1/adapters")).json()["data"]}

        async def are(wanted: dict[str, str]) -> bool:
            return await names() == wanted

        await eventually(lambda: are({"named": "listed", "there": "directory"}))
        for name in ("named", "there"):
            taken = await client.post("/v1/adapters", json={"name": name, "path": adapter_at(tmp_path, "one")})
            assert code(taken) == (409, "already_exists", "name")
            assert code(await client.delete(f"/v1/adapters/{name}")) == (409, "configured", "name")
        before = live.engine.adapters()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (inside / "later" / file).write_text("1")
        await eventually(lambda: are({"named": "listed", "there": "directory", "later": "directory"}))
        assert len(live.engine.adapters()) == len(before) + 1
        (inside / "there" / "adapter_config.json").unlink()
        await eventually(lambda: are({"named": "listed", "later": "directory"}))


async def test_what_cannot_be_fetched_keeps_its_name_and_is_not_tried_again_and_again(tmp_path: Path) -> None:
    listed = [{"name": "away", "source": "https://localhost:1/x.tar", "sha256": "0" * 64}]
    settings = settings_of(tmp_path, listed=listed)
    async with running(StubEngine(), tmp_path, with_store=True, adapters=settings) as live, http(live) as client:

        async def broken() -> bool:
            answer = await complete(client, "away")
            return answer.status_code == 503 and answer.headers.get("x-should-retry") == "false"

        await eventually(broken)
        answer = await complete(client, "away")
        assert code(answer) == (503, "adapter_unavailable", "model")
        fault = (await client.get("/v1/adapters/away")).json()["fault"]
        await asyncio.sleep(5 * POLL)
        assert (await client.get("/v1/adapters/away")).json()["fault"] == fault
        assert (await complete(client, "stub")).status_code == 200


async def test_ten_thousand_unknown_names_leave_nothing_behind_and_open_nothing(live: Live, tmp_path: Path) -> None:
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and "unknown-" in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    series = (
        len(list(live.metrics.registry.collect())),
        sum(len(each.samples) for each in live.metrics.registry.collect()),
    )
    async with http(live) as client:
        first = await complete(client, "stub:unknown-0")
        samples = sum(len(each.samples) for each in live.metrics.registry.collect())
        for start in range(0, 400, 40):
            answers = await asyncio.gather(*[complete(client, f"stub:unknown-{start + n}") for n in range(40)])
            assert {(answer.status_code, answer.content) for answer in answers} == {(404, first.content)}
    for number in range(10_000):
        assert live.gateway._pipeline is not None
        assert live.gateway._pipeline._adapters.named(f"stub:unknown-{number}") is None
    watching = False
    assert opened == []
    assert sum(len(each.samples) for each in live.metrics.registry.collect()) == samples
    assert series[0] == len(list(live.metrics.registry.collect()))
    assert live.gateway._pipeline is not None
    assert len(live.gateway._pipeline._adapters) == 0


def test_the_full_name_is_the_base_and_the_name() -> None:
    assert Adapter("ad", "org/model:8b").id == "org/model:8b:ad"


async def test_the_hub_is_asked_only_if_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, name: str, *, revision: str | None, local_dir: Path, endpoint: str | None) -> None:
        asked.append((repository, name, revision))
        (local_dir / name).write_bytes(b"{}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    body = {"name": "ad", "source": "hub:org/law", "revision": "3f2a"}
    files = [("org/law", name, "3f2a") for name in ("adapter_config.json", "adapter_model.safetensors")]
    for allowed in (False, True):
        state = tmp_path / str(allowed)
        state.mkdir()
        chosen = settings_of(state, allow_hub=allowed)
        async with running(StubEngine(), state, adapters=chosen) as live, http(live) as client:
            answer = await client.post("/v1/adapters", json=body)
        assert asked == (files if allowed else [])
        if allowed:
            assert answer.status_code == 200, answer.text
        else:
            assert code(answer) == (400, "source_not_allowed", "source")


# -- sources ----------------------------------------------------------------------------------------------------------


def archive(files: dict[str, bytes], inside: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(inside + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "evil.py": b"import os"}


def sources(tmp_path: Path, answer: Any, **policy: Any) -> Sources:
    chosen = SourcePolicy(allowed_hosts=["models.test", "cdn.test"], **policy)
    return Sources(chosen, tmp_path / "work", httpx.MockTransport(answer))


@pytest.mark.parametrize("inside", ["", "adapter/"])
async def test_an_archive_behind_a_url_is_checked_and_only_two_files_are_taken(tmp_path: Path, inside: str) -> None:
    packed = archive(FILES, inside)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.host == "models.test":
            return httpx.Response(302, headers={"location": "https://cdn.test/real.tar.gz?signature=1"})
        return httpx.Response(200, content=packed)

    source = Source("https://models.test/x.tar.gz", hashlib.sha256(packed).hexdigest())
    async with sources(tmp_path, answer).opened(source) as path:
        assert {file.name for file in path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert (path / "adapter_model.safetensors").read_bytes() == b"weights"
    assert asked == ["https://models.test/x.tar.gz", "https://cdn.test/real.tar.gz?signature=1"]
    assert list((tmp_path / "work").iterdir()) == [], "nothing stays"


def links() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "location", "code"),
    [
        (b"not an archive", 200, None, "invalid_adapter"),
        (archive(FILES)[:60], 200, None, "invalid_adapter"),
        (b"", 404, None, "source_unavailable"),
        (b"", 302, "https://169.254.169.254/latest", "source_not_allowed"),
        (b"", 302, "http://models.test/x", "source_not_allowed"),
        (b"", 302, "https://models.test/again", "source_unavailable"),
        (b"x" * 4_000_000, 200, None, "invalid_adapter"),
    ],
    ids=["no archive", "cut", "not there", "to an address", "to http", "round and round", "too large"],
)
async def test_what_urls_deliver_is_not_trusted(
    tmp_path: Path, content: bytes, status: int, location: str | None, code: str
) -> None:
    headers = {} if location is None else {"location": location}
    source = Source("https://models.test/x.tar", hashlib.sha256(content).hexdigest())
    chosen = sources(
        tmp_path, lambda _request: httpx.Response(status, content=content, headers=headers), max_bytes=100_000
    )
    with pytest.raises(SourceRefused) as caught:
        async with chosen.opened(source):
            pass
    assert caught.value.code == code
    assert list((tmp_path / "work").iterdir()) == []


async def test_links_and_ways_out_of_an_archive_are_left_in_it(tmp_path: Path) -> None:
    for packed in (links(), archive(FILES, "../../"), archive(FILES, "a/b/c/")):
        source = Source("https://models.test/x.tar", hashlib.sha256(packed).hexdigest())
        async with sources(tmp_path, lambda _request, packed=packed: httpx.Response(200, content=packed)).opened(
            source
        ) as path:
            assert list(path.iterdir()) == []
    assert os.listdir(tmp_path) == ["work"]


async def test_another_hash_is_refused(tmp_path: Path) -> None:
    chosen = sources(tmp_path, lambda _request: httpx.Response(200, content=archive(FILES)))
    with pytest.raises(SourceRefused, match="sha256"):
        async with chosen.opened(Source("https://models.test/x.tar", "0" * 64)):
            pass


@pytest.mark.parametrize(
    "text",
    ["http://models.test/x", "https://user:pw@models.test/x", "ftp://models.test/x", "https://other/x", "s3://b/k"],
)
def test_urls_are_judged_before_anything_is_fetched(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceRefused) as caught:
        sources(tmp_path, None).check(Source(text, "0" * 64))
    assert caught.value.code == "source_not_allowed"


def test_a_url_needs_a_hash(tmp_path: Path) -> None:
    with pytest.raises(SourceRefused) as caught:
        sources(tmp_path, None).check(Source("https://models.test/x.tar"))
    assert caught.value.code == "sha256_required"


async def test_what_the_operator_lists_needs_no_other_permission(tmp_path: Path) -> None:
    packed = archive(FILES)

    def answer(request: httpx.Request) -> httpx.Response:
        places = {"/x": "https://bucket.test/y", "/away": "https://elsewhere.test/y"}
        if (to := places.get(request.url.path)) is not None:
            return httpx.Response(302, headers={"location": to})
        return httpx.Response(200, content=packed)

    sha256 = hashlib.sha256(packed).hexdigest()
    chosen = sources(tmp_path, answer)
    async with chosen.opened(Source("https://bucket.test/x", sha256), trusted=True) as path:
        assert (path / "adapter_model.safetensors").read_bytes() == b"weights"
    chosen.check(Source("hub:org/law"), trusted=True)
    refused = [
        (Source("https://bucket.test/x", sha256), False, "source_not_allowed"),
        (Source("https://bucket.test/away", sha256), True, "source_not_allowed"),  # the operator did not say so
        (Source("https://bucket.test/x"), True, "sha256_required"),
        (Source("hub:law"), True, "source_not_allowed"),
    ]
    for source, trusted, expected in refused:
        with pytest.raises(SourceRefused) as caught:
            async with chosen.opened(source, trusted=trusted):
                pass
        assert caught.value.code == expected
