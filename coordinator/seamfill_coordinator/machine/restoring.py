"""A state from its bytes, whole or refused.

Owns the way back from a snapshot's frames to tables, and what can be derived from them. Takes the
bytes in pieces, as they come from a disk or a leader, so that a large snapshot never keeps a loop
busy for long: rows are put back and hashed as they arrive, only caches are left for the end.
``snapshot.py`` has the format. Must not know files.

Invariant: what ``finish`` returns has the digest that was saved, and each of its rows is encoded to
the bytes that were saved: what the loader forgot, or misread, is noticed as damage is.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify
from typing import Any, Final

import msgspec

from seamfill.protocol.values import Redo
from seamfill_coordinator.machine import model
from seamfill_coordinator.machine.claims import locate
from seamfill_coordinator.machine.commands import Limits
from seamfill_coordinator.machine.digest import hash_bytes, state_digest
from seamfill_coordinator.machine.model import Gap, State, Violation, Waiting, Want
from seamfill_coordinator.machine.outcomes import Accepted, Event
from seamfill_coordinator.machine.rows import (
    TABLES,
    decode_row,
    encode_row,
    load_digest,
    load_fact,
    load_listing,
    load_spec,
)
from seamfill_coordinator.machine.schedule import activate
from seamfill_coordinator.machine.snapshot import FrameReader, SnapshotInvalid

__all__ = ["Restoration", "restore"]

_UNFIT: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
)


def restore(data: bytes) -> State:
    """Return the state of a snapshot in one piece; raises like ``Restoration``."""
    restoration = Restoration()
    restoration.feed(data)
    return restoration.finish()


class Restoration:
    """A state that is being put back. After a refusal it must not be used again.

    Raises ``SnapshotInvalid`` with the offset of the bad frame, ``SnapshotVersionUnknown``.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._state = State()
        self._tables = _Tables(self._state)
        self._reader = FrameReader(seed=seed)
        self._rows = 0
        self._end: tuple[int, str] | None = None
        self._offset = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for offset, kind, content in self._reader.feed(data):
            self._offset = offset
            try:
                self._take(kind, content)
            except _UNFIT as exc:
                raise self._misfit(exc) from exc

    def finish(self) -> State:
        """Return the state; all bytes must have been given."""
        self._reader.finish()
        assert self._end is not None
        try:
            self._tables.rebuild()
        except _UNFIT as exc:
            raise self._misfit(exc) from exc
        if self._end != (self._rows, state_digest(self._state)):
            raise SnapshotInvalid(
                "the restored state has other rows or another digest than the saved one",
                offset=self._offset,
            )
        return self._state

    def _take(self, kind: str, content: Any) -> None:
        state = self._state
        match kind:
            case "state":
                _load_scalars(state, content)
            case "rows":
                for encoded in content:
                    self._tables.add(encoded)
                self._rows += len(content)
            case "finished":
                state.finished.extend(state.backfills[name] for name in content)
            case "claims_done":
                state.claims_done.extend(
                    (state.namespaces[tuple(name)], s, e, at) for name, s, e, at in content
                )
            case "events":
                state.events.extend(msgspec.convert(content, list[Event]))
            case "end":
                rows, digest = content
                self._end = (rows, digest)
            case _:
                raise SnapshotInvalid(f"unknown frame {kind!r}", offset=self._offset)

    def _misfit(self, exc: Exception) -> SnapshotInvalid:
        return SnapshotInvalid(f"it does not fit together: {exc}", offset=self._offset)


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


class _Tables:
    """Puts rows back, one table after the other, then what can be derived from them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tasks: list[tuple[model.Series, Any]] = []
        self._adders: dict[str, Callable[..., model.Row]] = {
            table: getattr(self, f"_add_{table}") for table in TABLES
        }

    def add(self, encoded: bytes) -> None:
        """Put one row into its table."""
        table, plain = decode_row(encoded)
        row = self._adders[table](*plain)
        row.encoded = encoded
        if type(row) is not model.Series:  # a series is whole when its tasks have their leases
            self._hash(row)

    def _hash(self, row: model.Row) -> None:
        """Note the row's digest; the row must be what its bytes say.

        Not taken on trust: a loader that forgot a field would give this node another state than
        its peers have, and none would notice before the row changes.
        """
        if encode_row(row) != row.encoded:
            raise ValueError(f"a {type(row).__name__} that says something else than its bytes")
        row.row_digest = hash_bytes(row.encoded)
        self._state.digest_sum += row.row_digest

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
            self._hash(series)
            for start, _, task in series.tasks:
                if type(task) is Waiting:
                    state.waiting_count += 1
                    if task.not_before_ms > state.clock_ms:
                        state.due.append((task.not_before_ms, series.number, start))
            for start, _, until_ms in series.quiet:
                state.due.append((until_ms, series.number, start))
            state.gap_count += sum(1 for fact in series.facts.values if type(fact) is Gap)
        state.digest_sum %= model.DIGEST_MODULUS
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
