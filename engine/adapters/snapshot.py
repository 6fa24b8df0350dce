"""Private copies of adapters, by the hash of their content: what was checked is what the engine reads, ever.

Only two files are ever read from a source, without following links: ``adapter_config.json``, of which a canonical form
is kept, and ``adapter_model.safetensors``. The copy is checked, not the source, which may change meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from engine.adapters.fitting import Shapes, require_fit
from engine.adapters.peft import MAX_CONFIG_BYTES, PeftConfig, parse_config
from engine.adapters.tensors import read_header, require_finite
from engine.types import AdapterRefused

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_CHUNK: Final = 1024 * 1024
_MAX_ENTRIES: Final = 1000
#: What can hold code, or only exists to be unpickled or run.
UNSAFE: Final = re.compile(
    r"\.(bin|pth?|ckpt|pkl|pickle|joblib|dill|np[yz]|h5|hdf5|keras|pb|onnx|jar|class"
    r"|py[cdo]?|ipynb|so|dll|dylib|exe|sh|bash|bat|cmd|ps1|whl|egg|tar)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy that was checked. ``sha256`` is of its content, hex; ``size`` is bytes of weights."""

    sha256: str
    path: Path
    rank: int
    size: int


class SnapshotStore:
    """Keeps copies below ``root``. Methods block: not for the event loop. ``max_bytes``: of the weights of one."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def take(self, source: Path, shapes: Shapes, max_rank: int) -> Snapshot:
        """Copy and check ``source``; equal content is kept once. Raises :class:`AdapterRefused`."""
        _require_safe_directory(source)
        config = parse_config(_read_config(source))
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
        try:
            return self._keep(work, config, self._copy(source, work), shapes, max_rank)
        except OSError as error:
            raise AdapterRefused(f"The adapter cannot be copied: {error.strerror}.") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def path_of(self, sha256: str) -> Path:
        """Where the copy of that content is, if there is one."""
        return self._root / sha256

    def forget(self, sha256: str) -> None:
        """Delete a copy that nobody can ask the engine for any more. Idempotent."""
        path = self._root / sha256
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o700)
            shutil.rmtree(path)

    def sweep(self) -> None:
        """Delete what an earlier process left half done."""
        for left in self._root.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _copy(self, source: Path, work: Path) -> str:
        digest = hashlib.sha256()
        with _opened(source / WEIGHTS, self._max_bytes) as weights, (work / WEIGHTS).open("xb") as copy:
            left = self._max_bytes
            while chunk := weights.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(self._max_bytes)
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        return digest.hexdigest()

    def _keep(self, work: Path, config: PeftConfig, weights: str, shapes: Shapes, max_rank: int) -> Snapshot:
        size = (work / WEIGHTS).stat().st_size
        with (work / WEIGHTS).open("rb") as file:
            tensors = read_header(file, size)
            require_fit(tensors, config, shapes, max_rank)
            require_finite(file, tensors)
        canonical = config.canonical()
        (work / CONFIG).write_bytes(canonical)
        sha256 = content_sha256(canonical, weights)
        for name in (CONFIG, WEIGHTS):
            (work / name).chmod(0o400)
        self._move(work, sha256)
        return Snapshot(sha256, self._root / sha256, config.max_rank, size)

    def _move(self, work: Path, sha256: str) -> None:
        """Into place at once: a copy is there whole, or not at all. What bears the name already must be the same."""
        if self._holds(sha256):
            return
        self.forget(sha256)
        work.chmod(0o500)
        try:
            work.rename(self._root / sha256)
        except OSError:
            work.chmod(0o700)
            if not self._holds(sha256):  # somebody else was faster
                raise

    def _holds(self, sha256: str) -> bool:
        try:
            return sha256_of(self._root / sha256) == sha256
        except AdapterRefused:
            return False


def content_sha256(config: bytes, weights_sha256: str) -> str:
    """The version of an adapter: of the digests of its canonical configuration and of its weights."""
    return hashlib.sha256(hashlib.sha256(config).digest() + bytes.fromhex(weights_sha256)).hexdigest()


def sha256_of(source: Path) -> str:
    """The version that the adapter in ``source`` has or would get. Blocks. Raises :class:`AdapterRefused`."""
    config = parse_config(_read_config(source))
    with _opened(source / WEIGHTS, None) as weights:
        digest = hashlib.sha256()
        while chunk := weights.read(_CHUNK):
            digest.update(chunk)
    return content_sha256(config.canonical(), digest.hexdigest())


def _require_safe_directory(source: Path) -> None:
    try:
        with os.scandir(source) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_ENTRIES + 1), entries, strict=False)]
    except OSError as error:
        raise AdapterRefused(f"The adapter cannot be read: {error.strerror}.") from None
    if len(names) > _MAX_ENTRIES:
        raise AdapterRefused(f"The directory holds more than {_MAX_ENTRIES} files: it is not an adapter's.")
    for name in sorted(names):
        if UNSAFE.search(name):
            raise AdapterRefused(
                f"{name[:128]!r} can hold code: only safetensors are served, with nothing that runs beside them.",
                code="unsafe_artifact",
            )


def _read_config(source: Path) -> bytes:
    with _opened(source / CONFIG, MAX_CONFIG_BYTES) as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise _too_large(MAX_CONFIG_BYTES)
    return raw


def _too_large(limit: int) -> AdapterRefused:
    return AdapterRefused(f"The adapter is larger than {limit} bytes.")


@contextlib.contextmanager
def _opened(path: Path, limit: int | None) -> Iterator[BinaryIO]:
    """A plain file of at most ``limit`` bytes. A link, a pipe or a device is refused, not followed or waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AdapterRefused(f"{path.name} cannot be read: {error.strerror}.") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)  # a directory is opened too, and no file object would take it
        raise AdapterRefused(f"{path.name} is not a plain file.")
    with os.fdopen(descriptor, "rb") as file:
        if limit is not None and status.st_size > limit:
            raise _too_large(limit)
        yield file
