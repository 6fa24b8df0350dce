"""The guard from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

from engine.types import Engine
from gateway.guardian.cache import FindingCache
from gateway.guardian.classifier import Classifier
from gateway.guardian.court import Court
from gateway.guardian.guardian import Guardian
from gateway.guardian.model import Asked, GuardModel
from gateway.guardian.moderation import ModerationEndpoint
from gateway.guardian.observer import GuardMetrics
from gateway.guardian.panel import Panel
from gateway.guardian.policy import PolicySet, changed
from gateway.guardian.risks import RISKS, needs
from gateway.guardian.rules import Rules
from gateway.guardian.seat import Seat
from gateway.guardian.verdicts import Evaluator
from gateway.observability.metrics import Metrics
from gateway.settings.guard import (
    ClassifierSettings,
    EvaluatorSettings,
    GuardModelSettings,
    GuardPolicies,
    GuardSettings,
    ModerationSettings,
    RulesSettings,
    SampleSettings,
)
from gateway.settings.section import SettingsError
from gateway.store.audit import AuditEntry
from gateway.usage.ledger import Ledger

log = logging.getLogger("sluice.guardian")

#: The embedded demonstration guard: its model, what its labels show, and how many characters it was trained to read.
SAMPLE_MODEL: Final = "guard-minilm"
SAMPLE_LABELS: Final = {"jailbreaking": "jailbreaking"}
SAMPLE_WINDOW: Final = 400
#: Threads on which long texts are searched.
WORKERS: Final = 2


def build_guardian(
    settings: GuardSettings,
    engine: Engine,
    metrics: Metrics,
    audit: Callable[[AuditEntry], None],
    ledger: Ledger,
) -> Guardian | None:
    """The configured guard; None if there is no evaluator. Raises :class:`SettingsError`."""
    if not settings.evaluators:
        if settings.model_fields_set:
            log.warning("guard: no evaluator is configured, so nothing is checked")
        return None
    observer = GuardMetrics(metrics.registry)
    # Apart from the gateway's other threads: a large text must not hold up the decoding of bodies.
    worker = ThreadPoolExecutor(WORKERS, thread_name_prefix="sluice-guard")
    evaluators = [build_evaluator(each, engine, worker, ledger) for each in settings.evaluators]
    seats = [Seat(each, settings.concurrency, observer) for each in evaluators]
    panel = Panel(seats, FindingCache(settings.cache_entries), observer)
    check_risks(settings.policies(), panel)
    court = Court(panel, observer, audit, keep_text=settings.audit_text)
    return Guardian(court, engine, declared_in(settings), worker)


def declared_in(settings: GuardSettings) -> GuardPolicies:
    """The policies alone."""
    return GuardPolicies(**{name: getattr(settings, name) for name in GuardPolicies.model_fields})


def build_evaluator(settings: EvaluatorSettings, engine: Engine, worker: Executor, ledger: Ledger) -> Evaluator:
    """One evaluator. Raises :class:`SettingsError`."""
    match settings:
        case RulesSettings():
            return Rules(settings.name, settings.patterns, secrets=settings.secrets, pii=settings.pii, worker=worker)
        case ModerationSettings():
            return ModerationEndpoint.of_settings(settings)
        case GuardModelSettings():
            asked = Asked(settings.model, settings.format, settings.adapter)
            return GuardModel(settings.name, asked, engine, ledger, risks=settings.risks, window=settings.window)
        case ClassifierSettings():
            return Classifier(settings.name, settings.model, settings.labels, engine, ledger, window=settings.window)
        case SampleSettings():
            return Classifier(settings.name, SAMPLE_MODEL, SAMPLE_LABELS, engine, ledger, window=SAMPLE_WINDOW)


def check_policies(policies: PolicySet, guardian: Guardian) -> None:
    """Raise :class:`SettingsError` for what would never apply: a risk (see :func:`check_risks`), or a route."""
    check_risks(policies, guardian.court.panel)
    for path in policies.routes:
        if guardian.routes and path not in guardian.routes:
            raise SettingsError(f"guard.routes: {path}: no such route is guarded, only {sorted(guardian.routes)}")


def check_risks(policies: PolicySet, panel: Panel) -> None:
    """Raise :class:`SettingsError` for a risk that would never be found: nobody judges it, or it is of no text here."""
    changes = (*policies.models.values(), *policies.routes.values(), *policies.keys.values())
    for policy in (policies.base, *(changed(policies.base, change) for change in changes)):
        for risk in policy.risks or ():
            if risk not in panel.risks:
                known = "a known risk, but" if risk in RISKS else "and"
                raise SettingsError(f"guard: {risk}: {known} no evaluator judges it; judged are {sorted(panel.risks)}")
            if "context" in needs(risk):
                raise SettingsError(f"guard: {risk}: only POST /v1/guard has a context to judge it by")
            if needs(risk) and not policy.output:
                raise SettingsError(f"guard: {risk}: it is a risk of answers, and `output` is off")
