"""``adapter_config.json`` as PEFT writes it: what of it matters, and what of it we cannot honour."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from engine.types import AdapterRefused

MAX_CONFIG_BYTES: Final = 1024 * 1024
#: Patterns are regular expressions to vLLM; only ones that are plain names come near it.
_PLAIN_PATTERN: Final = re.compile(r"[A-Za-z0-9_.]{1,256}")
_MAX_PATTERNS: Final = 4096
#: Some thousand times what anybody trains with: beyond it finite weights become infinite.
_MAX_ALPHA: Final = 1_000_000
#: Ways to begin a training that leave the base model as it is (vllm/lora/peft_helper.py).
_HARMLESS_INITS: Final = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
#: What changes the meaning of an adapter in ways that vLLM does not carry out.
_UNSUPPORTED: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "modules_to_save",
    "megatron_config",
    "trainable_token_indices",
)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What of the file matters. ``ranks`` and ``alphas`` are for the modules whose names end so."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str
    use_rslora: bool = False
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    @property
    def max_rank(self) -> int:
        """The largest rank of a module."""
        return max([self.r, *self.ranks.values()])

    def rank_of(self, module: str) -> int:
        """The rank that the tensors of ``module`` must have."""
        return next((rank for name, rank in self.ranks.items() if f".{module}".endswith(f".{name}")), self.r)

    def canonical(self) -> bytes:
        """The file that the engine is given: these fields and no others, always in the same bytes."""
        fields: dict[str, Any] = {
            "peft_type": "LORA",
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "target_modules": self.target_modules,
            "use_rslora": self.use_rslora,
            "bias": "none",
            # In their own order: of several that match a module the first counts.
            "rank_pattern": self.ranks,
            "alpha_pattern": self.alphas,
        }
        return json.dumps(dict(sorted(fields.items())), indent=1).encode()


def parse_config(raw: bytes) -> PeftConfig:
    """Raises :class:`AdapterRefused`, with the code ``unsafe_artifact`` for a configuration that names code."""
    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise AdapterRefused("adapter_config.json is not JSON.") from None
    if not isinstance(values, dict):
        raise AdapterRefused("adapter_config.json is not an object.")
    if values.get("auto_map") or values.get("auto_mapping"):
        raise AdapterRefused("adapter_config.json names code to run (auto_map).", code="unsafe_artifact")
    _require_supported(values)
    return PeftConfig(
        r=_rank(values.get("r"), "r"),
        lora_alpha=_alpha(values.get("lora_alpha"), "lora_alpha"),
        target_modules=_targets(values.get("target_modules")),
        use_rslora=_flag(values.get("use_rslora"), "use_rslora"),
        ranks={name: _rank(rank, "rank_pattern") for name, rank in _patterns(values, "rank_pattern")},
        alphas={name: _alpha(alpha, "alpha_pattern") for name, alpha in _patterns(values, "alpha_pattern")},
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AdapterRefused("adapter_config.json has a name twice.")
    return found


def _require_supported(values: dict[str, Any]) -> None:
    if str(values.get("peft_type", "LORA")).upper() != "LORA":
        raise AdapterRefused("adapter_config.json: only adapters of peft_type LORA are served.")
    if values.get("bias", "none") != "none":
        raise AdapterRefused("adapter_config.json: adapters with a bias are not served.")
    for name in _UNSUPPORTED:
        if values.get(name):
            raise AdapterRefused(f"adapter_config.json: adapters with {name} are not served.")
    if values.get("init_lora_weights") not in _HARMLESS_INITS:
        raise AdapterRefused("adapter_config.json: init_lora_weights says that the base model was changed too.")


def _rank(value: object, name: str) -> int:
    if type(value) is not int or not 1 <= value <= 65_536:
        raise AdapterRefused(f"adapter_config.json: {name} must be a positive integer.")
    return value


def _alpha(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_ALPHA <= value <= _MAX_ALPHA:
        raise AdapterRefused(f"adapter_config.json: {name} must be a number from -{_MAX_ALPHA} to {_MAX_ALPHA}.")
    return value


def _flag(value: object, name: str) -> bool:
    if not (value is None or isinstance(value, bool)):
        raise AdapterRefused(f"adapter_config.json: {name} must be true or false.")
    return bool(value)


def _targets(value: object) -> tuple[str, ...] | str:
    if isinstance(value, str) and 0 < len(value) <= 4096:
        return value
    if isinstance(value, list) and value and all(isinstance(each, str) and len(each) <= 256 for each in value):
        return tuple(value)
    raise AdapterRefused("adapter_config.json: target_modules must be a list of names.")


def _patterns(values: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    patterns = values.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise AdapterRefused(f"adapter_config.json: {name} must be an object of at most {_MAX_PATTERNS} names.")
    if not all(_PLAIN_PATTERN.fullmatch(pattern) for pattern in patterns):
        raise AdapterRefused(f"adapter_config.json: {name} may hold plain names only.")
    return list(patterns.items())
