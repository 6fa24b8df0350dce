from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from gateway.access.administration import KeyAdministration
from gateway.access.denials import DenialAudit
from gateway.access.door import Door
from gateway.access.failures import FailedCredentials
from gateway.access.identify import Headers, StaticKey, bearer_token
from gateway.access.keyring import Freshness, Keyring, build
from gateway.access.keysync import KeySync
from gateway.access.principal import Principal, Scope
from gateway.access.secret import KEYS
from gateway.exchange import Exchange
from gateway.front import Front
from gateway.http.bounds import HttpBounds
from gateway.http.server import HttpServer
from gateway.observability.logs import AccessEntry, AccessLog
from gateway.observability.metrics import Metrics
from gateway.observability.tracing.tracer import Untraced
from gateway.protocol.keys import AuditObjects, KeyObject, KeyObjects, KeyWithSecret
from gateway.routes.admin_keys import AdminStore, routes
from gateway.routing import RouteTable
from gateway.store.audit import AuditFilter, AuditLog, read_audit
from gateway.store.database import Database
from gateway.store.executor import StoreExecutor
from gateway.store.keys import KeyGrant, KeyRepository
from gateway.store.migrate import prepare
from tests.support.stores import SECRET

OWNER = "sk-the-key-of-the-configuration"
KEYS_URL = "/v1/admin/keys"


class Identities:
    """The static key, then the keys of the store."""

    def __init__(self, ring: Keyring) -> None:
        self._static = StaticKey(OWNER)
        self._ring = ring

    def identify(self, headers: Headers) -> Principal:
        return (self._static if bearer_token(headers) == OWNER.encode() else self._ring).identify(headers)


class Quiet(AccessLog):
    def __init__(self) -> None:
        self.entries: list[AccessEntry] = []

    def record(self, entry: AccessEntry) -> None:
        self.entries.append(entry)


@dataclass
class Service:
    """The admin routes on a real socket, over a real store."""

    database: Database
    repository: KeyRepository
    ring: Keyring
    audit: AuditLog
    port: int

    async def call(
        self, method: str, path: str = KEYS_URL, body: Any = None, *, key: str | None = OWNER, **kwargs: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            kwargs["json"] = body
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60) as client:
            return await client.request(method, path, headers=headers, **kwargs)

    async def create(self, *, key: str = OWNER, **fields: Any) -> dict[str, Any]:
        response = await self.call("POST", body={"name": "x", **fields}, key=key)
        assert response.status_code == 200, response.text
        made: dict[str, Any] = response.json()
        return made

    def audited(self, **wanted: Any) -> list[tuple[str, str, str | None, bool]]:
        assert self.audit.flush(30)
        rows, _ = read_audit(self.database, AuditFilter(**wanted))
        return [(row.entry.actor, row.entry.act, row.entry.target, row.entry.allowed) for row in reversed(rows)]


@asynccontextmanager
async def serving(database: Database) -> AsyncIterator[Service]:
    repository = KeyRepository(database, SECRET.derive(KEYS))
    ring = Keyring(SECRET.derive(KEYS), Freshness.of_polling(3600, 3600))
    sync = KeySync(ring, repository, prepare=lambda: prepare(database, SECRET), poll_interval=3600)
    await sync.start()
    audit = AuditLog(database, retry=0.05)
    executor = StoreExecutor(2, "test-store")
    administration = KeyAdministration(repository, audit.record)
    store = AdminStore(database, repository, administration, executor, sync.refresh)
    door = Door(Identities(ring), FailedCredentials(1000), [], DenialAudit(audit.record))

    async def enter(exchange: Exchange) -> Principal:
        assert exchange.route is not None
        assert exchange.route.scope is not None
        return door.enter(exchange, exchange.route.scope)

    front = Front(RouteTable(routes(enter, store)), door, Quiet(), Metrics(), Untraced())
    server = HttpServer(front, HttpBounds(), on_reject=lambda code: None)
    port = await server.start()
    try:
        yield Service(database, repository, ring, audit, port)
    finally:
        server.close_listener()
        server.abort_all()
        await sync.stop()
        executor.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(None, audit.close, 10.0)


