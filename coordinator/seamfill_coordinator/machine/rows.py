"""Rows as plain values: the one spelling that snapshot and digest share.

Owns the on-disk shape of every table. Must not know files or checksums. A change here is a change
of the snapshot format and of the machine version. Caches are left out; ``snapshot`` rebuilds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from seamfill.protocol.values import DatasetSpec, GapReason, ListingDate, Receipt
from seamfill_coordinator.machine import model
from seamfill_coordinator.machine.interval_map import IntervalMap
from seamfill_coordinator.machine.model import Covered, Fact, Gap, Lease, Violation, Waiting

__all__ = ["TABLES", "decode_row", "encode_row", "load_fact", "load_listing", "plain_state"]

V = TypeVar("V")
Plain = tuple[Any, ...] | list[Any]
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder()


def encode_row(row: model.Row) -> bytes:
    """Return a row's bytes, its table included."""
    table, plain = _PLAIN[type(row)]
    return _ENCODER.encode((table, plain(row)))


def decode_row(data: bytes) -> Any:
    """Return (table, plain values)."""
    return _DECODER.decode(data)


def plain_state(state: model.State) -> Plain:
    """Return the scalars: everything that is in no table."""
    counters = state.counters
    return (
        state.rev,
        state.clock_ms,
        state.fence,
        state.term,
        state.reign_ms,
        state.wall_ms,
        state.version,
        state.cluster_id,
        state.limits,
        state.backfills_issued,
        state.clients_issued,
        state.restatements_issued,
        state.ledger_floor_rev,
        (counters.granted, counters.expired, counters.regranted, counters.stale),
    )


def load_fact(plain: Any) -> Fact:
    """Return the fact of its plain values."""
    kind, gen, first, second = plain
    if kind == Covered.kind:
        return Covered(gen, first, _load_digest(second))
    if kind == Gap.kind:
        receipt = None if second is None else msgspec.convert(second, Receipt)
        return Gap(gen, GapReason(first), receipt)
    return Violation(gen, first, second)


def load_listing(plain: Any) -> ListingDate | None:
    """Return the listing date of its plain values."""
    return None if plain is None else msgspec.convert(plain, ListingDate)


def load_spec(plain: Any) -> DatasetSpec:
    """Return the spec of its plain values."""
    return msgspec.convert(plain, DatasetSpec)


def load_digest(plain: bytes | None) -> int | None:
    """Return a content digest of its bytes."""
    return _load_digest(plain)


def _load_digest(plain: bytes | None) -> int | None:
    return None if plain is None else int.from_bytes(plain, "big")


def _digest(value: int | None) -> bytes | None:
    # 128 bits do not fit a msgpack integer.
    return None if value is None else value.to_bytes(16, "big")


def _fact(fact: Fact) -> Plain:
    if type(fact) is Covered:
        return (0, fact.gen, fact.rows, _digest(fact.content_digest))
    if type(fact) is Gap:
        return (1, fact.gen, fact.reason, fact.receipt)
    assert type(fact) is Violation
    return (2, fact.gen, fact.reason, fact.detail)


def _task(task: Lease | Waiting) -> Any:
    if type(task) is Lease:
        return task.fence
    assert type(task) is Waiting
    return msgspec.structs.astuple(task)


def _dataset(row: model.Dataset) -> Plain:
    return (row.name, row.spec)


def _series(row: model.Series) -> Plain:
    return (
        row.dataset.name,
        row.symbol,
        row.number,
        row.high_gen,
        row.coverage_rev,
        row.listed_from,
        row.delisted_at,
        _pieces(row.facts, _fact),
        _pieces(row.tasks, _task),
        _pieces(row.redo),
        _pieces(row.redo_failed, _fact),
        _pieces(row.quiet),
    )


def _pieces(pieces: IntervalMap[V], plain: Callable[[V], Any] | None = None) -> list[Any]:
    """Return ranges with plain values. A series is hashed each time a window of it moves, and most
    of its maps are empty: this is where a digest point spends its time."""
    if not pieces.starts:
        return []
    values: Iterable[Any] = pieces.values if plain is None else map(plain, pieces.values)
    return list(zip(pieces.starts, pieces.ends, values, strict=True))


def _backfill(row: model.Backfill) -> Plain:
    return (
        row.id,
        row.sequence,
        row.dataset.name,
        int(row.state),
        row.window_bars,
        row.priority,
        row.deadline_ms,
        row.redo,
        row.requested,
        row.plan,
        row.wanted,
        row.bars,
        row.open_bars,
        row.fact_bars,
        row.windows_violated,
    )


def _lease(row: Lease) -> Plain:
    return (
        row.fence,
        row.series.number,
        row.start_ms,
        row.end_ms,
        row.gen,
        row.worker.id,
        row.deadline_ms,
        row.cursor_ms,
        row.attempts,
        row.expiries,
        row.left_ms,
        row.has_progress,
    )


def _worker(row: model.Worker) -> Plain:
    return (
        row.id,
        row.boot,
        row.dead_boots,
        row.is_draining,
        row.seen_ms,
        row.completed_total,
        row.failed_total,
    )


def _source(row: model.SourceRow) -> Plain:
    return (
        row.name,
        row.is_paused,
        row.weight_per_minute,
        row.tokens,
        row.refilled_ms,
        row.breaker_until_ms,
        row.last_status,
    )


def _session(row: model.Session) -> Plain:
    return (row.client, row.low, row.used_ms, list(row.replies.items()))


def _claim(row: model.ClaimRow) -> Plain:
    return (row.fence, row.key, row.holder, row.deadline_ms)


def _namespace(row: model.Namespace) -> Plain:
    return (row.name, list(row.done))


def _member(row: model.Member) -> Plain:
    return (row.name, row.url, row.version_min, row.version_max)


def _restatement(row: model.Restatement) -> Plain:
    return (
        row.number,
        row.dataset,
        row.symbol,
        row.start_ms,
        row.end_ms,
        row.gen_before,
        row.rows_before,
        _digest(row.digest_before),
        row.gen_after,
        _digest(row.digest_after),
        row.rev,
        row.wall_ms,
    )


def _completion(row: model.Completion) -> Plain:
    return (row.fence, row.start_ms, row.end_ms, row.content, row.rev)


_PLAIN: Final[dict[type, tuple[str, Any]]] = {
    model.Dataset: ("dataset", _dataset),
    model.Series: ("series", _series),
    model.Worker: ("worker", _worker),
    model.SourceRow: ("source", _source),
    model.Lease: ("lease", _lease),
    model.Backfill: ("backfill", _backfill),
    model.Session: ("session", _session),
    model.Namespace: ("namespace", _namespace),
    model.ClaimRow: ("claim", _claim),
    model.Member: ("member", _member),
    model.Restatement: ("restatement", _restatement),
    model.Completion: ("completion", _completion),
}
TABLES: Final = tuple(table for table, _ in _PLAIN.values())
"""Table names in the order in which a snapshot holds them: rows refer only to earlier ones, but for
a series' tasks, which name leases by fence."""
