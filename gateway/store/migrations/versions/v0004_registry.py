"""The registry's public names, and the arm that a request was answered by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the column."""
    op.create_table(
        "registry",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.add_column("usage", sa.Column("arm", sa.String(80)))
