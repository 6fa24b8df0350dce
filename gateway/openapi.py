"""The OpenAPI document, generated from the route table and the wire models by FastAPI."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import metadata
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from gateway.access.principal import Scope
from gateway.disaggregation.seal import HEADER
from gateway.routing import Route

_ERRORS: Final = {
    400: "The request is malformed or names something unknown",
    401: "No key, or a wrong one",
    403: "The key lacks the scope, or may not do this",
    404: "No such model or URL",
    409: "What is there does not allow it",
    413: "The body is too large",
    415: "The body is not plain JSON in UTF-8",
    429: "A limit is reached; Retry-After says when to come back",
    422: "What was sent is well-formed and cannot be used",
    500: "A bug or a failed generation",
    501: "This deployment has nothing that could do it",
    507: "There is no room for it",
    502: "Something that the server asked failed",
    504: "The deadline passed in the middle of it",
    503: "Overloaded, shutting down or without an engine; Retry-After says when to come back",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of ``routes``."""
    routes = list(routes)
    result = get_openapi(
        title="Sluice",
        version=metadata.version("sluice"),
        summary="OpenAI-compatible gateway with the vLLM engine in-process",
        routes=[_described(route) for route in routes],
    )
    headers = {route.dialect.key_header.decode() for route in routes if route.dialect.key_header is not None}
    result.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer"},
        **({"seal": {"type": "apiKey", "in": "header", "name": HEADER}} if any(each.peers for each in routes) else {}),
        **{name: {"type": "apiKey", "in": "header", "name": name} for name in sorted(headers)},
    }
    for route in routes:
        _complete(result["paths"][_template(route)][route.method.lower()], route)
    return result


def _template(route: Route) -> str:
    return route.path


def _described(route: Route) -> APIRoute:
    """A FastAPI route that is only looked at: requests are served by :class:`gateway.front.Front`."""

    def endpoint(**_: Any) -> None: ...

    parameters = []
    if route.request is not None:
        parameters.append(_parameter("body", route.request))
    if "{" in route.path:
        parameters.append(_parameter(route.path.partition("{")[2].partition("}")[0], str))
    if route.query is not None:
        parameters.append(_parameter("query", Annotated[route.query, Query()]))
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return APIRoute(
        route.path,
        endpoint,
        methods=[route.method],
        summary=route.summary,
        operation_id=_operation_id(route),
        response_model=route.response,
        responses=_error_responses(route),
        tags=[_tag(route)],
    )


def _tag(route: Route) -> str:
    if route.public or route.peers:
        return "system"
    return "admin" if route.scope is Scope.ADMIN else "models"


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _operation_id(route: Route) -> str:
    words = route.path.replace("{", " ").replace("}", " ").replace("/", " ").replace(".", " ").split()
    return "_".join([route.method.lower(), *words])


def _error_responses(route: Route) -> dict[int | str, dict[str, Any]]:
    if route.public:
        return {}
    wanted = {401, 403, 404, 429, 500, 503, *route.errors}
    if route.runs_model:
        wanted |= {501, 504}
    if route.request is not None:
        wanted |= {400, 413, 415}
    if route.query is not None:
        wanted.add(400)
    if route.scope is Scope.ADMIN and route.request is not None:
        wanted.add(409)
    return {status: {"model": route.dialect.error_model, "description": _ERRORS[status]} for status in sorted(wanted)}


def _complete(operation: dict[str, Any], route: Route) -> None:
    if 422 not in route.errors:
        operation["responses"].pop("422", None)  # this server answers 400 where FastAPI would answer 422
    if route.form:
        body = operation["requestBody"]["content"]
        body["multipart/form-data"] = body.pop("application/json")
    if route.octets:
        schema = {"type": "string", "format": "binary"}
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": schema}}}
    if route.scope is not None:
        header = route.dialect.key_header
        operation["security"] = [{"key": []}] if header is None else [{"key": []}, {header.decode(): []}]
        operation["x-required-scope"] = route.scope.value
    if route.peers:
        operation["security"] = [{"seal": []}]
    content = operation["responses"]["200"].setdefault("content", {})
    if route.media_type != "application/json":
        content.clear()
        content[route.media_type] = {"schema": {"type": "string"}}
    if route.stream is not None:
        content["text/event-stream"] = {
            "schema": {"type": "string", "description": f"Events of {route.stream.__name__}."}
        }