@pytest.fixture
async def service(sqlite_database: Database) -> AsyncIterator[Service]:
    async with serving(sqlite_database) as service:
        yield service


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    return response.status_code, body["code"], body["param"]


# -- the life of a key ------------------------------------------------------------------------------------------------


async def test_the_life_of_a_key(database: Database) -> None:
    async with serving(database) as service:
        made = await service.create(
            name="ci", tenant="team", scopes=["admin"], models=["m"], quota={"concurrent": 2}, labels={"a": "b"}
        )
        key, key_id = made.pop("key"), made["id"]
        assert key.startswith(f"sk-{key_id}-")
        assert (made["object"], made["status"], made["created_by"]) == ("api_key", "active", "static")
        # It works here at once, and nobody is told it again.
        shown = await service.call("GET", f"{KEYS_URL}/{key_id}", key=key)
        assert shown.json() == made
        assert (await service.call("GET", key=key)).json() == {"object": "list", "data": [made], "has_more": False}

        changed = await service.call("PATCH", f"{KEYS_URL}/{key_id}", {"name": "cd", "labels": {"c": "d"}})
        assert changed.json() == {**made, "name": "cd", "labels": {"a": "b", "c": "d"}}

        rotated = (await service.call("POST", f"{KEYS_URL}/{key_id}/rotate")).json()
        new = rotated.pop("key")
        assert rotated == {**changed.json(), "rotated_at": rotated["rotated_at"]}
        assert (await service.call("GET", key=key)).status_code == 401
        assert (await service.call("GET", key=new)).status_code == 200

        overlapping = await service.call("POST", f"{KEYS_URL}/{key_id}/rotate", {"overlap_seconds": 600})
        assert overlapping.json()["previous_until"] > time.time() + 500
        newest = overlapping.json()["key"]
        assert [(await service.call("GET", key=each)).status_code for each in (new, newest)] == [200, 200]

        revoked = await service.call("DELETE", f"{KEYS_URL}/{key_id}")
        assert (revoked.json()["status"], revoked.json()["previous_until"]) == ("revoked", None)
        assert [(await service.call("GET", key=each)).status_code for each in (new, newest)] == [401, 401]
        assert (await service.call("DELETE", f"{KEYS_URL}/{key_id}")).json() == revoked.json()
        assert (await service.call("GET")).json()["data"] == []
        assert (await service.call("GET", f"{KEYS_URL}?include_revoked=true")).json()["data"] == [revoked.json()]

        acts = ["create", "update", "rotate", "rotate", "revoke", "revoke"]
        assert service.audited(target=key_id) == [("static", f"key.{act}", key_id, True) for act in acts]
        everything = str(read_audit(service.database, AuditFilter()))
        for secret in (key, new, newest):
            assert secret.rpartition("-")[2] not in everything


async def test_the_answer_is_what_the_document_says(service: Service) -> None:
    made = await service.create(quota={"concurrent": 1}, labels={"a": "b"}, expires_at=4_000_000_000)
    KeyWithSecret.model_validate(made)
    KeyObject.model_validate((await service.call("GET", f"{KEYS_URL}/{made['id']}")).json())
    KeyObjects.model_validate((await service.call("GET")).json())
    assert service.audited()
    AuditObjects.model_validate((await service.call("GET", "/v1/admin/audit")).json())


async def test_pages(service: Service) -> None:
    made = [(await service.create(name=str(i), tenant="a" if i % 2 else "b"))["id"] for i in range(5)]
    first = (await service.call("GET", f"{KEYS_URL}?limit=3")).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (made[:1:-1], True)
    rest = (await service.call("GET", f"{KEYS_URL}?limit=3&after={first['data'][-1]['id']}")).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (made[1::-1], False)
    ours = (await service.call("GET", f"{KEYS_URL}?tenant=a")).json()["data"]
    assert [each["id"] for each in ours] == [made[3], made[1]]


# -- who may ----------------------------------------------------------------------------------------------------------

