from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.engines import Served
from gateway.http.bounds import HttpBounds
from gateway.http.listener import AddressUnavailableError, bind, reserve
from gateway.settings import SettingsError, load
from gateway.workers.fit import check, part

ONE = Served("model", "m")


def refused(*models: Served, **flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        check(load(flags={"workers": 2, **flags}), models or [ONE])
    return str(caught.value)


def test_what_does_not_work_is_refused_by_name() -> None:
    free = {"allow_no_auth": True}
    assert "Redis" in refused()
    assert "Redis" in refused(**free, limits={"key": {"concurrent": 1}})
    assert "Redis" in refused(**free, limits={"model": {"m": {"concurrent": 1}}})
    assert "Redis" in refused(**free, limits={"address": {"burst": 1}})
    assert "disaggregation" in refused(**free, disaggregation={"role": "prefill"})
    assert "`models`" in refused(ONE, ONE, **free)
    assert "generates text" in refused(Served("model", "m", "embed"), **free)
    assert "Ray" in refused(Served("model", "m", arguments={"distributed_executor_backend": "ray"}), **free)
    assert "data_parallel_address" in refused(Served("model", "m", arguments={"data_parallel_address": "x"}), **free)


def test_what_works_is_not_refused() -> None:
    check(load(flags={"workers": 2, "allow_no_auth": True}), [ONE])
    copies = Served("model", "m", arguments={"data_parallel_size": 2, "tensor_parallel_size": 2})
    check(load(flags={"workers": 2, "redis_url": "redis://127.0.0.1"}), [copies])


def test_each_worker_takes_its_part(tmp_path: Path) -> None:
    whole = load(flags={"workers": 4, "state_dir": tmp_path, "admission": {"max_running": 10, "max_queue": 8}})
    parts = [part(whole, index) for index in range(4)]
    assert {each.admission.max_running for each in parts} == {3}
    assert {each.admission.max_queue for each in parts} == {2}
    assert {each.admission.adaptive.max for each in parts} == {None}
    assert {each.limits.replicas for each in parts} == {4}
    assert len({each.ledger.path for each in parts}) == 4
    assert parts[0].ledger.path == tmp_path / "ledger.jsonl"


def test_a_shared_port_is_held_and_a_taken_one_noticed() -> None:
    bounds = HttpBounds(shared_port=True)
    held = reserve("127.0.0.1", 0, bounds)
    port = held[0].getsockname()[1]
    sharing = [bind("127.0.0.1", port, bounds) for _ in range(2)]
    with pytest.raises(AddressUnavailableError):
        reserve("127.0.0.1", port, bounds)
    for sock in (*held, *sharing[0], *sharing[1]):
        sock.close()
