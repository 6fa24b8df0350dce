"""The page for people."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.section import Section


class ConsoleSettings(Section):
    """The page at /console. It holds no data and asks for a key."""

    enabled: bool | None = Field(None, description="Serve /console; default: in development (`dev`) only.")
