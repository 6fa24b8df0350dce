"""An engine that several front-end workers share: started here, used by processes that :mod:`engine.core` attaches.

Fence around vLLM's ``launch_core_engines`` (vllm/v1/engine/utils.py, checked against 0.32.0), which ``vllm serve`` uses
in the same way. vLLM greets every client's address once, at the start of the engine, so a worker that died cannot come
back to its old one: there are some more addresses than workers, and each new process takes the next. The last one is
our own: over it adapters come and go, and what a dead worker left running is ended.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, Final

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.utils.network_utils import get_open_zmq_ipc_path
from vllm.v1.engine.core_client import AsyncMPClient, EngineCoreClient
from vllm.v1.engine.utils import EngineZmqAddresses, launch_core_engines
from vllm.v1.executor import Executor

from engine.adapters.desk import AdapterDesk
from engine.adapters.facts import Facts
from engine.adapters.manager import AdapterManager
from engine.adapters.residency import Lora, LoraObserver
from engine.attachment import Attachment
from engine.config import EngineConfig, engine_arguments, on_cpu
from engine.forgotten import FORGET_CLIENT
from engine.layout import Layout, cores_divided
from engine.lora_cpu import CPU_LORA
from engine.machine import allowed_cores
from engine.plugin import GATEWAY_PID
from engine.processes import EngineProcesses, descendants
from engine.types import EngineUnavailable

#: Workers that may die before the engine has no place left and is started anew.
SPARE_PLACES: Final = 8
SHUTDOWN_SECONDS: Final = 5.0


class SharedEngines:
    """Starts engines for ``workers`` clients, one after the other."""

    def __init__(self, config: EngineConfig, workers: int) -> None:
        self._config = config
        self._workers = workers
        self._before: frozenset[int] | None = None
        self._engine: SharedEngine | None = None

    def desk(self, observer: LoraObserver) -> AdapterDesk | None:
        """Where the workers ask for adapters, of all engines one after the other; None if they take none."""
        config = self._config
        if config.adapters is None:
            return None
        files = ThreadPoolExecutor(1, thread_name_prefix="sluice-adapters")
        return AdapterDesk(AdapterManager(config.served_name, config.adapters, self, observer, files))

    async def add_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        await self._living().add_lora(lora)

    async def remove_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        await self._living().remove_lora(lora)

    def _living(self) -> SharedEngine:
        if self._engine is None or self._engine.dead:
            raise EngineUnavailable("there is no engine now")
        return self._engine

    def launch(self) -> SharedEngine:
        """Start one and load the model; blocks for as long as that takes. On one lasting thread.

        Raises :class:`engine.types.EngineUnavailable`.
        """
        self._before = descendants()
        try:
            self._engine = SharedEngine.launch(engine_arguments(self._config), self._workers)
            return self._engine
        except Exception as error:
            self.interrupt()
            raise EngineUnavailable(f"the engine did not start: {error}") from error
        finally:
            self._before = None

    def interrupt(self) -> None:
        """Make a launch that is under way fail: it cannot be stopped otherwise."""
        if (before := self._before) is not None:
            EngineProcesses.started_since(before).kill(wait=0)


class SharedEngine:
    """A started engine that runs nothing of ours. Construct with :meth:`launch` on a lasting thread.

    Coroutines belong to one event loop. None of them ends by itself when the engine dies meanwhile.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        config: VllmConfig,
        launched: Any,
        processes: EngineProcesses,
        workers: int,
    ) -> None:
        self._arguments = arguments
        self._manager = launched.engine_manager
        self._coordinator = launched.coordinator
        self._addresses: EngineZmqAddresses = launched.addresses
        self._processes = processes
        self._workers = workers
        self._given = 0
        self._client = self._attached(config)

    def _attached(self, config: VllmConfig) -> AsyncMPClient:
        own = len(self._addresses.inputs) - 1
        addresses = {"input_address": self._addresses.inputs[own], "output_address": self._addresses.outputs[own]}
        if self._coordinator is not None:
            addresses["stats_update_address"] = self._coordinator.get_stats_publish_address()
        return EngineCoreClient.make_async_mp_client(
            config, Executor.get_class(config), False, addresses, self._workers, own
        )

    @classmethod
    def launch(cls, arguments: Mapping[str, Any], workers: int) -> SharedEngine:
        """Start the processes and load the model; blocks for as long as that takes."""
        os.environ[GATEWAY_PID] = str(os.getpid())
        if arguments.get("enable_lora") and on_cpu():
            os.environ[CPU_LORA] = "1"
        before = descendants()
        config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
        places = range(workers + SPARE_PLACES + 1)
        addresses = EngineZmqAddresses(
            inputs=[get_open_zmq_ipc_path() for _ in places], outputs=[get_open_zmq_ipc_path() for _ in places]
        )
        cores = cores_divided(Layout.of(arguments), allowed_cores()) if on_cpu() else nullcontext()
        with cores, launch_core_engines(config, Executor.get_class(config), True, addresses) as launched:
            pass
        return cls(arguments, config, launched, EngineProcesses.started_since(before), workers)

    def place(self) -> Attachment | None:
        """The next place for a client; None if all were given away."""
        if self._given == len(self._addresses.inputs) - 1:
            return None
        client, self._given = self._given, self._given + 1
        coordinator = self._coordinator
        return Attachment(
            arguments=self._arguments,
            input_address=self._addresses.inputs[client],
            output_address=self._addresses.outputs[client],
            stats_address=coordinator.get_stats_publish_address() if coordinator is not None else None,
            pids=tuple(self._processes.pids),
            client=client,
            clients=self._workers,
        )

    async def forget_client(self, client: int) -> None:
        """End what a worker left running when it died. Raises :class:`EngineUnavailable`."""
        await self._call(FORGET_CLIENT, client)

    def adapter_facts(self) -> Facts | None:
        """What it can do with adapters; None if it takes none."""
        return Facts.of(self._client.vllm_config)

    async def add_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        try:
            await self._client.add_lora_async(LoRARequest(lora.name, lora.id, lora.path))
        except Exception as error:
            if self.dead:
                raise EngineUnavailable("the engine died") from error
            with suppress(Exception):
                await self._client.remove_lora_async(lora.id)  # it can be listed all the same
            raise

    async def remove_lora(self, lora: Lora) -> None:
        """See :class:`engine.adapters.residency.LoraEngine`."""
        await self._call("remove_lora", lora.id)

    async def _call(self, method: str, argument: int) -> None:
        try:
            await self._client.call_utility_async(method, argument)
        except Exception as error:
            raise EngineUnavailable(f"the engine did not do it: {error}") from error

    @property
    def dead(self) -> bool:
        """Whether one of its processes is gone."""
        gone = self._coordinator is not None and self._coordinator.proc.exitcode is not None
        return gone or bool(self._manager.finished_procs())

    def close(self) -> None:
        """Stop it and leave no process and no socket behind. Blocks. Idempotent."""
        if self.dead:
            self._processes.kill()
        self._client.shutdown()
        self._manager.shutdown(timeout=SHUTDOWN_SECONDS)
        if self._coordinator is not None:
            self._coordinator.shutdown(timeout=SHUTDOWN_SECONDS)
        self._processes.kill()
        for address in (*self._addresses.inputs, *self._addresses.outputs):
            with suppress(OSError):
                os.unlink(address.removeprefix("ipc://"))

    def kill(self) -> None:
        """End its processes at once. Call :meth:`close` afterwards."""
        self._processes.kill(wait=0)
