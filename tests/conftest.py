"""Fixtures that every part of the suite shares: one real engine per session, a stub gateway per test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support.gateways import Live, Threaded, running, threaded
from tests.support.stub_engine import StubEngine

# A loaded machine pauses for seconds: a time limit per example would test the machine.
hypothesis_settings.register_profile("sluice", deadline=None)
hypothesis_settings.load_profile("sluice")

# SLUICE_KUBE and SLUICE_KUBE_CACHE are the tests' own.
for name in [name for name in os.environ if name.startswith("SLUICE_") and not name.startswith("SLUICE_KUBE")]:
    del os.environ[name]

# The engine's threads wait asleep: on cores that clients, gateway and tests share, spinning ones take them turns away.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the shared engine needs it, also where nobody said so."""
    for item in items:
        if "real" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engine)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway over the stub engine, on the test's own event loop."""
    async with running(StubEngine(), tmp_path) as live:
        yield live


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The embedded model, converted once and kept in the user's cache."""
    from engine.samples import default_cache_root, ensure_default_model

    return ensure_default_model(default_cache_root(), None)


@pytest.fixture(scope="session")
def whisper_model() -> Path:
    """The embedded speech model, converted once and kept in the user's cache."""
    from engine.samples import WHISPER, default_cache_root, ensure_sample

    return ensure_sample(WHISPER, default_cache_root())


@pytest.fixture(scope="session")
def minilm_model() -> Path:
    """The embedded embedding model, copied once and kept in the user's cache."""
    from engine.samples import MINILM, default_cache_root, ensure_sample

    return ensure_sample(MINILM, default_cache_root())


@pytest.fixture(scope="session")
def real(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    """The one gateway of the session over vLLM and the embedded model."""
    from gateway.engines import build_engine
    from gateway.settings import load

    def build() -> object:
        # One type on every machine: what the model says depends on it.
        arguments = {"max_model_len": 4096, "dtype": "float32"}
        return build_engine(load(flags={"engine": arguments}), str(default_model), "smollm2-135m-instruct")

    # On a loaded machine the last of two hundred waits for more than a minute.
    patient = {"max_wait": 600.0}
    with threaded(build, tmp_path_factory.mktemp("state"), admission=patient) as gateway:  # type: ignore[arg-type]
        yield gateway
