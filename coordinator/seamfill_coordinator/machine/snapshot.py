"""The whole state as bytes, and back.

Owns the snapshot format: a magic with the format's version, then frames (length, CRC-32, msgpack),
each holding some rows of one table, then an end frame with the number of rows and the state digest.
Frames are bounded, so that a later shell can write, ship and check a snapshot piece by piece. Must
not know files. Invariant: ``load(save(s))`` has the same tables in the same order, and the same
digest; caches are rebuilt from the tables.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from heapq import heapify
from itertools import islice
from typing import Any, Final

import msgspec

from seamfill.errors import SeamfillError
from seamfill.protocol.values import Redo
from seamfill_coordinator.machine import model
from seamfill_coordinator.machine.claims import locate
from seamfill_coordinator.machine.commands import Limits
from seamfill_coordinator.machine.digest import state_digest
from seamfill_coordinator.machine.model import Gap, State, Violation, Waiting, Want
from seamfill_coordinator.machine.outcomes import Accepted, Event
from seamfill_coordinator.machine.rows import (
    decode_row,
    encode_row,
    load_digest,
    load_fact,
    load_listing,
    load_spec,
    plain_state,
)
from seamfill_coordinator.machine.schedule import activate
from seamfill_coordinator.machine.tables import touch

__all__ = ["SnapshotInvalid", "frames", "load", "save"]

MAGIC: Final = b"SFMACH\x00\x01"
ROWS_PER_FRAME: Final = 256
_HEAD: Final = struct.Struct("<II")
_ENCODER: Final = msgspec.msgpack.Encoder()


class SnapshotInvalid(SeamfillError):
    """A snapshot is damaged or of another format; fetch it again, or restore an older one."""

    code = "snapshot_invalid"


def save(state: State) -> bytes:
    """Return the whole state."""
    return b"".join(frames(state))


def frames(state: State) -> Iterator[bytes]:
    """Yield the snapshot in pieces; the state must not change in between."""
    yield MAGIC
    yield _frame(("state", plain_state(state)))
    count = 0
    for rows in _tables(state):
        source = iter(rows)
        while part := [encode_row(row) for row in islice(source, ROWS_PER_FRAME)]:
            count += len(part)
            yield _frame(("rows", part))
    yield _frame(("finished", [row.id for row in state.finished]))
    yield _frame(("claims_done", [(n.name, s, e, at) for n, s, e, at in state.claims_done]))
    yield _frame(("events", list(state.events)))
    yield _frame(("end", (count, state_digest(state))))


def load(data: bytes) -> State:
    """Return the state of a snapshot. Raises ``SnapshotInvalid`` for anything but a whole one."""
    try:
        return _load(data)
    except SnapshotInvalid:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError) as exc:
        raise SnapshotInvalid(f"the snapshot does not fit together: {exc}") from exc


def _tables(state: State) -> tuple[Any, ...]:
    """Return the tables in an order in which rows refer only to earlier ones."""
    return (
        state.datasets.values(),
        state.series.values(),
        state.workers.values(),
        state.sources.values(),
        state.leases.values(),
        state.backfills.values(),
        state.sessions.values(),
        state.namespaces.values(),
        state.claims.values(),
        state.members.values(),
        state.restatements,
        state.completions,
    )


def _frame(content: Any) -> bytes:
    body = _ENCODER.encode(content)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _read_frames(data: bytes) -> Iterator[Any]:
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotInvalid("this is no snapshot of a format that this version reads")
    at = len(MAGIC)
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise SnapshotInvalid(f"the snapshot ends inside a frame at offset {at}")
        length, crc = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) != length or zlib.crc32(body) != crc:
            raise SnapshotInvalid(f"the frame at offset {at} is damaged")
        yield msgspec.msgpack.decode(body)
        at += _HEAD.size + length


def _load(data: bytes) -> State:
    state = State()
    loader = _Loader(state)
    count, end = 0, None
    for kind, content in _read_frames(data):
        if end is not None:
            raise SnapshotInvalid("something follows the end frame")
        if kind == "state":
            _load_scalars(state, content)
        elif kind == "rows":
            for encoded in content:
                table, plain = decode_row(encoded)
                loader.add(table, plain)
                count += 1
        elif kind == "finished":
            state.finished = deque(state.backfills[name] for name in content)
        elif kind == "claims_done":
            state.claims_done = deque(
                (state.namespaces[tuple(name)], s, e, at) for name, s, e, at in content
            )
        elif kind == "events":
            state.events = deque(msgspec.convert(content, list[Event]))
        elif kind == "end":
            end = content
        else:
            raise SnapshotInvalid(f"unknown frame {kind!r}")
    if end is None:
        raise SnapshotInvalid("the snapshot has no end frame")
    loader.rebuild()
    if end[0] != count or end[1] != state_digest(state):
        raise SnapshotInvalid("the restored state has another digest than the saved one")
    return state


def _load_scalars(state: State, plain: Any) -> None:
    (
        state.rev,
        state.clock_ms,
        state.fence,
        state.term,
        state.reign_ms,
        state.wall_ms,
        state.version,
        state.cluster_id,
        limits,
        state.backfills_issued,
        state.clients_issued,
        state.restatements_issued,
        state.ledger_floor_rev,
        counters,
    ) = plain
    state.limits = msgspec.convert(limits, Limits)
    state.counters = model.Counters(*counters)


class _Loader:
    """Puts rows back, one table after the other, then what can be derived from them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tasks: list[tuple[model.Series, Any]] = []

    def add(self, table: str, plain: Any) -> None:
        """Put one row into its table."""
        row: model.Row = getattr(self, f"_add_{table}")(*plain)
        touch(self._state, row)

    def rebuild(self) -> None:
        """Derive every cache."""
        state = self._state
        for series, tasks in self._tasks:
            series.tasks.load(
                [
                    (s, e, state.leases[task] if isinstance(task, int) else Waiting(*task))
                    for s, e, task in tasks
                ]
            )
            for start, _, task in series.tasks:
                if type(task) is Waiting:
                    state.waiting_count += 1
                    if task.not_before_ms > state.clock_ms:
                        state.due.append((task.not_before_ms, series.number, start))
            for start, _, until_ms in series.quiet:
                state.due.append((until_ms, series.number, start))
            state.gap_count += sum(1 for fact in series.facts.values if type(fact) is Gap)
        heapify(state.due)
        state.deadlines = [(lease.deadline_ms, lease.fence) for lease in state.leases.values()]
        heapify(state.deadlines)
        state.claim_deadlines = [(row.deadline_ms, row.fence) for row in state.claims.values()]
        heapify(state.claim_deadlines)
        for backfill in state.backfills.values():
            if not backfill.state.is_open:
                continue
            for symbol, spans in backfill.wanted:
                series = state.series[(backfill.dataset.name, symbol)]
                want = Want(backfill, series, spans)
                backfill.wants.append(want)
                series.wants[backfill.sequence] = want
            if backfill.state is model.BackfillState.ACTIVE:
                activate(state, backfill)

    def _add_dataset(self, name: str, spec: Any) -> model.Row:
        loaded = load_spec(spec)
        row = model.Dataset(name=name, spec=loaded, group=(loaded.source, loaded.store))
        self._state.datasets[name] = row
        return row

    def _add_series(
        self, dataset: str, symbol: str, number: int, high_gen: int, coverage_rev: int, *rest: Any
    ) -> model.Row:
        listed, delisted, facts, tasks, redo, marks, quiet = rest
        owner = self._state.datasets[dataset]
        row = model.Series(
            dataset=owner,
            symbol=symbol,
            number=number,
            high_gen=high_gen,
            coverage_rev=coverage_rev,
            listed_from=load_listing(listed),
            delisted_at=load_listing(delisted),
            interval_ms=owner.spec.interval_ms,
        )
        row.facts.load([(s, e, load_fact(fact)) for s, e, fact in facts])
        row.redo.load([(s, e, gen) for s, e, gen in redo])
        row.quiet.load([(s, e, until) for s, e, until in quiet])
        loaded = [(s, e, load_fact(mark)) for s, e, mark in marks]
        row.redo_failed.load([(s, e, m) for s, e, m in loaded if type(m) is Violation])
        self._state.series[(dataset, symbol)] = row
        self._state.by_number.append(row)
        self._tasks.append((row, tasks))
        return row

    def _add_worker(
        self,
        name: str,
        boot: str,
        dead_boots: list[str],
        is_draining: bool,
        seen_ms: int,
        *totals: int,
    ) -> model.Row:
        row = model.Worker(
            id=name,
            boot=boot,
            dead_boots=dead_boots,
            is_draining=is_draining,
            seen_ms=seen_ms,
            completed_total=totals[0],
            failed_total=totals[1],
        )
        self._state.workers[name] = row
        return row

    def _add_source(self, *plain: Any) -> model.Row:
        row = model.SourceRow(**dict(zip(_SOURCE, plain, strict=True)))
        self._state.sources[row.name] = row
        return row

    def _add_lease(self, fence: int, number: int, *rest: Any) -> model.Row:
        start, end, gen, worker, deadline, cursor, attempts, expiries, left, progress = rest
        row = model.Lease(
            fence=fence,
            series=self._state.by_number[number],
            start_ms=start,
            end_ms=end,
            gen=gen,
            worker=self._state.workers[worker],
            deadline_ms=deadline,
            cursor_ms=cursor,
            attempts=attempts,
            expiries=expiries,
            left_ms=left,
            has_progress=progress,
        )
        self._state.leases[fence] = row
        row.worker.leases[fence] = row
        return row

    def _add_backfill(self, name: str, sequence: int, dataset: str, *rest: Any) -> model.Row:
        state, window_bars, priority, deadline, redo, requested, plan, wanted, *counts = rest
        owner = self._state.datasets[dataset]
        row = model.Backfill(
            id=name,
            sequence=sequence,
            dataset=owner,
            state=model.BackfillState(state),
            window_bars=window_bars,
            priority=priority,
            deadline_ms=deadline,
            redo=None if redo is None else Redo(redo),
            requested=requested,
            plan=msgspec.convert(plan, Accepted),
            wanted=[(symbol, [(a, b) for a, b in spans]) for symbol, spans in wanted],
            bars=counts[0],
            open_bars=counts[1],
            fact_bars=counts[2],
            windows_violated=counts[3],
            order=(-priority, model.FOREVER_MS if deadline is None else deadline, sequence),
            cell_ms=window_bars * owner.spec.interval_ms,
        )
        self._state.backfills[name] = row
        return row

    def _add_session(self, client: int, low: int, used_ms: int, replies: Any) -> model.Row:
        row = model.Session(client=client, low=low, used_ms=used_ms, replies=dict(replies))
        self._state.sessions[client] = row
        self._state.session_bytes += sum(map(len, row.replies.values()))
        return row

    def _add_namespace(self, name: Any, done: Any) -> model.Row:
        row = model.Namespace(name=tuple(name))
        row.done.load([(s, e, at) for s, e, at in done])
        self._state.namespaces[row.name] = row
        return row

    def _add_claim(self, fence: int, key: str, holder: str, deadline_ms: int) -> model.Row:
        name, start, stop = locate(key)
        row = model.ClaimRow(
            fence=fence,
            key=key,
            holder=holder,
            deadline_ms=deadline_ms,
            namespace=self._state.namespaces[name],
            start_s=start,
            stop_s=stop,
        )
        self._state.claims[fence] = row
        row.namespace.live.put(start, stop, row)
        return row

    def _add_member(self, name: str, url: str, low: int, high: int) -> model.Row:
        row = model.Member(name=name, url=url, version_min=low, version_max=high)
        self._state.members[name] = row
        return row

    def _add_restatement(self, *plain: Any) -> model.Row:
        values = dict(zip(_RESTATEMENT, plain, strict=True))
        values["digest_before"] = load_digest(values["digest_before"])
        values["digest_after"] = load_digest(values["digest_after"])
        row = model.Restatement(**values)
        self._state.restatements.append(row)
        return row

    def _add_completion(self, fence: int, start: int, end: int, *rest: Any) -> model.Row:
        row = model.Completion(
            fence=fence, start_ms=start, end_ms=end, content=rest[0], rev=rest[1]
        )
        self._state.completions.append(row)
        self._state.completed[fence] = (*self._state.completed.get(fence, ()), row)
        return row


_SOURCE: Final = (
    "name",
    "is_paused",
    "weight_per_minute",
    "tokens",
    "refilled_ms",
    "breaker_until_ms",
    "last_status",
)
_RESTATEMENT: Final = (
    "number",
    "dataset",
    "symbol",
    "start_ms",
    "end_ms",
    "gen_before",
    "rows_before",
    "digest_before",
    "gen_after",
    "digest_after",
    "rev",
    "wall_ms",
)
