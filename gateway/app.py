"""Wires everything, once: the only place where parts learn of each other."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from engine.types import Engine
from gateway.access.administration import KeyAdministration
from gateway.access.denials import DenialAudit
from gateway.access.door import Door, unobserved
from gateway.access.failures import FailedCredentials
from gateway.access.identify import Identities, Identity, NoAuth, StaticKey, TokenIdentity
from gateway.access.isolation import CacheSalts
from gateway.access.keyring import Freshness, Keyring
from gateway.access.keysync import KeySync, SyncHooks
from gateway.access.nudge import Nudges
from gateway.access.secret import CACHE_SALT, KEYS, DeploymentSecret
from gateway.access.service import KeyService
from gateway.access.tokens import JwtIdentity, jwt_identity
from gateway.adapters.administration import AdapterAdministration
from gateway.adapters.catalog import AdapterCatalog
from gateway.adapters.desired import AdapterRecords, MemoryRecords
from gateway.adapters.service import AdapterService
from gateway.adapters.sources import SourcePolicy, Sources
from gateway.admission import Gate, GateLimits, Gates
from gateway.admission.adaptive import AdaptiveBound
from gateway.agent.loop import Served
from gateway.agent.toolbox import AgentMetrics, Toolbox
from gateway.claims import Claims
from gateway.console.assets import read_assets
from gateway.disaggregation.build import Disaggregation
from gateway.front import Front
from gateway.guardian.build import build_guardian, check_policies, declared_in
from gateway.guardian.check import GuardPolicy, Unguarded
from gateway.guardian.decreed import PolicyDecrees
from gateway.guardian.guardian import Guardian
from gateway.http.bounds import HttpBounds
from gateway.http.server import HttpServer
from gateway.kept.shelf import Shelf
from gateway.lifecycle import Gateway, Service
from gateway.limits.build import build_limits, limit_rules
from gateway.limits.client import connector
from gateway.limits.limiter import RateLimits
from gateway.media import Media
from gateway.media.build import build_media
from gateway.observability.live import LiveFigures
from gateway.observability.logs import AccessLog
from gateway.observability.memory import Sampled, read_fraction
from gateway.observability.metrics import Metrics
from gateway.observability.tracing.build import build_tracing
from gateway.openapi import document
from gateway.pipeline import Pipeline, Policy
from gateway.protocol.agent import AgentBounds
from gateway.protocol.sampling import RequestBounds
from gateway.registry.administration import RegistryAdministration
from gateway.registry.endings import Ending
from gateway.registry.keeper import CanaryKeeper
from gateway.registry.metrics import RegistryMetrics
from gateway.registry.service import RegistryService
from gateway.registry.shadows import Shadows
from gateway.registry.table import RoutingTable
from gateway.reload.following import Follower, JudgeSettings, Led, NoteReload, TakeSettings
from gateway.reload.generation import Generation, Generations, SeenIdentity
from gateway.reload.reloader import Reloader, ReloadMetrics, Reloads
from gateway.reload.swap import Swap
from gateway.repository.configured import configured_names
from gateway.repository.service import Repository
from gateway.routes import adapters as adapter_routes
from gateway.routes import (
    admin_guard,
    admin_keys,
    admin_reload,
    admin_usage,
    agent,
    audio,
    chat,
    completions,
    console,
    guard,
    internal,
    messages,
    models,
    pooling,
    repository,
    responses,
    status,
    system,
    tokenize,
)
from gateway.routes import registry as registry_routes
from gateway.routing import Route, RouteTable
from gateway.settings import Settings, SettingsError
from gateway.speech.decode import Decoding
from gateway.speech.spool import SpoolBudget
from gateway.speech.way import Transcriptions
from gateway.store.adapters import AdapterRepository
from gateway.store.audit import AuditEntry
from gateway.store.calls import StoreCalls
from gateway.store.guard import MemoryPolicies, PolicyRepository
from gateway.store.keys import KeyRepository
from gateway.store.opened import Store
from gateway.store.registry import RegistryRepository
from gateway.store.responses import ResponseRepository
from gateway.usage.ledger import Ledger
from gateway.usage.observed import ObservedLedger
from gateway.usage.prices import PriceList
from gateway.usage.records import Settled
from gateway.workers.fellows import Alone, Fellows, LookAtAdapters
from gateway.workers.routes import fit_for_workers

NO_AUTHENTICATION = (
    "no authentication is configured: make a key with `sluice keys create`, set SLUICE_API_KEY, api_key_file or jwt, "
    "use --dev to have a key made, or --allow-no-auth to serve everyone"
)


def create_app(
    settings: Settings,
    engine: Engine,
    *,
    secret: DeploymentSecret,
    ledger: Ledger,
    access_log: AccessLog,
    metrics: Metrics,
    store: Store | None = None,
    engine_version: str = "none",
    scrape: Callable[[], Awaitable[bytes]] | None = None,
    fellows: Fellows | None = None,
    read: Callable[[], Settings] | None = None,
    files: Sequence[Path] = (),
    led: Led | None = None,
) -> Gateway:
    """The whole gateway around ``engine``; must be called on the event loop that will run it.

    ``scrape``: where the metrics of all workers come from, if this is one of several; ``fellows``: the others.
    ``read`` reads the settings anew, which are in ``files``; ``led``: they are read for all workers elsewhere.

    Without a ``store`` there are no keys but the configured one, and no admin routes. Raises :class:`SettingsError`
    where settings contradict each other, ValueError for a route with a hole.
    """
    worker = ThreadPoolExecutor(2, thread_name_prefix="sluice-worker")
    gate = _gates(settings, engine, metrics)
    gateway = Gateway(settings, engine, gate, metrics, worker)
    keys = _Keys(settings, store, gateway, metrics) if store is not None else None
    shelf = _shelf(settings, store, metrics)
    jwt = jwt_identity(settings.jwt, metrics) if settings.jwt else None
    media = build_media(settings.media, metrics)
    names = _Registry(settings, metrics, store)
    claims, fellows = Claims(), fellows or Alone()
    adapters = _Adapters(settings, engine, store, names.table, claims, fellows)
    build = partial(_generation, settings.limits.namespace, jwt, keys.ring if keys is not None else None)
    generations = Generations(build(None, settings, 1 if led is None else led.generation))
    limits = build_limits(settings, metrics, lambda: generations.seen().limits)
    door = Door(
        SeenIdentity(generations),
        FailedCredentials(settings.access.max_failures_per_minute),
        settings.access.trusted_proxies,
        DenialAudit(store.audit.record) if store is not None else unobserved,
    )
    books = ObservedLedger(ledger, _count_for_tenants(settings, metrics))
    audit = store.audit.record if store is not None else unaudited
    disaggregation = Disaggregation(settings, engine, secret, metrics)
    guardian = build_guardian(settings.guard, engine, metrics, audit, books)
    shadows = Shadows(engine, names.table, gate, books, names.metrics)
    uploaded = _repository(settings, audit)
    decrees: PolicyDecrees | None = None
    if guardian is not None:
        _follow(guardian, generations)
        decrees = _decrees(settings, guardian, store)
        if settings.guard.unready_on_failure:
            gateway.vetoes.append(lambda: next(iter(guardian.degraded()), None))
    pipeline = Pipeline(
        engine=engine,
        adapters=adapters.catalog,
        registry=names.table,
        shadows=shadows,
        door=door,
        gate=gate,
        limits=limits,
        guard=guardian or Unguarded(),
        media=media,
        salts=_salts(settings, secret),
        ledger=books,
        metrics=metrics,
        policy=lambda: generations.seen().policy,
        decoder=worker,
        prefills=disaggregation.prefills,
    )
    figures = LiveFigures(engine, gate)
    told = status.StatusSources(
        engine, gate, figures, metrics, gateway.facts, engine_version, guarded=guardian is not None
    )
    tool_metrics = AgentMetrics(metrics.registry)
    toolbox = Toolbox.build(settings.agent, tool_metrics)
    swap = Swap(generations, partial(build, guardian), partial(_declare, decrees))
    reloader = _reloader(settings, read, files, swap, metrics, audit)
    reloads: Reloads | None = reloader
    if reloader is not None:
        gateway.reload = reloader.ask
    if led is not None:
        _follow_parent(fellows, Follower(swap, led.part, audit))
        reloads = led
    describe = cache(lambda: _describe(table))
    table = RouteTable(
        fit_for_workers(
            pipeline,
            settings.workers,
            *chat.routes(pipeline),
            *completions.routes(pipeline),
            *responses.routes(pipeline, shelf),
            *messages.routes(pipeline, engine),
            *pooling.routes(pipeline),
            *models.routes(pipeline, engine, audit),
            *tokenize.routes(pipeline, engine),
            *guard.routes(pipeline, guardian),
            *admin_guard.routes(pipeline, guardian, decrees, audit),
            *admin_reload.routes(pipeline, reloads),
            *agent.routes(
                _agents(settings, pipeline, toolbox, tool_metrics), _agent_bounds(settings), settings.request_timeout
            ),
            *audio.routes(_transcriptions(settings, pipeline, engine)),
            *internal.routes(disaggregation.prefiller(gate, gateway, door, books)),
            *adapter_routes.routes(pipeline.enter, adapters.administration),
            *repository.routes(pipeline.enter, uploaded),
            *(keys.routes(pipeline) if keys is not None else ()),
            *status.routes(pipeline, told),
            *names.routes(pipeline, engine, adapters.catalog, claims),
            *(console.routes(read_assets()) if settings.serves_console() else ()),
            *system.health_routes(gateway.is_started, gateway.not_ready_reason, gateway.degraded),
            *system.metrics_routes(
                pipeline,
                metrics,
                gateway.refresh_metrics,
                worker,
                need_key=settings.metrics_need_key,
                scrape=scrape,
            ),
            system.version_route(engine_version),
            *system.document_routes(describe, worker, page=settings.dev),
        )
    )
    if guardian is not None:
        guardian.routes = frozenset(route.path for route in table.routes if route.guard is GuardPolicy.GENERATION)
        check_policies(guardian.policies, guardian)
    tracer = build_tracing(settings.tracing, os.environ, metrics)
    front = Front(table, door, access_log, metrics, tracer, names.ended, generations)
    server = HttpServer(front, http_bounds(settings), on_reject=metrics.front_rejected)
    services = [tracer, *_services(keys, jwt, limits, media, guardian, shelf), toolbox, adapters.service]
    if uploaded is not None:
        services.append(uploaded)
    if decrees is not None:
        services.append(decrees)
    services += [reloader] if reloader is not None else []
    gateway.attach(pipeline, front, server, [*services, *names.services, shadows, figures, *disaggregation.services])
    return gateway


def _transcriptions(settings: Settings, pipeline: Pipeline, engine: Engine) -> Transcriptions:
    speech = settings.speech
    budget = SpoolBudget(speech.max_spool_bytes)
    decoding = Decoding(budget, at_once=speech.decoders, max_seconds=speech.max_seconds, timeout=speech.decode_timeout)
    return Transcriptions(pipeline, engine, decoding, budget, speech.max_file_bytes)


def _count_for_tenants(settings: Settings, metrics: Metrics) -> Callable[[Settled], None]:
    prices = PriceList(settings.usage.prices)

    def settled(row: Settled) -> None:
        cost = prices.cost_nanos(row)
        metrics.tenants.used(row.tenant, row.prompt_tokens, row.cached_tokens, row.completion_tokens, cost)

    return settled


def unaudited(entry: AuditEntry) -> None:
    """Where there is no store there is no audit log."""


def _services(
    keys: _Keys | None,
    jwt: JwtIdentity | None,
    limits: RateLimits,
    media: Media,
    guardian: Guardian | None,
    shelf: Shelf | None,
) -> list[Service]:
    services: list[Service] = [limits, media, *([] if guardian is None else [guardian])]
    if keys is not None:
        services.append(keys.service)
    if jwt is not None:
        services.append(jwt)
    if shelf is not None:
        services.append(shelf)
    return services


def _shelf(settings: Settings, store: Store | None, metrics: Metrics) -> Shelf | None:
    kept = settings.responses
    if not kept.store:
        return None
    if store is None:
        raise SettingsError("responses.store: there is no database to keep them in")
    return Shelf(
        ResponseRepository(store.database, max_per_tenant=kept.max_per_tenant),
        kept,
        prepare=store.prepare,
        patience=2 * store.database.timeout,
        on_lost=metrics.responses_lost.inc,
    )


def _repository(settings: Settings, audit: Callable[[AuditEntry], None]) -> Repository | None:
    if not settings.repository.enabled:
        return None
    return Repository(settings.repository, settings.repository_directory(), configured_names(settings), audit)


class _Keys:
    """The keys of the store: who holds them, how they are administered, how they are kept up to date."""

    def __init__(self, settings: Settings, store: Store, gateway: Gateway, metrics: Metrics) -> None:
        self._store = store
        pepper = store.secret.derive(KEYS)
        self._repository = KeyRepository(store.database, pepper)
        interval = settings.store.poll_interval
        self.ring = Keyring(pepper, Freshness.of_polling(interval, settings.store.max_stale))
        hooks = SyncHooks(
            on_gone=gateway.cut if settings.store.on_revoke == "cut" else lambda _principals: None,
            on_available=metrics.store_available,
            on_keys=metrics.keys_known,
        )
        sync = KeySync(self.ring, self._repository, prepare=store.prepare, poll_interval=interval, hooks=hooks)
        self.service = KeyService(sync, _nudges(settings, "keys", sync.nudge))

    def routes(self, pipeline: Pipeline) -> Sequence[Route]:
        administration = KeyAdministration(self._repository, self._store.audit.record)
        admin = admin_keys.AdminStore(
            self._store.database, self._repository, administration, self._store.executor, self.service.changed
        )
        return [*admin_keys.routes(pipeline.enter, admin), *admin_usage.routes(pipeline.enter, admin)]


class _Adapters:
    """The adapters: which there should be, which may be named, and who may change that."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: Store | None,
        names: RoutingTable,
        claims: Claims,
        fellows: Fellows,
    ) -> None:
        own = settings.adapters
        self.catalog = AdapterCatalog()
        policy = SourcePolicy(
            roots=[*own.roots, *([own.directory] if own.directory is not None else [])],
            allow_hub=own.allow_hub,
            allowed_hosts=own.allowed_hosts,
            timeout=own.fetch_timeout,
            max_bytes=own.max_bytes,
        )
        sources = Sources(policy, settings.state_dir / "adapters")
        records: AdapterRecords = MemoryRecords() if store is None else AdapterRepository(store.database)
        call = _inline if store is None else StoreCalls(store).call
        self.service = AdapterService(own, engine, self.catalog, sources, records, call)
        record = store.audit.record if store is not None else unaudited
        fellows.obey(LookAtAdapters, lambda _: self.service.look())
        self.administration = AdapterAdministration(
            engine,
            self.service,
            sources,
            records,
            call,
            record,
            taken=lambda name: names.get(name) is not None,
            claims=claims,
            everywhere=lambda: fellows.tell(LookAtAdapters()),
        )


