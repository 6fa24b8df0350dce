"""Whether an adapter's tensors belong to the base model: vLLM takes some that do not, and answers with nonsense."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from engine.adapters.peft import PeftConfig
from engine.adapters.tensors import Tensor
from engine.types import AdapterRefused

#: The weight of every module of the base model that an adapter may change: (out, in); of embeddings (vocabulary, size).
Shapes = Mapping[str, tuple[int, int]]

_PREFIX: Final = "base_model.model."
_PART: Final = re.compile(r"(?P<module>.+)\.(?:lora_(?P<ab>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
#: What vLLM calls layers that turn tokens into vectors: their adapters have parts of their own.
_EMBEDDINGS: Final = frozenset({"embed_tokens", "wte"})
#: How every module of most models that only read text is called: vLLM calls it so too, and looks for nothing else.
_ONE_ROOT: Final = re.compile(r"model\..+|lm_head")
_LAYER: Final = re.compile(r"(?:^|\.)layers\.[0-9]+\..+")


def require_fit(tensors: Iterable[Tensor], config: PeftConfig, shapes: Shapes, max_rank: int) -> None:
    """Raises :class:`AdapterRefused` naming the first thing that does not fit."""
    if config.max_rank > max_rank:
        raise AdapterRefused(f"The adapter's rank is {config.max_rank}; this server takes at most {max_rank}.")
    base = _Base(shapes)
    for module, pair in _pairs(tensors).items():
        _require_pair(module, pair, config.rank_of(module), base.shape_of(module))


def _pairs(tensors: Iterable[Tensor]) -> dict[str, dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        found = _PART.fullmatch(tensor.name)
        if found is None:
            raise AdapterRefused(f"{tensor.name[:128]!r} is not a tensor of a LoRA adapter.")
        part = found["ab"] or f"embedding {found['embedding']}"
        pair = pairs[found["module"].removeprefix(_PREFIX)]
        if part in pair:
            # Only one of them would be looked at here, and the engine might take the other.
            raise AdapterRefused(f"{tensor.name[:128]!r} is there under another name too.")
        pair[part] = tensor
    return pairs


def _require_pair(module: str, pair: Mapping[str, Tensor], rank: int, shape: tuple[int, int]) -> None:
    out, into = shape
    embeds = module.rpartition(".")[2] in _EMBEDDINGS
    match sorted(pair):
        case ["A", "B"] if not embeds:
            expected = {"A": (rank, into), "B": (out, rank)}
        case ["embedding A", "embedding B"] if embeds:
            expected = {"embedding A": (rank, out), "embedding B": (into, rank)}
        case ["A", "B"] | ["embedding A", "embedding B"]:
            raise AdapterRefused(f"{module[:128]!r} is {'an' if embeds else 'no'} embedding in the base model.")
        case _:
            raise AdapterRefused(f"{module[:128]!r} has half an adapter: both A and B are needed.")
    for part, tensor in pair.items():
        if tensor.shape != expected[part]:
            raise AdapterRefused(
                f"{tensor.name[:128]!r} has the shape {list(tensor.shape)}; the base model and rank {rank} "
                f"ask for {list(expected[part])}."
            )


class _Base:
    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._by_tail: dict[str, set[tuple[int, int]]] = defaultdict(set)
        if all(_ONE_ROOT.fullmatch(name) for name in shapes):
            return
        for name, shape in shapes.items():
            self._by_tail[_tail(name)].add(shape)

    def shape_of(self, module: str) -> tuple[int, int]:
        """Files name modules of models with several roots, such as those that see, below different ones; what follows
        is compared, if it means one shape only.
        """
        if (shape := self._shapes.get(module)) is not None:
            return shape
        alike = self._by_tail.get(_tail(module), set())
        if len(alike) != 1:
            raise AdapterRefused(f"The base model has no module {module[:128]!r}: the adapter is another model's.")
        return next(iter(alike))


def _tail(module: str) -> str:
    found = _LAYER.search(module)
    return module.rpartition(".")[2] if found is None else found.group().removeprefix(".")
