"""From a store's name to its reader: ``questdb:TABLE``, ``parquet:DIR``, and users' own schemes.

Owns the spelling of store names and the entry-point group. Must not connect to anything.

A user's store registers in the group ``seamfill.stores`` under its scheme, with a callable
``(rest, environment) -> Store``; as every ``Store`` is a ``StoreReader``, it serves both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from seamfill.connectors import StoreReader
from seamfill.errors import InvalidInput

__all__ = [
    "ENTRY_POINTS",
    "StoreFactory",
    "directory_of",
    "factory_of_entry_point",
    "open_reader",
    "split_spec",
    "unknown_scheme",
]

ENTRY_POINTS: Final = "seamfill.stores"
StoreFactory = Callable[[str, Mapping[str, str]], StoreReader]


def open_reader(spec: str, environment: Mapping[str, str]) -> StoreReader:
    """Return a reader of the store that ``spec`` names, without touching the store.

    QuestDB's address is taken from ``QUESTDB_DSN`` and, for large reads, ``QUESTDB_HTTP``. Raises
    ``InvalidInput`` naming the field or the variable.
    """
    scheme, rest = split_spec(spec)
    factory = _BUILT_IN.get(scheme) or factory_of_entry_point(scheme)
    if factory is None:
        raise unknown_scheme(scheme, known=_BUILT_IN)
    return factory(rest, environment)


def split_spec(spec: str) -> tuple[str, str]:
    """Return scheme and rest of a store's name, or raise ``InvalidInput``."""
    scheme, colon, rest = spec.partition(":")
    if not colon or not scheme or not rest:
        raise InvalidInput("store", f"{spec!r} is not like questdb:TABLE or parquet:DIR")
    return scheme, rest


def directory_of(rest: str) -> Path:
    """Return the absolute directory that a ``parquet:DIR`` name means; ``~`` is the user's home."""
    if "\0" in rest:
        raise InvalidInput("store", "a directory's name has no null character")
    return Path(rest).expanduser().absolute()


def factory_of_entry_point(scheme: str) -> StoreFactory | None:
    """Return what an installed package registered for a scheme, or None."""
    for found in entry_points(group=ENTRY_POINTS, name=scheme):
        factory: StoreFactory = found.load()
        return factory
    return None


def unknown_scheme(scheme: str, *, known: Iterable[str]) -> InvalidInput:
    """Return the error for a scheme that nobody registered, with those that somebody did."""
    registered = {found.name for found in entry_points(group=ENTRY_POINTS)}
    schemes = ", ".join(sorted({*known, *registered}))
    return InvalidInput("store", f"no store is called {scheme!r}; known: {schemes}")


def _questdb(table: str, environment: Mapping[str, str]) -> StoreReader:
    # Imported here, and below: a process loads the libraries of the stores that it reads.
    from seamfill.sources.questdb import QuestDBReader
    from seamfill.sources.questdb_address import QuestDBAddress, check_table_name

    check_table_name(table)
    address = QuestDBAddress.from_environment(environment, http_required=False)
    return QuestDBReader(address, table)


def _parquet(directory: str, environment: Mapping[str, str]) -> StoreReader:
    from seamfill.sources.parquet import ParquetReader

    return ParquetReader(directory_of(directory))


_BUILT_IN: Final[Mapping[str, StoreFactory]] = {"questdb": _questdb, "parquet": _parquet}
