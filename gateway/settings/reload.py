"""Settings that change while the server runs."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.section import Section


class ReloadSettings(Section):
    """Settings that change while the server runs."""

    watch_interval: float = Field(
        2.0, ge=0, le=3600, description="Seconds between looks at sluice.yaml and api_key_file; 0: only when asked."
    )
