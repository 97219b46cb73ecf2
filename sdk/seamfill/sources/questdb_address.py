"""Where a QuestDB server is, and which names may stand in a query's text.

Owns reading the address from the environment, and the allow-lists. Must not connect. Addresses
carry passwords: they stand in no message and in no ``repr``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from seamfill.errors import InvalidInput

__all__ = ["HttpAddress", "QuestDBAddress", "check_table_name", "is_plain_symbol"]

_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,127}")
_PLAIN_SYMBOL: Final = re.compile(r"[A-Za-z0-9/:._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAddress:
    """Host and port of QuestDB's HTTP server, with optional credentials."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestDBAddress:
    """Both doors of one server: PG wire for queries, HTTP for writing and for bulk reads."""

    dsn: str = field(repr=False)
    http: HttpAddress | None = None

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, http_required: bool
    ) -> QuestDBAddress:
        """Read ``QUESTDB_DSN`` and ``QUESTDB_HTTP``; raise ``InvalidInput`` naming the variable."""
        dsn = environment.get("QUESTDB_DSN", "")
        if not dsn:
            raise InvalidInput(
                "QUESTDB_DSN",
                "is not set; give the server's PG wire, "
                "like postgresql://admin:quest@127.0.0.1:8812/qdb",
            )
        try:
            conninfo_to_dict(dsn)
        except ProgrammingError:
            # Its message may quote the password.
            raise InvalidInput("QUESTDB_DSN", "is not a PostgreSQL address") from None
        http = environment.get("QUESTDB_HTTP", "")
        if http:
            return cls(dsn=dsn, http=_parse_http(http))
        if http_required:
            raise InvalidInput(
                "QUESTDB_HTTP",
                "is not set; writing needs the server's HTTP address, like http://127.0.0.1:9000",
            )
        return cls(dsn=dsn)


def _parse_http(address: str) -> HttpAddress:
    wrong = InvalidInput("QUESTDB_HTTP", "is not an address like http://127.0.0.1:9000")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise wrong
    return HttpAddress(
        host=parts.hostname,
        port=port if port is not None else 9000,
        tls=parts.scheme == "https",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def check_table_name(name: str) -> str:
    """Return the name if it may stand in a query's text, or raise ``InvalidInput``."""
    if not _TABLE_NAME.fullmatch(name):
        raise InvalidInput(
            "store", f"questdb:{name!r}: a table name has 1 to 127 letters, digits or underscores"
        )
    return name


def is_plain_symbol(symbol: str) -> bool:
    """Return whether a symbol may stand quoted in the text of an export query.

    Others are read by the PG wire, where every symbol is a bound value.
    """
    return _PLAIN_SYMBOL.fullmatch(symbol) is not None