EVERY_ROUTE = [
    ("POST", KEYS_URL),
    ("GET", KEYS_URL),
    ("GET", f"{KEYS_URL}/x"),
    ("PATCH", f"{KEYS_URL}/x"),
    ("DELETE", f"{KEYS_URL}/x"),
    ("POST", f"{KEYS_URL}/x/rotate"),
    ("GET", "/v1/admin/audit"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_administration_needs_its_scope(service: Service, method: str, path: str) -> None:
    assert error(await service.call(method, path, key=None)) == (401, "missing_api_key", None)
    assert error(await service.call(method, path, key="sk-wrong")) == (401, "invalid_api_key", None)
    worker = (await service.create(scopes=["inference", "read_only", "training"]))["key"]
    response = await service.call(method, path, key=worker)
    assert error(response) == (403, "insufficient_scope", None)
    denials = [(actor, allowed) for actor, act, _, allowed in service.audited() if act == "access.denied"]
    assert denials == [("unknown", False), ("unknown", False), (worker.split("-")[1], False)]


def test_every_route_was_tried() -> None:
    nothing: Any = SimpleNamespace(administration=None)
    declared = {(route.method, route.path.replace("{id}", "x")) for route in routes(nothing, nothing)}
    assert declared == set(EVERY_ROUTE)


async def bounded_admin(service: Service) -> dict[str, Any]:
    return await service.create(
        scopes=["admin"], models=["m"], quota={"tokens_per_minute": 10}, ttl_seconds=3600, weight=2
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": None}, "models"),
        ({"models": ["m", "n"]}, "models"),
        ({"quota": {"tokens_per_minute": 11}}, "quota.tokens_per_minute"),
        ({"quota": {}}, "quota.tokens_per_minute"),
        ({"ttl_seconds": 4000}, "expires_at"),
        ({"ttl_seconds": None}, "expires_at"),
        ({"weight": 2.5}, "weight"),
    ],
)
async def test_nobody_makes_a_key_that_can_do_more(service: Service, fields: dict[str, Any], param: str) -> None:
    admin = await bounded_admin(service)
    within = {"name": "y", "models": ["m"], "quota": {"tokens_per_minute": 10}, "ttl_seconds": 3000}
    assert (await service.call("POST", body=within, key=admin["key"])).status_code == 200
    before = service.repository.list().records
    response = await service.call("POST", body={**within, **fields}, key=admin["key"])
    assert error(response) == (403, "insufficient_scope", param)
    assert response.headers["x-should-retry"] == "false"
    assert service.repository.list().records == before
    assert service.audited(allowed=False) == [(admin["id"], "key.create", None, False)]


async def test_nobody_changes_a_key_into_one_that_can_do_more(service: Service) -> None:
    admin = await bounded_admin(service)
    own = f"{KEYS_URL}/{admin['id']}"
    for fields, param in (
        ({"models": None}, "models"),
        ({"quota": {"tokens_per_minute": None}}, "quota.tokens_per_minute"),
        ({"quota": None}, "quota.tokens_per_minute"),
        ({"expires_at": None}, "expires_at"),
        ({"weight": 3}, "weight"),
    ):
        response = await service.call("PATCH", own, fields, key=admin["key"])
        assert error(response) == (403, "insufficient_scope", param)
    assert (await service.call("GET", own)).json() == {name: admin[name] for name in admin if name != "key"}
    assert (await service.call("PATCH", own, {"name": "mine", "weight": 1}, key=admin["key"])).status_code == 200


async def test_nobody_takes_a_key_over_that_can_do_more(service: Service) -> None:
    admin, wide = await bounded_admin(service), await service.create(scopes=["admin"], weight=2)
    response = await service.call("POST", f"{KEYS_URL}/{wide['id']}/rotate", key=admin["key"])
    assert error(response) == (403, "insufficient_scope", "models")
    assert (await service.call("GET", key=wide["key"])).status_code == 200
    assert service.audited(allowed=False) == [(admin["id"], "key.rotate", wide["id"], False)]
    # Its own it may rotate, and any it may end.
    renewed = (await service.call("POST", f"{KEYS_URL}/{admin['id']}/rotate", key=admin["key"])).json()["key"]
    assert (await service.call("DELETE", f"{KEYS_URL}/{wide['id']}", key=renewed)).status_code == 200


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["nobody", "%27%20OR%201=1%20--", "*", "%7Bx%7D", "x" * 4000, "a/b", "%F0%9F%94%91"],
)
async def test_strange_ids_are_not_found(service: Service, name: str) -> None:
    await service.create()
    before = service.repository.list(revoked=True)
    for method, suffix, body in (("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/rotate", None)):
        response = await service.call(method, f"{KEYS_URL}/{name}{suffix}", body)
        if response.status_code == 405:  # a slash belongs to the id only where nothing follows
            assert (name, method) == ("a/b", "POST")
            continue
        assert error(response) == (404, "key_not_found", "id")
        assert response.headers["x-should-retry"] == "false"
    assert service.repository.list(revoked=True) == before


