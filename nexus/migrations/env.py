"""Alembic's entry: it runs inside the transaction that `nexus.schema` opened."""

from alembic import context

from nexus.tables import SCHEMA_VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=SCHEMA_VERSION_TABLE,
    transactional_ddl=True,
    compare_type=True,
)
context.run_migrations()
