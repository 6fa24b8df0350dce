"""LoRA adapters: where they come from and how many there may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from gateway.settings.section import Section

#: What vLLM's kernels are made for (vllm/config/lora.py).
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def _known_rank(value: int) -> int:
    if value not in RANKS:
        raise ValueError(f"expected one of {', '.join(map(str, RANKS))}")
    return value


class ListedAdapterSettings(Section):
    """An adapter that is always there."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="What requests call it.")
    source: str = Field(min_length=1, max_length=2048, description="A directory, hub:org/name, or https://.../x.tar.")
    model: str | None = Field(None, description="Id of its model; default: the first.")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the archive at an https source, else of the adapter's content."
    )
    revision: str | None = Field(None, max_length=256, description="Commit or branch of a hub source.")
    tenant: str | None = Field(None, description="Whose it is; default: everybody's.")
    pinned: bool = Field(False, description="It stays in the engine.")


class AdapterSettings(Section):
    """LoRA adapters, beside their model in one engine."""

    enabled: bool = Field(False, description="Take adapters at run time; a directory or a list does that too.")
    directory: Path | None = Field(
        None, description="Every directory in it is an adapter for everybody, by its name; looked at again and again."
    )
    listed: list[ListedAdapterSettings] = Field([], description="Adapters that are always there.")
    roots: list[Path] = Field([], description="Directories that sources may lie in, besides `directory`.")
    allow_hub: bool = Field(False, description="Take sources from the Hugging Face hub.")
    allowed_hosts: list[str] = Field([], description="Hosts that https sources may be fetched from.")
    batch: int = Field(4, ge=1, le=1024, description="Different adapters in one batch (vLLM's max_loras).")
    resident: int = Field(16, ge=1, le=65_536, description="Adapters in the engine at once (vLLM's max_cpu_loras).")
    resident_bytes: int | None = Field(None, ge=1, description="Bytes of weights in the engine at once.")
    max_rank: Annotated[int, AfterValidator(_known_rank)] = Field(64, description="Largest rank (max_lora_rank).")
    max_bytes: int = Field(1024**3, ge=1024, description="Largest adapter, in bytes.")
    max_registered: int = Field(1000, ge=1, le=100_000, description="Most adapters that are known at once.")
    wait: float = Field(15.0, gt=0, description="Seconds that a request waits for its adapter to be loaded.")
    poll_interval: float = Field(2.0, gt=0, description="Seconds between looks at the directory and the store.")
    fetch_timeout: float = Field(300.0, gt=0, description="Seconds that fetching one adapter may take.")

    @property
    def active(self) -> bool:
        """Whether the engine is to take adapters."""
        return self.enabled or self.directory is not None or bool(self.listed)

    @property
    def from_hub(self) -> bool:
        """Whether any may come from the hub: what the operator lists needs no other permission."""
        return self.allow_hub or any(each.source.startswith("hub:") for each in self.listed)
