"""Make a database ready for this program: its schema, and the secret that its hashes belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.access.secret import DeploymentSecret
from gateway.settings import SettingsError
from gateway.store.database import Database
from gateway.store.tables import facts

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_FINGERPRINT: Final = "secret_fingerprint"


def prepare(database: Database, secret: DeploymentSecret) -> None:
    """:func:`migrate`, then :func:`claim`: whatever is to use the store calls this first. Idempotent."""
    migrate(database)
    claim(database, secret)


def migrate(database: Database) -> None:
    """Bring the schema up to date; several processes may do so at once.

    Raises :class:`~gateway.settings.SettingsError` if the schema is newer than this program, and
    :class:`~gateway.store.database.StoreUnavailable`.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    known = ScriptDirectory.from_config(config)
    with database.migrating() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == known.get_current_head():
            return
        if current is not None and current not in {script.revision for script in known.walk_revisions()}:
            raise SettingsError(
                f"store.url: the database has schema {current[:64]}, which this version of Sluice does not know: "
                "it was used by a newer one"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def claim(database: Database, secret: DeploymentSecret) -> None:
    """Check that the hashes in the store were made with ``secret``; an unclaimed store is claimed.

    Raises :class:`~gateway.settings.SettingsError`: with another secret every key would be answered 401.
    """
    ours = secret.fingerprint()
    with database.begin() as connection:
        _insert_if_absent(connection, ours)
        kept = connection.execute(select(facts.c.value).where(facts.c.name == _FINGERPRINT)).scalar_one()
    if kept != ours:
        raise SettingsError(
            "secret: the keys in the store were made with another deployment secret; give this process the same one "
            "(SLUICE_SECRET or secret_file, or the file `secret` of the state directory where they were made)"
        )


def _insert_if_absent(connection: Connection, fingerprint: str) -> None:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = {"name": _FINGERPRINT, "value": fingerprint}
    connection.execute(dialect.insert(facts).values(row).on_conflict_do_nothing())
