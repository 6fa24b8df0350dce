"""What several workers can do, and each one's part of what the settings give to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.layout import Layout
from gateway.engines import Served
from gateway.settings import Settings, SettingsError
from gateway.settings.guard import SampleSettings


def check(settings: Settings, models: Sequence[Served]) -> None:
    """Refuse by name what does not work with several workers. Raises :class:`SettingsError`."""
    for problem in _problems(settings, models):
        raise SettingsError(f"workers: {problem}")


def check_wanted(wanted: Settings, served: Served) -> None:
    """Refuse settings that were read anew, and with which several workers would not start again.

    ``served`` is the model that runs. Raises :class:`SettingsError`.
    """
    if wanted.workers == 1:
        return
    first = [] if wanted.model is None and wanted.models else [replace(served, arguments=wanted.engine)]
    more = [Served(each.model, each.name, each.kind or "generate", each.engine) for each in wanted.models]
    sample = [served] if any(isinstance(each, SampleSettings) for each in wanted.guard.evaluators) else []
    check(wanted, [*first, *more, *sample])


def _problems(settings: Settings, models: Sequence[Served]) -> Sequence[str]:
    layout = Layout.of(models[0].arguments)
    elsewhere = sorted(name for name in models[0].arguments if name.startswith(("data_parallel_", "nnodes", "node_")))
    found = {
        "more than one needs `model` alone: with `models`, or the sample guard, set workers to 1": len(models) > 1,
        "more than one needs a model that generates text": models[0].kind != "generate",
        "more than one needs Redis, or each would grant every limit in full: set SLUICE_REDIS_URL, or workers to 1": (
            settings.redis() is None and _limits_anybody(settings)
        ),
        "more than one do not hand prompts on yet: leave disaggregation.role at none, or run replicas": (
            settings.disaggregation.role != "none"
        ),
        "more than one and Ray do not go together yet": layout.backend == "ray",
        f"more than one needs the whole engine on this machine: engine.{', '.join(elsewhere)} must not be set": (
            elsewhere not in ([], ["data_parallel_size"])
        ),
    }
    return [problem for problem, there in found.items() if there]


def _limits_anybody(settings: Settings) -> bool:
    """Keys of the store may have limits at any time; without authentication there are no keys."""
    own = settings.limits
    return (
        not settings.allow_no_auth
        or own.key.quota() != type(own.key)().quota()
        or bool(own.model)
        or (own.address.burst is not None)
    )


def part(settings: Settings, index: int) -> Settings:
    """The settings of worker ``index``: what bounds the whole is divided, files of their own get names of their own."""
    workers = settings.workers
    admission, limits = settings.admission, settings.limits
    adaptive = admission.adaptive
    ledger = settings.ledger.path or settings.state_dir / "ledger.jsonl"
    if index:
        ledger = ledger.with_name(f"{ledger.stem}-worker{index}{ledger.suffix}")
    update: dict[str, Any] = {
        "admission": admission.model_copy(
            update={
                "max_running": _share(admission.max_running, workers),
                "max_queue": _share(admission.max_queue, workers),
                "adaptive": adaptive.model_copy(
                    update={"min": _share(adaptive.min, workers), "max": _share(adaptive.max, workers)}
                ),
            }
        ),
        "limits": limits.model_copy(update={"replicas": limits.replicas * workers}),
        "access": settings.access.model_copy(
            update={"max_failures_per_minute": _share(settings.access.max_failures_per_minute, workers)}
        ),
        "ledger": settings.ledger.model_copy(update={"path": ledger}),
    }
    return settings.model_copy(update=update)


def _share(bound: int | None, workers: int) -> int | None:
    """Rounded up: together they hold at most ``workers - 1`` more than the bound."""
    return None if bound is None else -(-bound // workers)
