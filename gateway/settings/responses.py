"""Responses that are kept for their callers."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.section import Section


class ResponseSettings(Section):
    """What is kept of /v1/responses, in the database of `store`."""

    store: bool = Field(False, description="Keep responses, so that they can be fetched, continued and deleted.")
    retention_days: float = Field(30.0, gt=0, le=3650, description="Days that a response stays.")
    max_bytes: int = Field(
        1024 * 1024, ge=1024, le=64 * 1024 * 1024, description="Bytes that the conversation of one response may have."
    )
    max_per_tenant: int = Field(10_000, ge=1, description="Responses of one tenant; beyond it the oldest go.")
