"""The URL of a database: which there are, and how one is shown."""

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from nexus.errors import UnusableDatabase


def parse_url(text: str) -> URL:
    """The URL with its driver; `UnusableDatabase` for anything but SQLite and PostgreSQL."""
    try:
        url = make_url(text)
        if "\x00" in text:
            raise ValueError
    except (exc.ArgumentError, ValueError):
        raise UnusableDatabase(
            "The database URL cannot be read; write sqlite:///path/to/file.db or "
            "postgresql+psycopg://user@host/database (NEXUS_DATABASE_URL)."
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UnusableDatabase(
            f"{url.drivername} is no database that the nexus runs on; use sqlite:///… or postgresql+psycopg://…"
        )
    try:  # what stands after the `?` would come up at the first statement only
        url.get_dialect()().create_connect_args(url)
    except (TypeError, ValueError) as error:
        raise UnusableDatabase(f"The options of the database URL cannot be read: {str(error)[:200]}") from None
    return url


def shown(url: URL) -> str:
    """The URL without its passwords, for messages: it may stand before the host, or in the query."""
    hidden = {key: "hidden" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)
