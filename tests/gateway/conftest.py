"""Fixtures of the gateway's tests."""

from tests.support.stores import database, open_database, postgres_server, sqlite_database, store_url

__all__ = ["database", "open_database", "postgres_server", "sqlite_database", "store_url"]