@pytest.mark.parametrize("key", ["sk-' OR 1=1 --", "sk-*", "sk-{a}-{b}", "sk-abcdefgh01234567-' OR '1'='1"])
async def test_strange_keys_are_wrong_keys(service: Service, key: str) -> None:
    assert error(await service.call("GET", key=key)) == (401, "invalid_api_key", None)


async def test_metacharacters_are_text(service: Service) -> None:
    text = "'; DROP TABLE keys; -- \" \\ % _ {x} $1 :y ?"
    made = await service.create(name=text, models=[text], labels={text: text})
    shown = (await service.call("GET", f"{KEYS_URL}/{made['id']}")).json()
    assert (shown["name"], shown["models"], shown["labels"]) == (text, [text], {text: text})


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"name": "x", "name": "y"}', "duplicate_key", "name"),
        (b'{"name": "x", "weight": NaN}', "invalid_json", "weight"),
        (b'{"name": "x", "weight": 1e999}', "decimal_above_max_value", "weight"),
        (b'{"name": "\\ud800"}', "invalid_unicode", "name"),
        (b'{"name": "x", "admin": true}', "unknown_parameter", "admin"),
        (b'{"name": "x", "quota": {"concurrent": 99999999999999999}}', "integer_above_max_value", "quota.concurrent"),
        (b'{"name": "x", "expires_at": 1}', "invalid_value", "expires_at"),
    ],
)
async def test_bodies_are_strict(service: Service, body: bytes, code: str, param: str | None) -> None:
    headers = {"authorization": f"Bearer {OWNER}", "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}") as client:
        response = await client.post(KEYS_URL, content=body, headers=headers)
        assert error(response) == (400, code, param)
        plain = await client.post(KEYS_URL, content=b"{}", headers={**headers, "content-type": "text/plain"})
        assert plain.status_code == 415
        large = await client.post(KEYS_URL, content=b" " * 300_000, headers=headers)
        assert large.status_code == 413
    assert service.repository.list().records == []


@pytest.mark.parametrize(
    ("path", "code", "param"),
    [
        (f"{KEYS_URL}?limit=0", "integer_below_min_value", "limit"),
        (f"{KEYS_URL}?limit=1001", "integer_above_max_value", "limit"),
        (f"{KEYS_URL}?limit=many", "invalid_value", "limit"),
        (f"{KEYS_URL}?limit=1&limit=2", "invalid_value", "limit"),
        (f"{KEYS_URL}?page=2", "unknown_parameter", "page"),
        (f"{KEYS_URL}?after=nobody", "invalid_value", "after"),
        (f"{KEYS_URL}?tenant=%00", "invalid_value", "tenant"),
        (f"{KEYS_URL}?tenant=%FF", "invalid_query", None),
        (f"{KEYS_URL}?limit", "invalid_query", None),
        ("/v1/admin/audit?since=yesterday", "invalid_value", "since"),
        ("/v1/admin/audit?since=nan", "invalid_value", "since"),
        ("/v1/admin/audit?before=-1", "integer_below_min_value", "before"),
        ("/v1/admin/audit?allowed=perhaps", "invalid_value", "allowed"),
    ],
)
async def test_queries_are_strict(service: Service, path: str, code: str, param: str | None) -> None:
    assert error(await service.call("GET", path)) == (400, code, param)


async def test_a_revoked_key_stays_as_it_is(service: Service) -> None:
    key_id = (await service.create())["id"]
    await service.call("DELETE", f"{KEYS_URL}/{key_id}")
    for method, path, body in (("POST", f"{key_id}/rotate", {}), ("PATCH", key_id, {"name": "y"})):
        response = await service.call(method, f"{KEYS_URL}/{path}", body)
        assert error(response) == (409, "key_revoked", "id")
        assert response.headers["x-should-retry"] == "false"


