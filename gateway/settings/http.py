"""Bounds of the HTTP front."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.section import Section


class HttpSettings(Section):
    """Bounds of the HTTP front. Times in seconds, sizes in bytes."""

    max_header_bytes: int = Field(32_768, ge=1024, description="All header lines of one request together.")
    max_header_line: int = Field(16_384, ge=256, description="One header line.")
    max_headers: int = Field(100, ge=1, description="Header lines of one request.")
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="A JSON body.")
    header_timeout: float = Field(10.0, gt=0, description="From the first byte to the end of the headers.")
    idle_timeout: float = Field(60.0, gt=0, description="An idle keep-alive connection.")
    body_timeout: float = Field(30.0, gt=0, description="From the headers to the end of the body.")
    min_rate: int = Field(1024, ge=1, description="Bytes per second below which a slow sender or reader is cut.")
    write_stall_timeout: float = Field(30.0, gt=0, description="A client that does not read its answer is cut.")
    max_connections: int = Field(20_000, ge=1, description="Open connections.")
