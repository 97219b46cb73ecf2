"""Lease keys as clients spell them: taken apart and put together, purely.

Owns two spellings. *Compatibility* keys ``node_id:interval:start:end:world:as_of`` come from an
existing SDK: epoch seconds, closed range, and colons inside ``node_id`` and ``as_of``; what can not
be read that way is *opaque*, a name and nothing else. *Native* keys
``native:<dataset>|<symbol>|<start_ms>|<end_ms>`` are ours. Must not know the machine or HTTP.

Invariants: parsing is total (an opaque key is an answer, not an error); ``parse_native`` is the
inverse of ``native_key``; a half-open second range is never empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = [
    "NATIVE_PREFIX",
    "NativeKey",
    "OpaqueKey",
    "RangeKey",
    "native_key",
    "parse_lease_key",
    "parse_native",
    "rejoin",
]

NATIVE_PREFIX: Final = "native:"
_MAX_DIGITS: Final = 15
"""Longer numbers are no epoch seconds; the limit also keeps every sum inside 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeKey:
    """A compatibility key that names a range: half-open ``[start_s, stop_s)`` in epoch seconds.

    The key itself names its last bar as ``end``, so ``stop_s = end + interval``: claims of
    neighbouring bars touch, and together fill the key of both. Two keys exclude each other when
    their ``namespace`` is the same and their ranges overlap.
    """

    node_id: str
    interval_s: int
    start_s: int
    stop_s: int
    world: str
    as_of: str

    @property
    def namespace(self) -> tuple[str, int, str, str]:
        """Return what two keys must share to be about the same data."""
        return (self.node_id, self.interval_s, self.world, self.as_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueKey:
    """A key without a readable range: it excludes only itself."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeKey:
    """The name of a native lease, without its fence."""

    dataset: str
    symbol: str
    start_ms: int
    end_ms: int


# A key is read when it is claimed, asked about, completed and failed, mostly soon after each other.
@lru_cache(maxsize=1_024)
def parse_lease_key(key: str) -> RangeKey | OpaqueKey:
    """Read a compatibility key; whatever has no readable range is opaque.

    Splits are tried from the left, since ``node_id`` and ``as_of`` contain colons themselves: the
    first split with interval > 0 and start <= end wins.
    """
    parts = key.split(":")
    for at in range(1, len(parts) - 2):
        if not parts[at].isdigit():
            continue  # most are not, and a replicated log reads every key it ever saw
        interval_s, start_s, end_s = map(_number, parts[at : at + 3])
        if interval_s is None or start_s is None or end_s is None:
            continue
        if interval_s > 0 and start_s <= end_s:
            rest = parts[at + 3 :]
            return RangeKey(
                node_id=":".join(parts[:at]),
                interval_s=interval_s,
                start_s=start_s,
                stop_s=end_s + interval_s,
                world=rest[0] if rest else "",
                as_of=":".join(rest[1:]),
            )
    return OpaqueKey(text=key)


def rejoin(key: str, token: str) -> tuple[str, str] | None:
    """Undo a split of ``KEY:TOKEN`` at the *first* colon, as a script in the field does it.

    Return the pair split at the *last* colon, or None when ``token`` has no colon to move.
    """
    if ":" not in token:
        return None
    whole, _, last = f"{key}:{token}".rpartition(":")
    return (whole, last)


def native_key(dataset: str, symbol: str, start_ms: int, end_ms: int) -> str:
    """Return the key of a native lease; names never contain ``|``."""
    return f"{NATIVE_PREFIX}{dataset}|{symbol}|{start_ms}|{end_ms}"


def parse_native(key: str) -> NativeKey | None:
    """Read a native key, or return None when it is not one."""
    if not key.startswith(NATIVE_PREFIX):
        return None
    parts = key[len(NATIVE_PREFIX) :].split("|")
    if len(parts) != 4 or not parts[0] or not parts[1]:
        return None
    start_ms, end_ms = _number(parts[2]), _number(parts[3])
    if start_ms is None or end_ms is None or start_ms >= end_ms:
        return None
    return NativeKey(dataset=parts[0], symbol=parts[1], start_ms=start_ms, end_ms=end_ms)


def _number(text: str) -> int | None:
    if len(text) <= _MAX_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return None