async def test_the_audit_log_can_be_searched(service: Service) -> None:
    ids = [(await service.create())["id"] for _ in range(3)]
    await service.call("DELETE", f"{KEYS_URL}/{ids[0]}")
    assert service.audited()
    page = (await service.call("GET", "/v1/admin/audit?limit=2")).json()
    assert ([each["target"] for each in page["data"]], page["has_more"]) == ([ids[0], ids[2]], True)
    last = page["data"][-1]["id"]
    rest = (await service.call("GET", f"/v1/admin/audit?before={last}&act=key.create&allowed=true")).json()
    assert [each["target"] for each in rest["data"]] == [ids[1], ids[0]]
    assert rest["data"][0]["client_ip"] == "127.0.0.1"
    assert (await service.call("GET", "/v1/admin/audit?actor=nobody")).json()["data"] == []


# -- faults -----------------------------------------------------------------------------------------------------------


async def test_a_locked_store_is_503_for_writers_only(service: Service) -> None:
    made = await service.create()
    assert service.audit.flush(30)
    assert service.database.path is not None
    other = sqlite3.connect(service.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    one = f"{KEYS_URL}/{made['id']}"
    for method, path, body in (
        ("POST", KEYS_URL, {"name": "y"}),
        ("PATCH", one, {"name": "y"}),
        ("POST", f"{one}/rotate", {}),
        ("DELETE", one, None),
    ):
        response = await service.call(method, path, body)
        assert error(response) == (503, "store_unavailable", None)
        assert int(response.headers["retry-after"]) >= 1
    assert (await service.call("GET", one)).status_code == 200
    other.execute("ROLLBACK")
    other.close()
    assert (await service.call("GET")).json()["data"] == [{name: made[name] for name in made if name != "key"}]


async def test_a_full_store_is_503_and_keys_go_on_working(service: Service) -> None:
    admin = await service.create(scopes=["admin"])
    assert service.audit.flush(30)
    with service.database.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def bound(connection: Any) -> None:
        # Each connection of the pool has a bound of its own.
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    event.listen(service.database._engine, "begin", bound)
    response = await service.call("POST", body={"name": "y", "labels": {str(i): "x" * 256 for i in range(64)}})
    assert error(response) == (503, "store_unavailable", None)
    assert (await service.call("GET", key=admin["key"])).status_code == 200


class StuckRepository(KeyRepository):
    """As with a server that froze: nothing comes back."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, SECRET.derive(KEYS))
        self.released = threading.Event()

    def create(self, grant: KeyGrant, *, by: str, now: float) -> Any:
        assert self.released.wait(60)
        return super().create(grant, by=by, now=now)


async def test_a_store_that_does_not_answer_is_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = StuckRepository(service.database)
    monkeypatch.setattr(service.repository, "create", stuck.create)
    try:
        responses = await asyncio.gather(*(service.call("POST", body={"name": "y"}) for _ in range(5)))
        assert {error(response) for response in responses} == {(503, "store_unavailable", None)}
    finally:
        stuck.released.set()


async def test_concurrent_rotations_leave_one_secret(service: Service) -> None:
    made = await service.create(scopes=["admin"])
    path = f"{KEYS_URL}/{made['id']}/rotate"
    keys = []
    for response in await asyncio.gather(*(service.call("POST", path) for _ in range(10))):
        if response.status_code == 503:
            continue  # the test's store gives up on a lock soon
        keys.append(response.json()["key"])
    answers = [(await service.call("GET", key=key)).status_code for key in [made["key"], *keys]]
    assert answers.count(200) == 1
    assert answers[0] == 401


async def test_what_an_admin_mints_inherits_its_tenant_and_guard(service: Service) -> None:
    grant = KeyGrant(name="a", tenant="team", scopes=frozenset((Scope.ADMIN,)), guard_policy="strict")
    admin = service.repository.create(grant, by="test", now=1.0)
    service.ring.apply(build(service.repository.changes_since(None)))
    made = await service.create(key=admin.key.text())
    record = service.repository.get(made["id"])
    assert record.grant == replace(KeyGrant(name="x"), tenant="team", guard_policy="strict")
    assert record.created_by == admin.record.id