class _Registry:
    """Public names: what requests are routed by, and who may change it. Without a ``store`` there are none."""

    def __init__(self, settings: Settings, metrics: Metrics, store: Store | None) -> None:
        self._store = store
        self.table = RoutingTable(loaded=store is None)
        self.metrics = RegistryMetrics(metrics.registry)
        self.services: list[RegistryService] = []
        if store is not None:
            self._repository = RegistryRepository(store.database)
            service = RegistryService(
                self.table,
                self._repository,
                CanaryKeeper(self._repository, secrets.token_hex(8), store.audit.record),
                self.metrics,
                prepare=store.prepare,
                interval=settings.store.poll_interval,
                nudges=partial(_nudges, settings, "registry"),
            )
            self.services.append(service)

    def ended(self, arm: str, ending: Ending, seconds: float) -> None:
        """A request of ``arm`` is over."""
        self.metrics.ended(arm, ending, seconds)
        for service in self.services:
            service.ended(arm, ending, seconds)

    def routes(self, pipeline: Pipeline, engine: Engine, adapters: AdapterCatalog, claims: Claims) -> Sequence[Route]:
        if self._store is None:
            return ()
        call, record = StoreCalls(self._store).call, self._store.audit.record
        changed = self.services[0].changed
        acts = RegistryAdministration(engine, adapters, self._repository, call, record, changed, claims=claims)
        return registry_routes.routes(pipeline.enter, acts)


