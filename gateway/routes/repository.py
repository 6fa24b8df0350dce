"""/v1/repository: models that callers upload, in parts, and what is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from gateway.access.administration import Caller
from gateway.access.principal import Principal, Scope
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.protocol.query import parse_query
from gateway.protocol.repository import (
    MAX_BODY_BYTES,
    Deleted,
    ModelAnnounced,
    PartOf,
    StoredModelObject,
    StoredModels,
    UploadObject,
    parse_announced,
)
from gateway.repository.faults import not_enabled
from gateway.repository.service import Repository
from gateway.routes.admin_keys import OWNERS
from gateway.routing import Route

Enter = Callable[[Exchange], Awaitable[Principal]]

BYTES: Final = b"application/octet-stream"


def routes(enter: Enter, repository: Repository | None) -> list[Route]:
    """The routes of this resource; without a ``repository`` they answer 501."""

    async def caller(exchange: Exchange) -> tuple[Caller, Repository]:
        principal = await enter(exchange)
        if repository is None:
            raise not_enabled()
        return Caller(principal, principal.id in OWNERS, exchange.address or None, exchange.request_id), repository

    async def announce(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        wanted = parse_announced(await exchange.json_body(MAX_BODY_BYTES))
        exchange.respond(200, orjson.dumps(await models.announce(who, wanted)))

    async def list_all(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps({"object": "list", "data": await models.models(who.principal)}))

    async def get(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps(await models.model(who.principal, exchange.path_rest)))

    async def delete(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps(await models.delete(who, exchange.path_rest)))

    async def upload(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps(await models.upload(who.principal, _id(exchange))))

    async def receive(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        if exchange.header(b"content-type") != BYTES:
            raise ApiError(415, f"Content-Type must be {BYTES.decode()}.", code="unsupported_media_type")
        part = parse_query(exchange.scope["query_string"], PartOf)
        exchange.respond(200, orjson.dumps(await models.receive(who.principal, _id(exchange), part, exchange)))

    async def give_up(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps(await models.give_up(who, _id(exchange))))

    async def complete(exchange: Exchange) -> None:
        who, models = await caller(exchange)
        exchange.respond(200, orjson.dumps(await models.publish(who, _id(exchange))))

    kept: dict[str, Any] = {"limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    reads = kept | {"scope": Scope.READ_ONLY, "errors": frozenset({501})}
    writes = kept | {"scope": Scope.TRAINING, "errors": frozenset({400, 409, 413, 415, 422, 501, 507})}
    all_models, one = "/v1/repository/models", "/v1/repository/models/{name}"
    one_upload = "/v1/repository/uploads/{upload}"
    return [
        Route(
            "POST",
            all_models,
            announce,
            "Announce the upload of a model",
            request=ModelAnnounced,
            response=UploadObject,
            **writes,
        ),
        Route("GET", all_models, list_all, "List the uploaded models", response=StoredModels, **reads),
        Route("GET", one, get, "Describe an uploaded model", response=StoredModelObject, **reads),
        Route("DELETE", one, delete, "Delete an uploaded model", response=Deleted, **writes),
        Route("GET", one_upload, upload, "See how far an upload is", response=UploadObject, **writes),
        Route(
            "PATCH",
            one_upload,
            receive,
            "Send a part of a file",
            query=PartOf,
            response=UploadObject,
            octets=True,
            **writes,
        ),
        Route("DELETE", one_upload, give_up, "Give an upload up", response=Deleted, **writes),
        Route(
            "POST",
            f"{one_upload}/complete",
            complete,
            "Check an upload and put the model in place",
            response=StoredModelObject,
            **writes,
        ),
    ]


def _id(exchange: Exchange) -> str:
    """One that is no plain name is that of no upload."""
    return exchange.path_rest if "/" not in exchange.path_rest else "-"
