"""The one place that reads the host's time.

On PostgreSQL the database's clock decides (see `nexus.sql.now`); the host's clock serves SQLite, whose
database lives on the same host, and a clock given to `TaskNexus` overrides both, which is how tests tell
stories about hours without waiting for them.
"""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present as an aware datetime."""


def utc_now() -> datetime:
    """The host's present, aware, in UTC."""
    return datetime.now(UTC)
