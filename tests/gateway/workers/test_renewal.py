"""Settings read anew for several workers: by the real parent, taken by real processes without a gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from gateway.engines import Served
from gateway.reload.reloader import Cause, InvalidConfig, Outcome
from gateway.settings import Settings, load
from gateway.workers.fit import check, check_wanted
from gateway.workers.messages import Job, Told
from gateway.workers.renewal import Renewal
from gateway.workers.run import reloader_of_all
from gateway.workers.supervisor import Worker
from tests.gateway.workers.test_supervisor import Engines, House, until
from tests.support.fake_worker import DEADLY_TO_TAKE, REFUSED, RELOAD, TOO_SLOW

SERVED = Served("model", "m")
KEY = "sk-first-0123456789abcdef"


class Renewed(House):
    """A running parent whose workers follow its settings."""

    def __init__(self, directory: Path, **flags: Any) -> None:
        super().__init__(directory, Engines())
        self.config = directory / "sluice.yaml"
        self.key = directory / "key"
        self.key.write_text(KEY)
        self.flags = {
            "workers": 2,
            "state_dir": directory,
            "redis_url": "redis://127.0.0.1",
            "api_key_file": self.key,
            "reload": {"watch_interval": 0.0},
            **flags,
        }
        self.write(limits={"max_tokens": 3})
        settings = self.read()
        self.workers: dict[int, Worker] = {}
        self.registry = CollectorRegistry()
        self.renewal = Renewal(self.parent, settings, lambda wanted: check(wanted, [SERVED]))
        self.reloader = reloader_of_all(self.parent, self.renewal, settings, self.read, [self.config], self.registry)

    def _start(self, index: int, late: bool) -> Worker:
        worker = self.workers[index] = super()._start(index, late)
        now = self.renewal.in_force
        worker.send(Job(now.settings, now.number, SERVED, index, late))
        return worker

    def write(self, **values: Any) -> None:
        self.config.write_text(yaml.safe_dump(values))

    def read(self) -> Settings:
        wanted = load(self.config, self.flags)
        check_wanted(wanted, SERVED)
        return wanted

    async def reload(self, tokens: int, **more: Any) -> Outcome:
        self.write(limits={"max_tokens": tokens}, **more)
        return await self.reloader.reload(Cause("signal"))

    async def refused(self) -> InvalidConfig:
        with pytest.raises(InvalidConfig) as caught:
            await self.reloader.reload(Cause("signal"))
        return caught.value

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


@asynccontextmanager
async def house(directory: Path, **flags: Any) -> AsyncIterator[Renewed]:
    made = Renewed(directory, **flags)
    await made.is_serving()
    await made.reloader.start()
    try:
        yield made
    finally:
        await made.reloader.stop()
        assert await made.stop()


async def test_all_take_it_each_its_part_and_one_notes_it(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        outcome = await made.reload(5, admission={"max_queue": 9})
        assert (outcome.generation, outcome.behind) == (2, 0)
        assert outcome.changes.live == ("limits.max_tokens",)
        assert outcome.changes.restart == ("admission.max_queue",)
        for index in (0, 1):
            assert f"took 2 5 {KEY} replicas 2\n" in made.notes(index)
        await made.noted(0, "audit signal True")
        assert "audit" not in made.notes(1)
        assert made.metric("sluice_config_generation") == 2
        assert made.metric("sluice_config_restart_needed") == 1
        # The key in a file is read once for all.
        second = KEY.replace("first", "second")
        made.key.write_text(second)
        assert (await made.reload(5)).changes.live == ("api_key_file",)
        for index in (0, 1):
            assert f"took 3 5 {second} " in made.notes(index)


async def test_what_one_refuses_nobody_takes(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        made.config.write_text("limits: {max_tokens: many}")
        assert (await made.refused()).path == "limits.max_tokens"
        made.write(limits={"max_tokens": 5}, models=[{"name": "n", "model": "n"}], model="m")
        assert "`models`" in (await made.refused()).reason
        assert not any("judged" in made.notes(index) for index in (0, 1))
        made.write(limits={"max_tokens": REFUSED})
        error = await made.refused()
        assert (error.path, error.reason) == ("limits.max_tokens", "worker 1 does not like it")
        assert "judged 2 13" in made.notes(0)
        assert made.metric("sluice_config_generation") == 1
        assert made.metric("sluice_config_reload_failures_total") == 3
        await made.noted(0, "audit signal False")
        # What was judged then is not what is taken now.
        assert (await made.reload(5)).generation == 2
        for index in (0, 1):
            assert made.notes(index).count("took") == 1
            assert "took 2 5" in made.notes(index)


async def test_limits_that_no_redis_would_share_are_refused(tmp_path: Path) -> None:
    free = {"redis_url": None, "api_key_file": None, "allow_no_auth": True}
    async with house(tmp_path, **free) as made:
        assert (await made.reload(5)).generation == 2
        made.write(limits={"key": {"concurrent": 1}})
        assert "Redis" in (await made.refused()).reason
        # One that is there after the next start only shares nothing now.
        made.flags["redis_url"] = "redis://127.0.0.1"
        assert "Redis" in (await made.refused()).reason


async def test_a_worker_asks_and_is_told_what_came_of_it(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        made.write(limits={"max_tokens": 5})
        made.workers[1].send(Told(0, RELOAD))
        await made.noted(1, "answered Outcome(generation=2")
        assert "took 2 5" in made.notes(0)
        made.write(limits={"max_tokens": REFUSED})
        made.workers[0].send(Told(0, RELOAD))
        await made.noted(0, "answered Refused(path='limits.max_tokens'")
        await made.noted(0, "audit admin True\n")
        await made.noted(0, "audit admin False\n")


async def test_who_is_started_later_begins_with_what_is_in_force(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        await made.reload(5)
        # A file that is spoiled, and refused, does not keep a worker from coming back.
        made.key.write_text("")
        assert (await made.refused()).path == "api_key_file"
        os.kill(made.processes[1].pid, signal.SIGKILL)
        await made.noted(1, f"begins with 2 5 {KEY}\n")
        await until(lambda: len(made.parent.serving()) == 2)
        made.key.write_text(KEY)
        assert (await made.reload(DEADLY_TO_TAKE)).behind == 0
        await made.noted(1, f"begins with 3 {DEADLY_TO_TAKE}")


async def test_who_is_starting_hears_of_it_before_it_serves(tmp_path: Path) -> None:
    async with house(tmp_path) as made:
        hold = tmp_path / "hold-1"
        hold.touch()
        os.kill(made.processes[1].pid, signal.SIGKILL)
        await until(lambda: len(made.late) == 3)
        assert (await made.reload(5)).behind == 0
        hold.unlink()
        await made.noted(1, "place 1 2")
        later = made.notes(1).partition("begins with 1 3")[2].partition("begins with 1 3")[2]
        assert "took 2 5" in later.partition("place")[0]


async def test_who_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.workers.supervisor.ORDER_SECONDS", 0.5)
    async with house(tmp_path) as made:
        outcome = await made.reload(TOO_SLOW)
        assert (outcome.generation, outcome.behind) == (2, 1)
        assert "took 2 14" in made.notes(0)


async def test_the_file_is_watched(tmp_path: Path) -> None:
    async with house(tmp_path, reload={"watch_interval": 0.02}) as made:
        made.write(limits={"max_tokens": 5}, guard={"policy": {"action": "annotate"}})
        for index in (0, 1):
            await made.noted(index, "took 2 5")
            assert "guard annotate" in made.notes(index)
