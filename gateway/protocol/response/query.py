"""Query strings of /v1/responses/{id} and its input items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.protocol.validation import bad_value


class NoQuery(BaseModel):
    """Nothing can be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ItemsQuery(BaseModel):
    """Which items to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(20, ge=1, le=100, description="Most items in the answer.")
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: the newest first.")
    after: str | None = Field(None, min_length=1, max_length=256, description="Only items behind the one of this id.")


def page(items: Sequence[dict[str, Any]], query: ItemsQuery) -> dict[str, Any]:
    """The page of ``items`` (oldest first) that ``query`` asks for. Raises ApiError 400 for an unknown ``after``."""
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    start = 0
    if query.after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == query.after]
        if not places:
            raise bad_value("No item of this response has this id.").at("after")
        start = places[0] + 1
    data = ordered[start : start + query.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(ordered),
    }
