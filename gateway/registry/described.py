"""Public names as people and programs see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.types import Engine
from gateway.adapters.catalog import AdapterCatalog
from gateway.registry.names import Canary, Name, Split, Version, arm_id
from gateway.registry.outcomes import Tally
from gateway.registry.table import arm_of


def name_object(
    name: Name, engine: Engine, adapters: AdapterCatalog, outcomes: Mapping[int, Tally] | None = None
) -> dict[str, Any]:
    """As it stands on the wire; ``outcomes`` are of the canary's step."""
    return {
        "id": name.name,
        "object": "registry.name",
        "active": name.active,
        "versions": [_version_object(name, version, engine, adapters) for version in name.versions],
        "split": None if name.split is None else _split_object(name.split),
        "canary": None if name.canary is None else _canary_object(name, name.canary, outcomes),
        "shadow": None if name.shadow is None else {"version": name.shadow.version, "percent": name.shadow.percent},
        "history": list(name.history),
        "created_at": int(name.created_at),
        "created_by": name.created_by,
    }


def _split_object(split: Split) -> dict[str, Any]:
    arms = [{"version": arm.version, "weight": arm.weight} for arm in split.arms]
    return {"arms": arms, "stick_to": split.stick_to}


def _canary_object(name: Name, canary: Canary, outcomes: Mapping[int, Tally] | None) -> dict[str, Any]:
    rules = canary.rules
    return {
        "version": canary.version,
        "step": canary.step,
        "percent": rules.steps[canary.step],
        "since": int(canary.since),
        "steps": list(rules.steps),
        "min_requests": rules.min_requests,
        "min_seconds": rules.min_seconds,
        "min_success_rate": rules.min_success_rate,
        "max_latency_ratio": rules.max_latency_ratio,
        "stick_to": canary.stick_to,
        "outcomes": None
        if outcomes is None
        else [
            _outcome_object(number, outcomes.get(number, Tally()))
            for number in (name.active, canary.version)
            if number is not None
        ],
    }


def _outcome_object(number: int, tally: Tally) -> dict[str, Any]:
    median = tally.median()
    return {
        "version": number,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "median_seconds": None if median is None else round(median, 4),
    }


def _version_object(name: Name, version: Version, engine: Engine, adapters: AdapterCatalog) -> dict[str, Any]:
    return {
        "id": arm_id(name.name, version.number),
        "version": version.number,
        "target": version.target,
        "model": version.model,
        "adapter": version.adapter,
        "sha256": version.sha256,
        "stage": version.stage,
        "reason": version.reason,
        "available": _available(name, version, engine, adapters),
        "metadata": version.metadata,
        "created_at": int(version.created_at),
        "created_by": version.created_by,
    }


def _available(name: Name, version: Version, engine: Engine, adapters: AdapterCatalog) -> bool:
    adapter = None if version.adapter is None else adapters.get(version.adapter)
    fits = arm_of(name, version).fits(adapter) and (adapter is None or not adapter.broken)
    return fits and engine.model(version.model) is not None
