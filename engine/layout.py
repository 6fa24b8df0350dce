"""How one engine is spread over processes: tensor, pipeline and data parallel sizes, and whether this machine fits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from engine.description import description
from engine.types import EngineUnavailable

#: What starts an engine's worker processes: vLLM chooses, in the core's process, by multiprocessing, by Ray.
BACKENDS: Final = (None, "uni", "mp", "ray")
_BINDING: Final = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True, slots=True)
class Layout:
    """``tensor`` parts of each layer, ``pipeline`` stages of layers, ``data`` whole copies."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    backend: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Layout:
        """The layout that vLLM's own arguments ask for. Raises :class:`EngineUnavailable` naming what is no size."""
        tensor, pipeline, data = (_size(arguments, f"{name}_parallel_size") for name in ("tensor", "pipeline", "data"))
        backend = arguments.get("distributed_executor_backend")
        if backend not in BACKENDS:
            raise EngineUnavailable(f"engine.distributed_executor_backend: expected mp or ray, not {backend!r}")
        return cls(tensor, pipeline, data, backend)

    @property
    def copy(self) -> int:
        """Devices (on a CPU: processes) that one copy of the model takes."""
        return self.tensor * self.pipeline

    @property
    def devices(self) -> int:
        """Devices (on a CPU: processes) that the whole engine takes."""
        return self.copy * self.data


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a layout cannot be, and what to do about it."""

    what: str
    remedy: str


def on_several_machines(arguments: Mapping[str, Any]) -> bool:
    """Whether vLLM's own arguments ask for processes on other machines too, or leave to Ray where they are."""
    rays = (arguments.get(f"{what}_backend") for what in ("distributed_executor", "data_parallel"))
    far = arguments.get("nnodes", 1) != 1 or arguments.get("data_parallel_address") is not None
    return far or "ray" in rays


def _size(arguments: Mapping[str, Any], name: str) -> int:
    value = arguments.get(name, 1)
    if type(value) is not int or value < 1:
        raise EngineUnavailable(f"engine.{name}: expected a number from 1, not {value!r}")
    return value


def objections(layout: Layout, model: str, *, cpu: bool) -> Iterator[Objection]:
    """What keeps the model in a local directory from being spread like that; a hub id's shape is not known here."""
    yield from _of_shape(layout, _shape(model))
    if layout.backend == "ray":
        yield from _of_ray(cpu=cpu)
    elif layout.backend == "uni" and layout.copy > 1:
        yield Objection(
            "engine.distributed_executor_backend is uni, which is one process",
            "leave it out: mp is taken when tensor_parallel_size or pipeline_parallel_size asks for more",
        )


def _of_shape(layout: Layout, shape: Mapping[str, Any]) -> Iterator[Objection]:
    heads, layers = shape.get("num_attention_heads"), shape.get("num_hidden_layers")
    if isinstance(heads, int) and heads % layout.tensor:
        fit = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
        yield Objection(
            f"the model's {heads} attention heads cannot be divided by tensor_parallel_size {layout.tensor}",
            f"set engine.tensor_parallel_size to one of {fit}",
        )
    if isinstance(layers, int) and layers < layout.pipeline:
        yield Objection(
            f"the model has {layers} layers, fewer than pipeline_parallel_size {layout.pipeline}",
            f"set engine.pipeline_parallel_size to {layers} or less",
        )


def _of_ray(*, cpu: bool) -> Iterator[Objection]:
    if cpu:
        yield Objection(
            "vLLM's CPU build does not run on Ray",
            "leave engine.distributed_executor_backend out, or serve on GPUs",
        )
    elif find_spec("ray") is None:
        yield Objection("engine.distributed_executor_backend is ray, and ray is not installed", "install ray")


def short_of(layout: Layout, devices: int, *, cpu: bool) -> Objection | None:
    """Whether ``devices`` (on a CPU: cores) of this machine are too few. Ray and other nodes bring their own."""
    if layout.backend == "ray" or layout.devices <= devices:
        return None
    kind = "cores" if cpu else "GPUs"
    return Objection(
        f"{layout.devices} {kind} are needed ({layout.tensor} tensor x {layout.pipeline} pipeline x {layout.data} data "
        f"parallel), {devices} are there",
        f"make the engine's parallel sizes smaller, or give it more {kind}",
    )


def _shape(model: str) -> Mapping[str, Any]:
    config = description(model)
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


@contextmanager
def cores_divided(layout: Layout, cores: Sequence[int]) -> Iterator[None]:
    """Give each process of a CPU engine cores of its own while it is started; what the operator has set stays.

    vLLM's ``auto`` wants a NUMA node per process, gives up where there are fewer, and gives all copies the same cores.
    """
    if layout.devices == 1 or layout.backend == "ray" or _BINDING in os.environ:
        yield
        return
    os.environ[_BINDING] = binding(layout.devices, cores)
    try:
        yield
    finally:
        del os.environ[_BINDING]


def binding(processes: int, cores: Sequence[int]) -> str:
    """Cores for each process, in vLLM's words: ``0,1|2,3``. With fewer cores than processes they are shared."""
    each = max(1, len(cores) // processes)
    rounds = [[cores[(index * each + part) % len(cores)] for part in range(each)] for index in range(processes)]
    return "|".join(",".join(map(str, part)) for part in rounds)
