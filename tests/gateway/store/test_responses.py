from __future__ import annotations

import pytest

from gateway.store.database import Database, StoreUnavailable
from gateway.store.responses import KeptResponse, ResponseRepository


def kept(name: str, tenant: str = "t", at: float = 100.0, expires: float = 200.0) -> KeptResponse:
    return KeptResponse(name, tenant, at, expires, b'{"id":"\\u0000"}', b"[\xc3\xa9]")


def test_what_was_kept_is_found_by_its_tenant_until_it_expires(database: Database) -> None:
    repository = ResponseRepository(database, max_per_tenant=10)
    repository.keep(kept("a"))
    assert repository.find("a", "t", 199.0) == kept("a")
    assert repository.find("a", "t", 200.0) is None
    assert repository.find("a", "other", 150.0) is None
    assert repository.find("b", "t", 150.0) is None


def test_it_is_forgotten_by_its_tenant_once(database: Database) -> None:
    repository = ResponseRepository(database, max_per_tenant=10)
    repository.keep(kept("a"))
    assert repository.forget("a", "other", 150.0) is False
    assert repository.forget("a", "t", 200.0) is False
    assert repository.forget("a", "t", 150.0) is True
    assert repository.forget("a", "t", 150.0) is False


def test_a_tenant_keeps_its_newest(database: Database) -> None:
    repository = ResponseRepository(database, max_per_tenant=2)
    repository.keep(kept("other", "other", at=1.0))
    for number in range(5):
        repository.keep(kept(f"r{number}", at=100.0 + number))
    assert [number for number in range(5) if repository.find(f"r{number}", "t", 150.0)] == [3, 4]
    assert repository.find("other", "other", 150.0) is not None


def test_the_expired_are_purged(database: Database) -> None:
    repository = ResponseRepository(database, max_per_tenant=10_000)
    for number in range(5):
        repository.keep(kept(f"r{number}", expires=200.0 + number))
    assert repository.purge(202.0) == 3
    assert repository.purge(202.0) == 0
    assert repository.find("r3", "t", 150.0) is not None


def test_without_a_database(tmp_path: object) -> None:
    repository = ResponseRepository(Database(f"sqlite:///{tmp_path}/nowhere.db"), max_per_tenant=1)
    for call in (lambda: repository.keep(kept("a")), lambda: repository.find("a", "t", 0), lambda: repository.purge(0)):
        with pytest.raises(StoreUnavailable):
            call()
