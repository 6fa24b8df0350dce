"""One tree of settings; a section a module."""

from gateway.settings.access import AccessSettings, JwtSettings
from gateway.settings.accounts import CacheSettings, LedgerSettings, PriceSettings, StoreSettings, UsageSettings
from gateway.settings.console import ConsoleSettings
from gateway.settings.guard import GuardSettings
from gateway.settings.http import HttpSettings
from gateway.settings.limits import (
    AdaptiveSettings,
    AddressLimitSettings,
    AdmissionSettings,
    LimitSettings,
    QuotaSettings,
)
from gateway.settings.logs import LogSettings
from gateway.settings.media import MediaSettings
from gateway.settings.models import ModelSettings, PoolSettings
from gateway.settings.responses import ResponseSettings
from gateway.settings.section import Section, SettingsError
from gateway.settings.tree import MIN_SECRET_LENGTH, OTHER_VARIABLES, PREFIX, Settings, load

__all__ = [
    "MIN_SECRET_LENGTH",
    "OTHER_VARIABLES",
    "PREFIX",
    "AccessSettings",
    "AdaptiveSettings",
    "AddressLimitSettings",
    "AdmissionSettings",
    "CacheSettings",
    "ConsoleSettings",
    "GuardSettings",
    "HttpSettings",
    "JwtSettings",
    "LedgerSettings",
    "LimitSettings",
    "LogSettings",
    "MediaSettings",
    "ModelSettings",
    "PoolSettings",
    "PriceSettings",
    "QuotaSettings",
    "ResponseSettings",
    "Section",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "UsageSettings",
    "load",
]
