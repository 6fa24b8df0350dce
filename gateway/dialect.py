"""Whose clients a route is for: what differs around the answers themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from gateway.errors import ApiError
from gateway.protocol.responses import ErrorEnvelope


@dataclass(frozen=True, slots=True)
class Dialect:
    """``error_body`` writes an error, given the request's id; ``error_model`` describes it.

    ``request_id_headers`` name the request in every answer. ``key_header`` (lower case) is where clients send their
    key besides ``Authorization``.
    """

    error_body: Callable[[ApiError, str], bytes]
    error_model: type[BaseModel]
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)
    key_header: bytes | None = None


def _openai_error(error: ApiError, request_id: str) -> bytes:  # noqa: ARG001 - OpenAI's body does not say it
    return error.payload()


OPENAI: Final = Dialect(_openai_error, ErrorEnvelope)
