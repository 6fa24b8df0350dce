"""The role of this server, from its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.types import Engine
from gateway.access.door import Door
from gateway.access.failures import FailedCredentials
from gateway.access.secret import DeploymentSecret
from gateway.admission import Gates
from gateway.disaggregation.client import PeerClient
from gateway.disaggregation.metrics import DisaggregationMetrics
from gateway.disaggregation.remote import Collocated, Prefills, RemotePrefills
from gateway.disaggregation.seal import PURPOSE, Seal
from gateway.disaggregation.serving import Prefiller
from gateway.lifecycle import Gateway, Service
from gateway.observability.metrics import Metrics
from gateway.settings import Settings, SettingsError
from gateway.usage.ledger import Ledger

#: What vLLM's side must be able to do in each of our roles.
_KV_ROLES: Final = {"prefill": ("kv_producer", "kv_both"), "decode": ("kv_consumer", "kv_both")}


class Disaggregation:
    """The parts of this server's role; those of other roles are not there."""

    def __init__(self, settings: Settings, engine: Engine, secret: DeploymentSecret, metrics: Metrics) -> None:
        """Raises :class:`SettingsError` for a role that could not work."""
        check_role(settings)
        self._settings = settings
        self._engine = engine
        self._seal = Seal(secret.derive(PURPOSE))
        role = settings.disaggregation.role
        self._metrics = DisaggregationMetrics(metrics.registry) if role != "none" else None
        remote = None
        if role == "decode" and self._metrics is not None:
            remote = RemotePrefills(settings.disaggregation, engine, PeerClient(self._seal), self._metrics)
        self.prefills: Prefills = remote or Collocated()
        self.services: Sequence[Service] = [] if remote is None else [remote]

    def prefiller(self, gate: Gates, gateway: Gateway, door: Door, ledger: Ledger) -> Prefiller | None:
        """What serves peers, in that role."""
        if self._settings.disaggregation.role != "prefill" or self._metrics is None:
            return None
        return Prefiller(
            self._engine,
            gate,
            gateway,
            door,
            FailedCredentials(self._settings.access.max_failures_per_minute),
            self._seal,
            ledger,
            self._metrics,
            self._settings.http.max_body_bytes,
        )


def check_role(settings: Settings) -> None:
    """Raise :class:`SettingsError` unless an engine and a secret are there for the role."""
    role = settings.disaggregation.role
    if role == "none":
        return
    configs = [each.get("kv_transfer_config") for each in _arguments(settings)]
    given = [each for each in configs if isinstance(each, Mapping)]
    if not given:
        raise SettingsError(
            f"disaggregation.role: {role} needs engine.kv_transfer_config, which says how vLLM moves KV caches "
            "(docs/disaggregation.md)"
        )
    if not any(each.get("kv_role") in _KV_ROLES[role] for each in given):
        wanted = " or ".join(_KV_ROLES[role])
        raise SettingsError(f"disaggregation.role: {role} needs engine.kv_transfer_config.kv_role {wanted}")
    if settings.secret is None and settings.secret_file is None:
        raise SettingsError(
            f"disaggregation.role: {role} needs SLUICE_SECRET or secret_file: peers know each other by the secret that "
            "all of them are given"
        )


def _arguments(settings: Settings) -> Sequence[Mapping[str, Any]]:
    return [settings.engine, *(model.engine for model in settings.models)]
