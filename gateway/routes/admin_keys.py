"""/v1/admin/keys and /v1/admin/audit: keys and their history, for callers with the scope ``admin``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

import orjson

from gateway.access.administration import Caller, KeyAdministration
from gateway.access.described import audit_object, key_object, made_key_object
from gateway.access.principal import Principal, Scope
from gateway.errors import key_not_found, store_unavailable
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.keys import (
    MAX_BODY_BYTES,
    AuditObjects,
    AuditQuery,
    KeyChange,
    KeyCreate,
    KeyListQuery,
    KeyObject,
    KeyObjects,
    KeyRotation,
    KeyWithSecret,
    parse_key_change,
    parse_key_create,
    parse_key_rotation,
)
from gateway.protocol.query import parse_query
from gateway.protocol.validation import bad_value
from gateway.routing import Route
from gateway.store.audit import AuditFilter, AuditRow, read_audit
from gateway.store.database import Database, StoreUnavailable
from gateway.store.keys import KeyNotFound, KeyRepository

log = logging.getLogger("sluice.admin")

T = TypeVar("T")

#: Principals that come from the configuration: whoever has them has the deployment.
OWNERS: Final = frozenset({"static", "anonymous"})
#: Seconds to wait before another try when the store is away.
RETRY_AFTER: Final = 2.0

Enter = Callable[[Exchange], Awaitable[Principal]]
"""Identifies the caller, checks the route's scope, counts the request."""


class AdminStore:
    """The store as the routes see it: calls leave the event loop and take a bounded time."""

    def __init__(
        self,
        database: Database,
        repository: KeyRepository,
        administration: KeyAdministration,
        executor: Executor,
        changed: Callable[[], Awaitable[object]],
    ) -> None:
        self.database = database
        self.repository = repository
        self.administration = administration
        #: Awaited after every change of a key, so that this replica knows it before the caller does.
        self.changed = changed
        self._executor = executor

    async def call(self, action: Callable[[], T]) -> T:
        """``action``, on a thread. Raises :class:`~gateway.errors.ApiError` 503 if the store cannot do it."""
        work = asyncio.get_running_loop().run_in_executor(self._executor, action)
        try:
            async with asyncio.timeout(2 * self.database.timeout):
                return await work
        except StoreUnavailable as error:
            log.error("store unavailable: %s", error)
            raise store_unavailable(RETRY_AFTER) from None
        except TimeoutError:
            log.error("store unavailable: no answer within %g s", 2 * self.database.timeout)
            raise store_unavailable(RETRY_AFTER) from None


def routes(enter: Enter, store: AdminStore) -> list[Route]:
    """The routes of this resource."""
    declared: dict[str, Any] = {
        "scope": Scope.ADMIN,
        "limit_class": LimitClass.REQUEST,
        "guard": GuardPolicy.NONE,
    }
    keys = _Keys(enter, store)
    one = "/v1/admin/keys/{id}"
    return [
        Route(
            "POST",
            "/v1/admin/keys",
            keys.create,
            "Make an API key",
            request=KeyCreate,
            response=KeyWithSecret,
            **declared,
        ),
        Route(
            "GET",
            "/v1/admin/keys",
            keys.list,
            "List the API keys",
            query=KeyListQuery,
            response=KeyObjects,
            **declared,
        ),
        Route("GET", one, keys.get, "Describe one API key", response=KeyObject, **declared),
        Route("PATCH", one, keys.update, "Change an API key", request=KeyChange, response=KeyObject, **declared),
        Route("DELETE", one, keys.revoke, "Revoke an API key, for good", response=KeyObject, **declared),
        Route(
            "POST",
            one + "/rotate",
            keys.rotate,
            "Give an API key a new secret",
            request=KeyRotation,
            response=KeyWithSecret,
            **declared,
        ),
        Route(
            "GET",
            "/v1/admin/audit",
            _audit_endpoint(enter, store),
            "List administrative acts and denials",
            query=AuditQuery,
            response=AuditObjects,
            **declared,
        ),
    ]


class _Keys:
    def __init__(self, enter: Enter, store: AdminStore) -> None:
        self._enter = enter
        self._store = store
        self._acts = store.administration

    async def create(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_key_create(await exchange.json_body(MAX_BODY_BYTES))
        made = await self._store.call(lambda: self._acts.create(caller, request))
        await self._store.changed()
        _answer(exchange, made_key_object(made))

    async def list(self, exchange: Exchange) -> None:
        await self._enter(exchange)
        query = parse_query(exchange.scope["query_string"], KeyListQuery)
        try:
            page = await self._store.call(
                lambda: self._store.repository.list(
                    tenant=query.tenant, revoked=query.include_revoked, after=query.after, limit=query.limit
                )
            )
        except KeyNotFound:
            raise bad_value("No such API key.").at("after") from None
        data = [key_object(record) for record in page.records]
        _answer(exchange, {"object": "list", "data": data, "has_more": page.has_more})

    async def get(self, exchange: Exchange) -> None:
        await self._enter(exchange)
        try:
            record = await self._store.call(lambda: self._store.repository.get(exchange.path_rest))
        except KeyNotFound:
            raise key_not_found() from None
        _answer(exchange, key_object(record))

    async def update(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        request = parse_key_change(await exchange.json_body(MAX_BODY_BYTES))
        record = await self._store.call(lambda: self._acts.update(caller, exchange.path_rest, request))
        await self._store.changed()
        _answer(exchange, key_object(record))

    async def rotate(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        body = await exchange.json_body(MAX_BODY_BYTES) if has_body(exchange) else b"{}"
        request = parse_key_rotation(body)
        made = await self._store.call(lambda: self._acts.rotate(caller, exchange.path_rest, request))
        await self._store.changed()
        _answer(exchange, made_key_object(made))

    async def revoke(self, exchange: Exchange) -> None:
        caller = await self._caller(exchange)
        record = await self._store.call(lambda: self._acts.revoke(caller, exchange.path_rest))
        await self._store.changed()
        _answer(exchange, key_object(record))

    async def _caller(self, exchange: Exchange) -> Caller:
        principal = await self._enter(exchange)
        return Caller(principal, principal.id in OWNERS, exchange.address or None, exchange.request_id)


def _audit_endpoint(enter: Enter, store: AdminStore) -> Callable[[Exchange], Awaitable[None]]:
    async def list_audit(exchange: Exchange) -> None:
        await enter(exchange)
        query = parse_query(exchange.scope["query_string"], AuditQuery)
        wanted = AuditFilter(query.actor, query.act, query.target, query.allowed, query.since, query.until)

        def read() -> tuple[list[AuditRow], bool]:
            return read_audit(store.database, wanted, before=query.before, limit=query.limit)

        rows, has_more = await store.call(read)
        _answer(exchange, {"object": "list", "data": [audit_object(row) for row in rows], "has_more": has_more})

    return list_audit


def has_body(exchange: Exchange) -> bool:
    """Whether the request has one."""
    return exchange.header(b"content-length") not in (None, b"0") or exchange.header(b"transfer-encoding") is not None


def _answer(exchange: Exchange, value: dict[str, Any]) -> None:
    exchange.respond(200, orjson.dumps(value))
