"""How the configuration names models of the repository: ``repository:NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.protocol.repository import model_name
from gateway.repository.shelves import Shelves
from gateway.settings import Settings, SettingsError

PREFIX: Final = "repository:"


def located(settings: Settings, model: str, setting: str) -> tuple[str, str]:
    """Where ``repository:NAME`` is or will be, and its name. Raises :class:`SettingsError`."""
    name = model.removeprefix(PREFIX)
    if not settings.repository.enabled:
        raise SettingsError(f"{setting}: {model}: there is no repository (repository.enabled)")
    try:
        model_name(name)
    except ValueError as error:
        raise SettingsError(f"{setting}: no model can be called {name!r}") from error
    return str(Shelves(settings.repository_directory()).models / name), name


def configured_names(settings: Settings) -> set[str]:
    """Names in the repository that the configuration serves, however it names them."""
    models = Shelves(settings.repository_directory()).models
    named = [settings.model or "", *(model.model for model in settings.models)]
    return {
        model.removeprefix(PREFIX) if model.startswith(PREFIX) else Path(model).name
        for model in named
        if model.startswith(PREFIX) or Path(model).expanduser().resolve().parent == models
    }
