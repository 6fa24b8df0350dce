"""Uploads over real sockets: resumed, checked, refused, given up, expired; the engine behind it is the stub."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.repository.shelves import ANNOUNCED, Shelves
from gateway.repository.uploads import Uploads
from gateway.store.audit import AuditFilter, read_audit
from tests.conformance.contract import assert_error
from tests.faults.test_full_disk import fill, small_disk
from tests.support.gateways import Live, eventually, running
from tests.support.stub_engine import StubEngine
from tests.support.uploads import OCTETS, announced, config, gguf, model, safetensors

MODELS = "/v1/repository/models"
QUOTA = 1024 * 1024


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    repository = {"enabled": True, "quota_bytes": QUOTA, "max_file_bytes": QUOTA // 2, "upload_ttl": 3600}
    models = [{"name": "later", "model": "repository:reserved"}]
    async with running(
        StubEngine(), tmp_path, with_store=True, repository=repository, models=models, http={"body_timeout": 2.0}
    ) as live:
        yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client:
        yield client


def root(live: Live) -> Path:
    return live.settings.repository_directory()


def left(live: Live) -> list[Path]:
    """Everything in the repository but its lock."""
    return [path for path in root(live).rglob("*") if path.is_file() and path.name != ".lock"]


async def begin(http: httpx.AsyncClient, name: str, files: dict[str, bytes]) -> str:
    begun = await http.post(MODELS, json=announced(name, files))
    assert begun.status_code == 200, begun.text
    return f"/v1/repository/uploads/{begun.json()['id']}"


async def send(http: httpx.AsyncClient, address: str, file: str, data: Any, offset: int = 0) -> httpx.Response:
    return await http.patch(address, params={"file": file, "offset": offset}, content=data, headers=OCTETS)


async def uploaded(http: httpx.AsyncClient, name: str, files: dict[str, bytes]) -> httpx.Response:
    address = await begin(http, name, files)
    for file, data in files.items():
        assert (await send(http, address, file, data)).status_code == 200
    return await http.post(f"{address}/complete")


async def test_a_model_comes_in_parts_and_is_there_whole(live: Live, http: httpx.AsyncClient) -> None:
    files = model(**{"1_Pooling/config.json": b"{}"})
    weights = files["model.safetensors"]
    address = await begin(http, "mine", files)
    assert (await http.get(MODELS)).json()["data"] == []
    half = await send(http, address, "model.safetensors", weights[:1000])
    assert [each["received"] for each in half.json()["files"]] == [0, 1000, 0]
    again = await send(http, address, "model.safetensors", weights[:1000])
    assert_error(again, 409, "offset_mismatch", "offset")
    assert "1000 of" in again.json()["error"]["message"]
    assert_error(await http.post(f"{address}/complete"), 409, "incomplete", "files")
    assert (await send(http, address, "model.safetensors", weights[1000:], 1000)).status_code == 200
    for file in ("config.json", "1_Pooling/config.json"):
        await send(http, address, file, files[file])
    done = (await http.post(f"{address}/complete")).json()
    assert (done["format"], done["architecture"], done["unservable"]) == ("safetensors", "LlamaForCausalLM", None)
    assert done["size"] == sum(map(len, files.values()))
    assert {file["path"]: file["sha256"] for file in done["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    assert {path: (root(live) / "models" / "mine" / path).read_bytes() for path in files} == files
    assert (await http.get(f"{MODELS}/mine")).json() == done
    assert (await http.get(MODELS)).json()["data"] == [done]
    assert_error(await http.get(address), 404, "upload_not_found", "upload")
    assert_error(await http.post(MODELS, json=announced("mine", files)), 409, "already_exists", "name")
    assert (await http.delete(f"{MODELS}/mine")).json()["deleted"] is True
    assert_error(await http.get(f"{MODELS}/mine"), 404, "model_not_found", "name")
    assert_error(await http.delete(f"{MODELS}/mine"), 404, "model_not_found", "name")
    assert left(live) == []
    assert live.store is not None
    assert live.store.audit.flush(30)
    rows, _ = read_audit(live.store.database, AuditFilter(target="mine"))
    acts = ["repository.upload", "repository.publish", "repository.delete"]
    assert [row.entry.act for row in reversed(rows)] == acts


async def test_who_leaves_in_the_middle_goes_on_where_it_was(live: Live, http: httpx.AsyncClient) -> None:
    weights = safetensors({"weight": 256 * 1024})
    files = model() | {"model.safetensors": weights}
    address = await begin(http, "mine", files)

    async def slow() -> AsyncIterator[bytes]:
        yield weights[:100_000]
        await asyncio.sleep(3600)

    leaving = asyncio.ensure_future(send(http, address, "model.safetensors", slow()))
    await under_way(live, http, address)
    leaving.cancel()
    await eventually(lambda: not live.gateway._front.running)  # type: ignore[union-attr]
    received = (await http.get(address)).json()["files"][1]["received"]
    assert 0 <= received <= 100_000
    await send(http, address, "config.json", files["config.json"])
    assert (await send(http, address, "model.safetensors", weights[received:], received)).status_code == 200
    assert (await http.post(f"{address}/complete")).status_code == 200


@asynccontextmanager
async def stalling(live: Live, address: str, file: str, data: bytes, length: int) -> AsyncIterator[asyncio.Task[bytes]]:
    """A client that sends ``data`` of ``length`` bytes and then nothing more; what it is answered until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    head = (
        f"PATCH {address}?file={file}&offset=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {live.key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    try:
        yield asyncio.ensure_future(reader.read())
    finally:
        writer.close()


async def under_way(live: Live, http: httpx.AsyncClient, address: str) -> None:
    """Wait until a part of the weights comes in; nobody else may write meanwhile."""
    await eventually(lambda: any(root(live).rglob("model.safetensors")))
    await asyncio.sleep(0.1)
    beside = await send(http, address, "model.safetensors", b"x", 10**9)
    assert_error(beside, 409, "in_use", "upload")


async def test_another_sha256_costs_that_file_only(http: httpx.AsyncClient) -> None:
    files = model()
    address = await begin(http, "mine", files)
    damaged = bytes(len(files["config.json"]))
    await send(http, address, "model.safetensors", files["model.safetensors"])
    await send(http, address, "config.json", damaged)
    wrong = await http.post(f"{address}/complete")
    assert_error(wrong, 422, "sha256_mismatch", "files")
    received = {file["path"]: file["received"] for file in (await http.get(address)).json()["files"]}
    assert received == {"config.json": 0, "model.safetensors": len(files["model.safetensors"])}
    await send(http, address, "config.json", files["config.json"])
    assert (await http.post(f"{address}/complete")).status_code == 200


async def test_of_two_uploads_of_one_name_the_first_to_be_whole_is_it(http: httpx.AsyncClient) -> None:
    files = model()
    addresses = [await begin(http, "mine", files) for _ in range(2)]
    for address in addresses:
        for file, data in files.items():
            await send(http, address, file, data)
    answers = await asyncio.gather(*(http.post(f"{address}/complete") for address in addresses))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    loser = next(answer for answer in answers if answer.status_code == 409)
    assert_error(loser, 409, "already_exists", "name")


async def test_given_up_while_a_part_comes_in(live: Live, http: httpx.AsyncClient) -> None:
    files = model() | {"model.safetensors": safetensors({"weight": 256 * 1024})}
    address = await begin(http, "mine", files)
    gone = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield files["model.safetensors"][:1000]
        await gone.wait()
        yield files["model.safetensors"][1000:]

    sending = asyncio.ensure_future(send(http, address, "model.safetensors", slow()))
    await under_way(live, http, address)
    assert_error(await http.post(f"{address}/complete"), 409, "in_use", "upload")
    assert (await http.delete(address)).json()["deleted"] is True
    gone.set()
    assert_error(await sending, 404, "upload_not_found", "upload")
    assert left(live) == []


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": config(), "model.safetensors": b"\x80\x04\x95" + bytes(100)},
        {"config.json": config(), "model.safetensors": safetensors()[:-1]},
        {"config.json": config(auto_map={"AutoModel": "evil.Model"}), "model.safetensors": safetensors()},
        model(**{"sub/any.json": b'{"deep": [{"auto_map": 1}]}'}),
        model(**{"notes.txt": b"PK\x03\x04 an archive"}),
        model(**{"extra.json": b"not json"}),
        {"model.gguf": gguf(cut=1)},
        {"model.gguf": b"GGUF" + b"\xff" * 64},
    ],
)
async def test_what_lies_is_refused_and_nothing_stays(
    live: Live, http: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    assert_error(await uploaded(http, "evil", files), 400, "unsafe_artifact", "files")
    assert left(live) == []
    assert live.store is not None
    assert live.store.audit.flush(30)
    rows, _ = read_audit(live.store.database, AuditFilter(target="evil", allowed=False))
    assert [row.entry.detail["code"] for row in rows] == ["unsafe_artifact"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (announced("a/b", model()), 400, "invalid_value", "name"),
        (announced("..", model()), 400, "invalid_value", "name"),
        (announced("x" * 65, model()), 400, "invalid_value", "name"),
        (announced("m", model(**{"../up.json": b"x"})), 400, "invalid_value", "files[2].path"),
        (announced("m", model(**{"/etc/x.json": b"x"})), 400, "invalid_value", "files[2].path"),
        (announced("m", model(**{".sluice.json": b"x"})), 400, "invalid_value", "files[2].path"),
        (announced("m", model(**{"model.py": b"x"})), 400, "unsafe_artifact", "files[2].path"),
        (announced("m", model(**{"pytorch_model.bin": b"x"})), 400, "unsafe_artifact", "files[2].path"),
        (announced("m", model(**{"a.unknown": b"x"})), 400, "unsafe_artifact", "files[2].path"),
        (announced("m", model(**{"config.json/x.json": b"x"})), 400, "invalid_value", "files"),
        (announced("m", {"config.json": b"{}"}), 422, "invalid_model", "files"),
        (announced("m", {"a.gguf": b"x", "config.json": b"x"}), 422, "invalid_model", "files"),
        (
            {"name": "m", "files": [{"path": "a.gguf", "size": 1, "sha256": "Z"}]},
            400,
            "invalid_value",
            "files[0].sha256",
        ),
        ({"name": "m", "files": []}, 400, "empty_array", "files"),
        (announced("m", model(), more=1), 400, "unknown_parameter", "more"),
        (
            {"name": "m", "files": [{"path": "a.gguf", "size": QUOTA, "sha256": "0" * 64}]},
            413,
            "model_too_large",
            "files[0].size",
        ),
    ],
)
async def test_what_cannot_be_announced_is_named(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert_error(await http.post(MODELS, json=body), status, code, param)


async def test_parts_that_do_not_belong(http: httpx.AsyncClient) -> None:
    address = await begin(http, "mine", model())
    assert_error(await send(http, address, "other.json", b"x"), 404, "file_not_found", "file")
    beyond = await send(http, address, "config.json", bytes(len(config()) + 1))
    assert_error(beyond, 413, "request_too_large", None)
    plain = await http.patch(address, params={"file": "config.json", "offset": 0}, json={})
    assert_error(plain, 415, "unsupported_media_type", None)
    assert_error(await http.patch(address, content=b"x", headers=OCTETS), 400, "missing_required_parameter", "file")
    assert (await http.get("/v1/repository/uploads/..%2Fmodels")).status_code == 404
    for nobody in ("upload-0", "a%2Fb"):
        assert_error(await http.get(f"/v1/repository/uploads/{nobody}"), 404, "upload_not_found", "upload")


async def test_the_quota_counts_what_is_announced(http: httpx.AsyncClient) -> None:
    large = [{"path": "a.gguf", "size": QUOTA // 2, "sha256": "0" * 64}]
    first = await http.post(MODELS, json={"name": "one", "files": large})
    assert (await http.post(MODELS, json={"name": "two", "files": large})).status_code == 200
    over = await http.post(MODELS, json=announced("three", model()))
    assert_error(over, 507, "quota_exceeded", "files", "server_error")
    await http.delete(f"/v1/repository/uploads/{first.json()['id']}")
    assert (await uploaded(http, "three", model())).status_code == 200


async def test_a_full_disk_drops_what_the_part_brought(
    live: Live, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = model()
    weights = files["model.safetensors"]
    address = await begin(http, "mine", files)
    await send(http, address, "model.safetensors", weights[:10])
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith("model.safetensors"):
            return real(descriptor, data)
        if len(data) > 100:
            return real(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        assert_error(
            await send(http, address, "model.safetensors", weights[10:220], 10), 507, "disk_full", None, "server_error"
        )
    assert (await http.get(address)).json()["files"][1]["received"] == 10
    assert (await send(http, address, "model.safetensors", weights[10:], 10)).status_code == 200


async def test_f46_a_disk_that_is_really_full(tmp_path: Path) -> None:
    weights = safetensors({"weight": 1024 * 1024})
    files = model() | {"model.safetensors": weights}
    with small_disk(tmp_path / "disk") as disk:
        repository = {"enabled": True, "directory": str(disk / "models")}
        async with (
            running(StubEngine(), tmp_path / "state", repository=repository) as live,
            httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as http,
        ):
            address = await begin(http, "mine", files)
            await send(http, address, "config.json", files["config.json"])
            filler = await asyncio.to_thread(fill, disk)
            full = await send(http, address, "model.safetensors", weights)
            assert_error(full, 507, "disk_full", None, "server_error")
            received = (await http.get(address)).json()["files"]
            assert [file["received"] for file in received] == [len(files["config.json"]), 0]
            refused = await http.post(MODELS, json=announced("more", files))
            assert_error(refused, 507, "disk_full", "files", "server_error")
            filler.unlink()
            assert (await send(http, address, "model.safetensors", weights)).status_code == 200
            assert (await http.post(f"{address}/complete")).status_code == 200


async def test_uploads_that_nobody_goes_on_with_expire(live: Live, http: httpx.AsyncClient) -> None:
    kept = await begin(http, "kept", model())
    old = await begin(http, "old", model())
    await send(http, old, "config.json", config())
    os.utime(root(live) / "uploads" / old.rpartition("/")[2] / ANNOUNCED, (1, 1))
    uploads = Uploads(Shelves(root(live)), live.settings.repository, lambda: None)
    await asyncio.to_thread(uploads.sweep)
    assert_error(await http.get(old), 404, "upload_not_found", "upload")
    assert (await http.get(kept)).status_code == 200


async def test_what_is_configured_is_not_deleted(http: httpx.AsyncClient) -> None:
    done = await uploaded(http, "reserved", model())
    assert done.json()["configured"] is True
    assert_error(await http.delete(f"{MODELS}/reserved"), 409, "in_use", "name")


async def test_a_gguf_of_an_architecture_that_is_not_converted_says_so(http: httpx.AsyncClient) -> None:
    done = await uploaded(http, "other", {"model.gguf": gguf("mamba")})
    assert (done.json()["format"], done.json()["architecture"]) == ("gguf", "mamba")
    assert "'mamba'" in done.json()["unservable"]


async def test_a_part_may_take_longer_than_other_bodies_but_not_trickle(live: Live, http: httpx.AsyncClient) -> None:
    weights = safetensors({"weight": 64 * 1024})
    address = await begin(http, "mine", model() | {"model.safetensors": weights})

    async def steady() -> AsyncIterator[bytes]:
        for at in range(0, len(weights), len(weights) // 8):
            yield weights[at : at + len(weights) // 8]
            await asyncio.sleep(0.5)  # 4 s in all, twice http.body_timeout

    assert (await send(http, address, "model.safetensors", steady())).status_code == 200

    async with stalling(live, address, "config.json", config()[:1], len(config())) as answer:
        assert (await answer).startswith(b"HTTP/1.1 408 ")


async def test_while_draining_parts_end_clearly_and_stay(tmp_path: Path) -> None:
    weights = safetensors({"weight": 3 * 1024 * 1024})
    files = model() | {"model.safetensors": weights}
    flags = {"repository": {"enabled": True}, "drain_timeout": 0.2}

    async with (
        running(StubEngine(), tmp_path, **flags) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as http,
    ):
        address = await begin(http, "mine", files)
        half = weights[: 2 * 1024 * 1024]
        async with stalling(live, address, "model.safetensors", half, len(weights)) as answer:
            await under_way(live, http, address)
            part = next(root(live).rglob("model.safetensors"))
            await eventually(lambda: part.stat().st_size > 0)
            await live.gateway.drain()
            assert (await answer).startswith(b"HTTP/1.1 503 ")
            assert b"shutting_down" in await answer
    async with (
        running(StubEngine(), tmp_path, **flags) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as http,
    ):
        received = (await http.get(address)).json()["files"][1]["received"]
        assert received > 0
        await send(http, address, "config.json", files["config.json"])
        await send(http, address, "model.safetensors", weights[received:], received)
        assert (await http.post(f"{address}/complete")).status_code == 200


async def test_another_tenant_s_models_and_uploads_are_not_there(live: Live, http: httpx.AsyncClient) -> None:
    done = await uploaded(http, "mine", model())
    assert done.status_code == 200
    address = await begin(http, "more", model())
    made = await http.post("/v1/admin/keys", json={"name": "b", "tenant": "other", "scopes": ["training", "read_only"]})
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    async with httpx.AsyncClient(base_url=live.url, headers=key, timeout=60) as other:
        await eventually(lambda: _known(other))
        assert (await other.get(MODELS)).json()["data"] == []
        assert_error(await other.get(f"{MODELS}/mine"), 404, "model_not_found", "name")
        assert_error(await other.delete(f"{MODELS}/mine"), 404, "model_not_found", "name")
        assert_error(await other.get(address), 404, "upload_not_found", "upload")
        assert_error(await other.delete(address), 404, "upload_not_found", "upload")
        assert_error(await other.post(MODELS, json=announced("mine", model())), 409, "already_exists", "name")


async def _known(http: httpx.AsyncClient) -> bool:
    return (await http.get(MODELS)).status_code == 200


async def test_without_a_repository_every_address_says_so(tmp_path: Path) -> None:
    async with (
        running(StubEngine(), tmp_path) as live,
        httpx.AsyncClient(base_url=live.url, headers=live.authorization) as http,
    ):
        answers = [await http.get(MODELS), await http.post(MODELS, json=announced("m", model()))]
        for answer in answers:
            assert_error(answer, 501, "not_implemented", None, "server_error")
        assert not root(live).exists()
