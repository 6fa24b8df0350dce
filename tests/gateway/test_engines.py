"""What the settings say of engines reaches them; building real ones is tests/engine's and tests/faults' matter."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import engines
from gateway.engines import Served, engine_config
from gateway.settings import load

LAW = {"name": "law", "source": "hub:org/law"}


def test_seconds_are_handed_on() -> None:
    flags = {"hang_timeout": 3.0, "engine_kill_timeout": 4.0, "schema_seconds": 0.5}
    config = engine_config(load(flags=flags), Served("/models/a", "a"))
    assert (config.hang_timeout, config.kill_timeout, config.schema_seconds) == (3.0, 4.0, 0.5)


@pytest.mark.parametrize(
    ("adapters", "offline"), [({}, True), ({"allow_hub": True}, False), ({"listed": [LAW]}, False)], ids=str
)
def test_the_hub_is_reached_if_an_adapter_may_come_from_it(
    monkeypatch: pytest.MonkeyPatch, adapters: dict[str, Any], offline: bool
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(engines, "prepare_environment", lambda _, *, model_is_local: told.append(model_is_local))
    monkeypatch.setattr(engines, "keep_sockets_private", lambda _: None)
    monkeypatch.setattr(engines, "keep_groups_local", lambda _: None)
    engines._prepare(load(flags={"adapters": adapters}), [Served("/models/a", "a")])
    assert told == [offline]


@pytest.mark.parametrize(
    ("arguments", "local"), [({}, True), ({"distributed_executor_backend": "ray"}, False)], ids=str
)
def test_process_groups_are_local_unless_machines_are_many(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], local: bool
) -> None:
    environments: list[Any] = []
    monkeypatch.setattr(engines, "prepare_environment", lambda _, *, model_is_local: None)
    monkeypatch.setattr(engines, "keep_sockets_private", lambda _: None)
    monkeypatch.setattr(engines, "keep_groups_local", environments.append)
    engines._prepare(load(), [Served("/models/a", "a"), Served("/models/b", "b", arguments=arguments)])
    assert bool(environments) is local