async def _inline(action: Callable[[], Any]) -> Any:
    return action()


def _nudges(settings: Settings, topic: str, on_nudge: Callable[[], None]) -> Nudges | None:
    url = settings.redis()
    return None if url is None else Nudges(connector(url), settings.limits.namespace, topic, on_nudge)


def identity(settings: Settings, jwt: TokenIdentity | None = None, ring: TokenIdentity | None = None) -> Identity:
    """Who may come in. Raises :class:`SettingsError` if nobody said so."""
    if settings.allow_no_auth:
        return NoAuth()
    key = settings.static_key()
    kinds = [kind for kind in (StaticKey(key) if key is not None else None, jwt, ring) if kind is not None]
    if not kinds:
        raise SettingsError(NO_AUTHENTICATION)
    return Identities(kinds)


def _gates(settings: Settings, engine: Engine, metrics: Metrics) -> Gates:
    admission, adaptive = settings.admission, settings.admission.adaptive
    memory_fraction = Sampled(read_fraction)
    limits = GateLimits(
        max_running=admission.max_running,
        max_queue=admission.max_queue,
        max_wait=admission.max_wait,
        max_memory=admission.max_memory_fraction,
        fair_share=admission.fair_share,
    )

    def bound(high: int) -> AdaptiveBound:
        return AdaptiveBound(adaptive.min, adaptive.max or high, adaptive.target_latency, adaptive.target_queue)

    def make(model: str) -> Gate:
        return Gate(
            limits,
            memory_fraction=memory_fraction,
            slots=partial(engine.slots, model),
            observer=metrics,
            adaptive=bound if adaptive.enabled else None,
        )

    return Gates([model.id for model in engine.models()], make)


