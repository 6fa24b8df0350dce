"""Bring a database to the schema of :mod:`gateway.store.tables`, step by step (Alembic, run by the program itself)."""
