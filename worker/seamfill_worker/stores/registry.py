"""From a store's name to the store: ``questdb:TABLE``, ``parquet:DIR``, and users' own schemes.

Owns the resolution of names to writers. Must not connect to anything: a ``Store`` does no I/O
before its first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from seamfill.connectors import Store
from seamfill.sources.questdb_address import QuestDBAddress, check_table_name
from seamfill.sources.registry import (
    StoreFactory,
    directory_of,
    factory_of_entry_point,
    split_spec,
    unknown_scheme,
)

__all__ = ["open_store"]


def open_store(spec: str, *, environment: Mapping[str, str]) -> Store:
    """Return the store that ``spec`` names; raises ``InvalidInput`` naming field or variable.

    QuestDB's address is taken from ``QUESTDB_DSN`` and ``QUESTDB_HTTP``. Other schemes are looked
    up in the entry-point group ``seamfill.stores``.
    """
    scheme, rest = split_spec(spec)
    factory = _BUILT_IN.get(scheme) or factory_of_entry_point(scheme)
    if factory is None:
        raise unknown_scheme(scheme, known=_BUILT_IN)
    return cast(Store, factory(rest, environment))


def _questdb(table: str, environment: Mapping[str, str]) -> Store:
    # Imported here: a worker on Parquet does not need QuestDB's client.
    from seamfill_worker.stores.questdb import QuestDBStore

    check_table_name(table)
    address = QuestDBAddress.from_environment(environment, http_required=True)
    return QuestDBStore(address, table)


def _parquet(directory: str, environment: Mapping[str, str]) -> Store:
    from seamfill_worker.stores.parquet import ParquetStore

    return ParquetStore(directory_of(directory))


_BUILT_IN: Mapping[str, StoreFactory] = {"questdb": _questdb, "parquet": _parquet}