def _salts(settings: Settings, secret: DeploymentSecret) -> CacheSalts | None:
    if not settings.cache.isolation:
        return None
    try:
        return CacheSalts(secret.derive(CACHE_SALT), settings.cache.groups)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _agents(settings: Settings, pipeline: Pipeline, toolbox: Toolbox, metrics: AgentMetrics) -> Served:
    return Served(pipeline, toolbox, metrics, settings.agent.max_calls, settings.keep_alive_interval)


def _agent_bounds(settings: Settings) -> AgentBounds:
    own = settings.agent
    return AgentBounds(own.max_steps, own.max_total_tokens, own.step_timeout)


def _generation(
    namespace: str,
    jwt: JwtIdentity | None,
    ring: TokenIdentity | None,
    guardian: Guardian | None,
    settings: Settings,
    number: int,
) -> Generation:
    """What of ``settings`` can change. Raises :class:`SettingsError`."""
    policies = None
    if guardian is not None:
        policies = settings.guard.policies()
        check_policies(policies, guardian)
    rules = limit_rules(settings, namespace)
    return Generation(number, _policy(settings), identity(settings, jwt, ring), rules, policies)


def _follow(guardian: Guardian, generations: Generations) -> None:
    """The guard's policies are part of a generation, whoever sets them."""
    generations.take_guard(guardian.policies)
    guardian.seen = lambda: generations.seen().guard
    guardian.on_change = generations.take_guard


