"""What every section of the settings is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SettingsError(Exception):
    """A setting that cannot be used; the message names it."""


class Section(BaseModel):
    """Unknown settings are errors; none changes while the process runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
