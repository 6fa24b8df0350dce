"""The registry's rows, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from gateway.registry import acts
from gateway.registry.names import MAX_NAMES, Name, Version
from gateway.registry.outcomes import Tally
from gateway.store.database import Database
from gateway.store.registry import RegistryRepository, TooManyNames
from gateway.store.tables import registry


def fresh(name: str) -> Name:
    return Name(name, "ab" * 32, created_at=1.5, created_by="static")


def one_more(name: str, before: Name | None) -> Name:
    return acts.added(before or fresh(name), Version(0, "m", "a", "0" * 64, metadata={"k": "v"}))[0]


def test_a_name_is_kept_as_it_is_and_news_are_told_once(database: Database) -> None:
    repository = RegistryRepository(database)
    assert repository.news(None).names == ()
    made = repository.update("chat", lambda before: one_more("chat", before))
    assert repository.get("chat") == made
    news = repository.news(0)
    assert news.names == (made,)
    assert repository.news(news.revision).names is None
    assert repository.update("chat", lambda _before: None) is None
    assert repository.news(news.revision).names == ()
    assert repository.get("chat") is None


def test_what_raises_changes_nothing(database: Database) -> None:
    repository = RegistryRepository(database)
    repository.update("chat", lambda before: one_more("chat", before))
    before = repository.news(None)
    with pytest.raises(acts.Refused):
        repository.update("chat", lambda name: acts.activated(name or fresh("chat"), 9))
    assert repository.news(None) == before


def test_changes_made_at_once_follow_each_other(database: Database) -> None:
    repository = RegistryRepository(database)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda _: repository.update("chat", lambda before: one_more("chat", before)), range(12)),
        )
    found = repository.get("chat")
    assert found is not None
    assert [version.number for version in found.versions] == list(range(1, 13))


def test_names_are_bounded(sqlite_database: Database) -> None:
    repository = RegistryRepository(sqlite_database)
    for index in range(MAX_NAMES):
        repository.update(f"n{index}", lambda _before, index=index: fresh(f"n{index}"))  # type: ignore[misc]
    with pytest.raises(TooManyNames):
        repository.update("one-more", lambda _before: fresh("one-more"))
    repository.update("n0", lambda _before: replace(fresh("n0"), last=1))


def test_a_row_that_cannot_be_read_does_not_hold_up_the_others(sqlite_database: Database) -> None:
    repository = RegistryRepository(sqlite_database)
    for name in ("good", "torn"):
        repository.update(name, lambda _before, name=name: fresh(name))  # type: ignore[misc]
    with sqlite_database.begin() as connection:
        connection.execute(update(registry).where(registry.c.name == "torn").values(document=b"{"))
    assert [name.name for name in repository.news(None).names or ()] == ["good"]


def test_what_replicas_count_adds_up_by_step(database: Database) -> None:
    repository = RegistryRepository(database)
    repository.update("chat", lambda _before: fresh("chat"))
    tally = Tally(3, 1)
    repository.report(("chat", 1), "one", {1: tally, 2: tally})
    repository.report(("chat", 1), "one", {2: tally.plus(tally)})
    repository.report(("chat", 1), "two", {2: tally})
    repository.report(("other", 1), "two", {2: tally})
    found = repository.tallies(("chat", 1))
    assert {number: (each.succeeded, each.failed) for number, each in found.items()} == {1: (3, 1), 2: (9, 3)}
    # A step that is over is forgotten when the next one is told of, and all of it with the name.
    repository.report(("chat", 2), "two", {2: tally})
    assert repository.tallies(("chat", 1)) == {}
    assert repository.tallies(("other", 1)) == {2: tally}
    repository.update("chat", lambda _before: None)
    assert repository.tallies(("chat", 2)) == {}
