"""How is the address of a PostgreSQL database written, and which of its parts may be shown?"""

import importlib.util
import re
from urllib.parse import parse_qsl, urlsplit

from search_spaces.errors import KdnasError

SCHEME = re.compile(r"postgres(ql)?(\+\w+)?://")
SECRET = ("password", "passfile", "sslpassword")
REMEDY = "libpq reads the password from PGPASSWORD, or from the file that PGPASSFILE names (~/.pgpass)"


def is_postgres(url: str) -> bool:
    """Whether it is the address of a PostgreSQL database."""
    return SCHEME.match(url) is not None


def check_address(url: str, field: str, other: str) -> None:
    """Refuses an address that holds a password, or names no database.

    Args:
        url: as the user wrote it; it is shown only where it can hold no password.
        field: where it stands.
        other: another place for the password, for the remedy.

    Raises:
        KdnasError: it does.
    """
    rest = SCHEME.sub("", url, count=1)
    user, at, _ = rest.rpartition("@")  # a password may hold any sign, also an unescaped / or @
    if (at and ":" in user) or any(name.lower() in SECRET for name, _ in parse_qsl(urlsplit(url).query)):
        raise KdnasError("holds a password", field=field, remedy=f"leave it out: {REMEDY}, or set {other}")
    try:
        parts = urlsplit(url)
        whole = parts.port != 0 and parts.path.strip("/")
    except ValueError:  # a port that is no number
        whole = ""
    if not whole:
        raise KdnasError(
            "names no database", field=field, value=url, remedy="write postgresql://user@host:5432/database"
        )


def driven(url: str) -> str:
    """The address with the driver that is installed here; which one none means depends on SQLAlchemy's version."""
    if SCHEME.match(url) is None or importlib.util.find_spec("psycopg") is None:
        return url
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def same_database(one: str, other: str) -> bool:
    """Whether two addresses name the same place: host, port, database and options."""

    def place(url: str) -> tuple[object, ...]:
        parts = urlsplit(url)
        options = sorted(pair for pair in parse_qsl(parts.query) if pair[0] in ("host", "port", "dbname", "options"))
        return (parts.hostname, parts.port or 5432, parts.path.strip("/"), options)

    return is_postgres(one) and is_postgres(other) and place(one) == place(other)
