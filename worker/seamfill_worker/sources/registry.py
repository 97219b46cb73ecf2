"""Names of sources turned into adapters: ``ccxt:<exchange>``, and what users registered.

Owns the scheme table of sources. Must not know what a source does. A name is a registry key, never
an address: where a venue's server stands is this process's own configuration (``urls``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from seamfill.clock import Clock
from seamfill.connectors import Source, Venue
from seamfill.errors import InvalidInput
from seamfill.presets import cautious_venue

__all__ = ["ENTRY_POINTS", "is_built", "open_source", "scheme_names"]

ENTRY_POINTS: Final = "seamfill.sources"
"""Entry points of this group are ``scheme = module:open`` with ``open(name, venue, clock)``."""
_NOT_BUILT: Final = ("polygon",)

SourceOpener = Callable[[str, Venue, Clock | None], Source]


def open_source(
    spec: str,
    *,
    venues: Mapping[str, Venue],
    urls: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> Source:
    """Open the source of a name such as ``ccxt:binance``; refuse an unknown one by its name.

    ``urls``: base URL by what follows the scheme (``{"binance": "http://127.0.0.1:9000"}``).
    Raises ``InvalidInput`` with the field ``source``. No I/O happens before the first call.
    """
    scheme, _, name = spec.partition(":")
    if not name:
        raise InvalidInput("source", f"{spec!r} is not <scheme>:<name>, like ccxt:binance")
    if scheme in _NOT_BUILT:
        raise InvalidInput("source", f"{spec!r} is not built yet; there is {scheme_names()}")
    venue = venues.get(spec) or cautious_venue(spec)
    if scheme == "ccxt":
        # Imported here: ccxt costs 100 MB, and only a worker that fetches from it shall pay.
        from seamfill_worker.sources.ccxt import CcxtSource

        return CcxtSource(name, venue, url=(urls or {}).get(name), clock=clock)
    registered = _registered(scheme)
    if registered is None:
        raise InvalidInput("source", f"no scheme {scheme!r} in {spec!r}; there is {scheme_names()}")
    opener: SourceOpener = registered.load()
    return opener(name, venue, clock)


def is_built(spec: str) -> bool:
    """Return whether a source of this name could be opened, by its scheme alone."""
    scheme, _, name = spec.partition(":")
    return bool(name) and (scheme == "ccxt" or _registered(scheme) is not None)


def scheme_names() -> str:
    """Return the schemes that can be opened, for messages."""
    return ", ".join(["ccxt", *sorted(point.name for point in entry_points(group=ENTRY_POINTS))])


def _registered(scheme: str) -> EntryPoint | None:
    return next(iter(entry_points(group=ENTRY_POINTS, name=scheme)), None)
