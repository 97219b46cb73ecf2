"""The state digest: equal logs, equal digests, on every node and for any hash seed.

The digest of a state is blake2b over its scalars and the sum modulo 2¹²⁸ of its rows' digests. A
sum does not depend on order, so a changed row costs one subtraction and one addition, and only rows
that changed since they were last hashed are hashed. Events and the ring of done claims are left
out: they repeat what rows say.

Hashing leaves a row's bytes on it, for ``snapshot.capture`` to pick up.

Invariants: ``digest_sum`` = Σ ``row_digest`` over the rows in the tables; a row that is not dirty
has ``encoded == encode_row(row)``; when rows are hashed changes no digest.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from seamfill_coordinator.machine.model import DIGEST_MODULUS, Row, State
from seamfill_coordinator.machine.rows import encode_row, plain_state

__all__ = ["hash_bytes", "hash_dirty_rows", "hash_row", "state_digest"]

_ENCODER: Final = msgspec.msgpack.Encoder()


def state_digest(state: State) -> str:
    """Return the digest as 32 hex digits."""
    hash_dirty_rows(state)
    scalars = _ENCODER.encode((plain_state(state), state.digest_sum.to_bytes(16, "big")))
    return blake2b(scalars, digest_size=16).hexdigest()


def hash_dirty_rows(state: State) -> None:
    """Bring ``digest_sum``, and each row's digest and bytes, up to date."""
    total = state.digest_sum
    for row in state.dirty:
        row.is_dirty = False
        if not row.is_gone:
            row.encoded = encode_row(row)
            fresh = hash_bytes(row.encoded)
            total += fresh - row.row_digest
            row.row_digest = fresh
    state.dirty.clear()
    state.digest_sum = total % DIGEST_MODULUS


def hash_row(row: Row) -> int:
    """Return one row's digest."""
    return hash_bytes(encode_row(row))


def hash_bytes(encoded: bytes) -> int:
    """Return the digest of a row that has these bytes."""
    return int.from_bytes(blake2b(encoded, digest_size=16).digest(), "big")
