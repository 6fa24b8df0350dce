"""Errors as Anthropic's clients read them; statuses and headers are those of every other route.

Source: Anthropic's OpenAPI document (ErrorResponse) and its page on errors.
"""

from __future__ import annotations

from typing import Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.dialect import Dialect
from gateway.errors import ApiError

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "rate_limit_error",
        "api_error",
        "overloaded_error",
        "timeout_error",
    ] = Field(description="The class of the error.")
    message: str = Field(description="For a person; names the field at fault.")


class AnthropicError(BaseModel):
    """The body of every error; in a stream, the data of its last event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["error"] = Field(description="Always `error`.")
    error: AnthropicErrorDetail = Field(description="What went wrong.")
    request_id: str = Field(description="The `request-id` of the answer.")


def error_body(error: ApiError, request_id: str) -> bytes:
    """The whole body."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    detail = {"type": kind, "message": error.body.message}
    return orjson.dumps({"type": "error", "error": detail, "request_id": request_id})


def error_event(error: ApiError, request_id: str) -> bytes:
    """The last event of a stream that failed."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


#: Anthropic's clients send their key as ``x-api-key`` and look for the id in ``request-id``.
ANTHROPIC: Final = Dialect(error_body, AnthropicError, (b"x-request-id", b"request-id"), b"x-api-key")
