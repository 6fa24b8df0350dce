"""Which adapter a name means, and to whom."""

from __future__ import annotations

import pytest

from gateway.access.principal import Principal, Scope
from gateway.adapters.catalog import Adapter, AdapterCatalog

SCOPES = frozenset({Scope.INFERENCE})


@pytest.fixture
def catalog() -> AdapterCatalog:
    return AdapterCatalog([Adapter("ad", "base"), Adapter("mine", "org/llama:8b", tenant="team-a")])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ad", "ad"),
        ("base:ad", "ad"),
        ("mine", "mine"),
        ("org/llama:8b:mine", "mine"),
        *((name, None) for name in ("base:", ":ad", ":", "", "base:ad:ad", "base:mine", "other:ad", "llama:8b:mine")),
        *((name, None) for name in ("base:../../ad", "base:/ad", "base:~root", "base:%2e%2e", "base:org/repo", "AD")),
        ("base:https://h/ad", None),
        ("base:ad\n", None),
    ],
)
def test_only_exact_names_mean_anything(catalog: AdapterCatalog, name: str, found: str | None) -> None:
    adapter = catalog.named(name)
    assert (adapter.name if adapter else None) == found


@pytest.mark.parametrize(
    ("principal", "opened"),
    [
        (Principal("k", SCOPES), {"ad"}),
        (Principal("k", SCOPES, tenant="team-a"), {"ad", "mine"}),
        (Principal("k", SCOPES, tenant="team-a", adapters=frozenset({"mine"})), {"mine"}),
        (Principal("k", SCOPES, tenant="team-a", adapters=frozenset()), set()),
        (Principal("k", SCOPES, tenant="team-a", models=frozenset({"base"})), {"ad"}),
        (Principal("k", SCOPES, tenant="team-b", adapters=frozenset({"mine"})), set()),
    ],
)
def test_tenant_models_and_adapters_of_a_key_must_all_allow_it(
    catalog: AdapterCatalog, principal: Principal, opened: set[str]
) -> None:
    assert {adapter.name for adapter in catalog.all() if adapter.open_to(principal)} == opened


def test_what_is_switched_off_is_open_to_nobody() -> None:
    assert not Adapter("ad", "base", enabled=False).open_to(Principal("k", SCOPES))


def test_names_come_and_go(catalog: AdapterCatalog) -> None:
    catalog.put(Adapter("ad", "base", created=7))
    assert (catalog.get("ad"), len(catalog)) == (Adapter("ad", "base", created=7), 2)
    catalog.remove("ad")
    catalog.remove("ad")
    assert (catalog.named("base:ad"), len(catalog)) == (None, 1)
