"""Structured logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway.settings.section import Section


class LogSettings(Section):
    """Structured logs on standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")
    file: Path | None = Field(None, description="Write to this file instead of standard output.")
