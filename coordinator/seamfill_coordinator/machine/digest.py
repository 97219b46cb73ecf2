"""The state digest: equal logs, equal digests, on every node and for any hash seed.

The digest of a state is blake2b over its scalars and the sum modulo 2¹²⁸ of its rows' digests. A
sum does not depend on order, so a changed row costs one subtraction and one addition, and only rows
that changed since the last digest point are hashed. Events and the ring of done claims are left
out: they repeat what rows say.

Invariant: ``digest_sum`` = Σ ``row_digest`` over the rows in the tables.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from seamfill_coordinator.machine.model import DIGEST_MODULUS, Row, State
from seamfill_coordinator.machine.rows import encode_row, plain_state

__all__ = ["hash_row", "state_digest"]

_ENCODER: Final = msgspec.msgpack.Encoder()


def state_digest(state: State) -> str:
    """Return the digest as 32 hex digits, bringing ``digest_sum`` up to date."""
    total = state.digest_sum
    for row in state.dirty:
        row.is_dirty = False
        if not row.is_gone:
            fresh = hash_row(row)
            total += fresh - row.row_digest
            row.row_digest = fresh
    state.dirty.clear()
    state.digest_sum = total % DIGEST_MODULUS
    scalars = _ENCODER.encode((plain_state(state), state.digest_sum.to_bytes(16, "big")))
    return hashlib.blake2b(scalars, digest_size=16).hexdigest()


def hash_row(row: Row) -> int:
    """Return one row's digest."""
    return int.from_bytes(hashlib.blake2b(encode_row(row), digest_size=16).digest(), "big")
