"""Routes that change the one process that answers: with several workers the others would not know."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.pipeline import Pipeline
from gateway.routing import Route

_OF_ONE_PROCESS: Final = frozenset(
    {
        ("DELETE", "/v1/models/{model}"),
        ("POST", "/v1/models/{model}/load"),
    }
)


def fit_for_workers(pipeline: Pipeline, workers: int, *routes: Route) -> list[Route]:
    """The same routes; with several workers those that change one process are refused to whoever may use them."""

    async def refuse(exchange: Exchange) -> None:
        await pipeline.enter(exchange)
        raise ApiError(
            409,
            f"This would change one of {workers} workers only. Change the settings and restart, or run one worker.",
            code="not_with_workers",
        )

    if workers == 1:
        return list(routes)
    return [
        replace(route, endpoint=refuse, errors=route.errors | {409})
        if (route.method, route.path) in _OF_ONE_PROCESS
        else route
        for route in routes
    ]
