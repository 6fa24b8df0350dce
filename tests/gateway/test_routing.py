from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.principal import Scope
from gateway.errors import ApiError
from gateway.guardian.check import GuardPolicy
from gateway.limits.reserve import LimitClass
from gateway.routing import Route, RouteTable


async def endpoint(_: Any) -> None: ...


def route(path: str = "/v1/x", method: str = "GET", **declared: Any) -> Route:
    defaults: dict[str, Any] = {"scope": Scope.READ_ONLY, "limit_class": LimitClass.REQUEST, "guard": GuardPolicy.NONE}
    return Route(method, path, endpoint, "x", **{**defaults, **declared})


@pytest.mark.parametrize(
    "declared",
    [
        {"scope": None},
        {"public": True},
        {"runs_model": True},
        {"runs_model": True, "limit_class": LimitClass.GENERATION},
        {"runs_model": True, "guard": GuardPolicy.GENERATION, "limit_class": LimitClass.NONE},
    ],
)
def test_a_hole_in_a_declaration_stops_the_start(declared: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"declare|needs"):
        RouteTable([route(**declared)])


TABLE = RouteTable([route("/v1/models"), route("/v1/models/{model}"), route("/v1/chat/completions", "POST")])


def test_found() -> None:
    assert TABLE.find("GET", b"/v1/models")[0].path == "/v1/models"
    assert TABLE.find("GET", b"/v1/models/org/name") == (TABLE.routes[1], "org/name")
    assert TABLE.find("GET", b"/v1/models/org%2Fname")[1] == "org/name"


def test_a_segment_in_the_middle_beats_the_rest() -> None:
    table = RouteTable(
        [route("/v1/keys/{id}"), route("/v1/keys/{id}/rotate", "POST"), route("/v1/keys/{id}", "DELETE")]
    )
    assert table.find("POST", b"/v1/keys/a1/rotate") == (table.routes[1], "a1")
    assert table.find("DELETE", b"/v1/keys/a1") == (table.routes[2], "a1")
    assert table.find("GET", b"/v1/keys/a1/b/rotate") == (table.routes[0], "a1/b/rotate")
    for path in (b"/v1/keys//rotate", b"/v1/keys/rotate/"):
        with pytest.raises(ApiError):
            table.find("POST", path)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/v1/models/",
        b"//v1/models",
        b"/v1/models//",
        b"/v1/models/../x",
        b"/v1/models/%2e%2e",
        b"/V1/models",
        b"/v1/models/a%00",
        b"/v1/models/\xff",
        b"/v1/models/%ff",
        b"/v1/models/a%0d%0ab",
    ],
)
def test_anything_else_is_404(path: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        TABLE.find("GET", path)
    assert (caught.value.status, caught.value.code) == (404, "unknown_url")


def test_wrong_method() -> None:
    with pytest.raises(ApiError) as caught:
        TABLE.find("GET", b"/v1/chat/completions")
    assert caught.value.status == 405
    assert (b"allow", b"POST") in caught.value.headers()


def found(path: bytes) -> tuple[Route, str] | None:
    try:
        return TABLE.find("GET", path)
    except ApiError:
        return None


@given(st.binary(max_size=60))
def test_no_path_breaks_the_table(path: bytes) -> None:
    if (route_and_rest := found(path)) is not None:
        assert route_and_rest[0] in TABLE.routes
        assert ".." not in route_and_rest[1].split("/")
        assert route_and_rest[1].isprintable()