def _decrees(settings: Settings, guardian: Guardian, store: Store | None) -> PolicyDecrees:
    """Policies that administrators set; without a ``store`` they end with the process."""
    return PolicyDecrees(
        guardian,
        MemoryPolicies() if store is None else PolicyRepository(store.database),
        _inline if store is None else StoreCalls(store).call,
        prepare=store.prepare if store is not None else lambda: None,
        interval=settings.store.poll_interval,
        nudges=partial(_nudges, settings, "guard"),
    )


def _reloader(
    settings: Settings,
    read: Callable[[], Settings] | None,
    files: Sequence[Path],
    swap: Swap,
    metrics: Metrics,
    audit: Callable[[AuditEntry], None],
) -> Reloader | None:
    if read is None:
        return None
    return Reloader(
        read,
        settings,
        swap,
        ReloadMetrics(metrics.registry),
        audit,
        files=[*files, *([settings.api_key_file] if settings.api_key_file is not None else [])],
        interval=settings.reload.watch_interval,
    )


def _declare(decrees: PolicyDecrees | None, wanted: Settings) -> None:
    if decrees is not None:
        decrees.configured(declared_in(wanted.guard))


def _follow_parent(fellows: Fellows, follower: Follower) -> None:
    fellows.obey(JudgeSettings, follower.judge)
    fellows.obey(TakeSettings, follower.take)
    fellows.obey(NoteReload, follower.note)


def _policy(settings: Settings) -> Policy:
    return Policy(
        bounds=request_bounds(settings),
        max_body_bytes=settings.http.max_body_bytes,
        request_timeout=settings.request_timeout,
        hide_denied_models=settings.access.model_denied == "404",
        hide_unloaded_models=settings.pool.unloaded == "404",
    )


def _describe(table: RouteTable) -> dict[str, Any]:
    return document(table.routes)


def request_bounds(settings: Settings) -> RequestBounds:
    """What one request may ask for."""
    limits = settings.limits
    return RequestBounds(
        max_n=limits.max_n,
        max_tokens=limits.max_tokens,
        max_messages=limits.max_messages,
        max_prompts=limits.max_prompts,
        max_images=settings.media.max_images,
        max_inputs=limits.max_inputs,
    )


def http_bounds(settings: Settings) -> HttpBounds:
    """The bounds of the HTTP front."""
    return HttpBounds(
        **settings.http.model_dump(), allowed_hosts=_allowed_hosts(settings), shared_port=settings.workers > 1
    )


def _allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """Loopback answers to loopback names only, or a web page could reach it by a name of its own (DNS rebinding)."""
    if settings.allowed_hosts is not None:
        return tuple(settings.allowed_hosts)
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    return ("localhost", "127.0.0.1", "[::1]", settings.host) if loopback else None
