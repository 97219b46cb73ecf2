"""The machine's state: rows and tables, with no behaviour but small derived facts.

Owns what a row is. Must not know operations. Rows are mutable ``Struct``s compared by identity: the
machine owns them and changes them in place, readers get frozen protocol values made by ``views``.
Fields under *caches* are rebuilt from the others on restore and never enter snapshot or digest.

Facts and waiting tasks are frozen values inside interval maps, so cutting a range can share them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from dataclasses import field as default
from enum import IntEnum
from typing import ClassVar, Final

from msgspec import Struct, field

from seamfill.protocol.values import DatasetSpec, GapReason, ListingDate, Receipt, Redo, SourceOffer
from seamfill_coordinator.machine.commands import Limits
from seamfill_coordinator.machine.interval_map import IntervalMap, join_equal
from seamfill_coordinator.machine.outcomes import Accepted, Event

__all__ = [
    "DIGEST_MODULUS",
    "FOREVER_MS",
    "Backfill",
    "BackfillState",
    "ClaimRow",
    "Completion",
    "Counters",
    "Covered",
    "Dataset",
    "Fact",
    "Gap",
    "Lease",
    "Match",
    "Member",
    "Namespace",
    "OfferGroup",
    "Restatement",
    "Row",
    "Series",
    "Session",
    "SourceRow",
    "State",
    "Violation",
    "Waiting",
    "Want",
    "Worker",
    "new_facts",
]

FOREVER_MS: Final = 1 << 62
"""Later than any time in the system; "no deadline" sorts last."""
DIGEST_MODULUS: Final = 1 << 128


class Covered(Struct, frozen=True, gc=False):
    """Bars whose content a holder wrote and read back. ``content_digest`` None: split later."""

    kind: ClassVar[int] = 0
    gen: int
    rows: int
    content_digest: int | None


class Gap(Struct, frozen=True):
    """Bars proved absent at their source. Without its own receipt the series' listing date is."""

    kind: ClassVar[int] = 1
    gen: int
    reason: GapReason
    receipt: Receipt | None


class Violation(Struct, frozen=True):
    """Bars that stay unfilled for a reason that is no proof."""

    kind: ClassVar[int] = 2
    gen: int
    reason: str
    detail: str


Fact = Covered | Gap | Violation


class Waiting(Struct, frozen=True):
    """A task between two leases. ``fence`` and its range name the last one.

    ``expired`` is true while nothing but expiry happened to that lease: only then does a late
    Complete under its fence still count.
    """

    attempts: int
    expiries: int
    not_before_ms: int
    cursor_ms: int | None
    fence: int
    lease_start_ms: int
    lease_end_ms: int
    lease_gen: int
    worker: str
    expired: bool
    note: str


class Row(Struct, eq=False):
    """Base of mutable rows. *Caches*: digest and bytes as last hashed, whether they are stale, and
    whether the row has left its table."""

    row_digest: int = 0
    encoded: bytes = b""
    is_dirty: bool = False
    is_gone: bool = False


class Dataset(Row, eq=False, kw_only=True):
    """What a dataset is; registered by the first Submit, never changed."""

    name: str
    spec: DatasetSpec
    group: tuple[str, str]


def _cut_fact(fact: Fact, start: int, end: int, new_start: int, new_end: int) -> Fact:
    """Cut a fact: a covered part keeps its share of rows and loses its digest.

    For dense series rows = bars, so the share is exact. For sparse ones it is an estimate whose
    parts add up to the whole; the missing digest tells that nobody counted.
    """
    if type(fact) is not Covered:
        return fact
    span = end - start
    rows = fact.rows * (new_end - start) // span - fact.rows * (new_start - start) // span
    return Covered(fact.gen, rows, None)


def _join_fact(left: Fact, right: Fact) -> Fact | None:
    """Join neighbours that say the same; covered ones of one gen add up rows and digests.

    A part without a digest stays apart from one with, or the sum would lose what is known.
    """
    if type(left) is Covered and type(right) is Covered:
        if left.gen != right.gen:
            return None
        a, b = left.content_digest, right.content_digest
        if a is not None and b is not None:
            return Covered(left.gen, left.rows + right.rows, (a + b) % DIGEST_MODULUS)
        return Covered(left.gen, left.rows + right.rows, None) if a is b else None
    return left if left == right else None


def _join_task(left: Lease | Waiting, right: Lease | Waiting) -> Lease | Waiting | None:
    """Join waiting parts of one former lease; leases are named windows and never join."""
    if type(left) is Waiting and type(right) is Waiting and left == right:
        return left
    return None


def new_facts() -> IntervalMap[Fact]:
    """Return an empty map of facts, with their rules for cutting and joining."""
    return IntervalMap(cut=_cut_fact, join=_join_fact)


def _tasks() -> IntervalMap[Lease | Waiting]:
    return IntervalMap(join=_join_task)


def _gens() -> IntervalMap[int]:
    return IntervalMap(join=join_equal)


def _marks() -> IntervalMap[Violation]:
    return IntervalMap(join=join_equal)


class Series(Row, eq=False, kw_only=True):
    """Everything about one symbol of one dataset.

    ``facts`` is what readers see. ``tasks`` are leases and waiting parts. ``redo`` holds the gen at
    which bars are to be fetched again although they may have a fact; ``redo_failed`` what came of
    redos that ended badly while an older fact stayed.
    """

    dataset: Dataset
    symbol: str
    number: int
    high_gen: int = 0
    coverage_rev: int = 0
    listed_from: ListingDate | None = None
    delisted_at: ListingDate | None = None
    facts: IntervalMap[Fact] = field(default_factory=new_facts)
    tasks: IntervalMap[Lease | Waiting] = field(default_factory=_tasks)
    redo: IntervalMap[int] = field(default_factory=_gens)
    redo_failed: IntervalMap[Violation] = field(default_factory=_marks)
    quiet: IntervalMap[int] = field(default_factory=_gens)
    """Range → lease clock until which nobody gets it: a former holder's write may still land. It
    belongs to the bars, not to who wants them: neither a cancel nor a retry shortens it."""
    # caches
    interval_ms: int
    changed_in: int = 0
    wants: dict[int, Want] = field(default_factory=dict)
    """Backfill sequence → what that unfinished backfill wants here."""


class BackfillState(IntEnum):
    """A backfill's life; only the first two can change."""

    ACTIVE = 0
    PAUSED = 1
    COMPLETE = 2
    INCOMPLETE = 3
    CANCELLED = 4

    @property
    def is_open(self) -> bool:
        """Tell whether its wanted set still matters."""
        return self <= BackfillState.PAUSED


class Want(Struct, eq=False):
    """One backfill's ranges of one series: sorted, disjoint, not touching.

    ``position`` (cache) is the frontier: no eligible bar of these ranges lies before it. −1: there
    was none at all when last looked.
    """

    backfill: Backfill
    series: Series
    ranges: list[tuple[int, int]]
    position: int = -1


class Backfill(Row, eq=False, kw_only=True):
    """A request: wanted ranges, an order, perhaps a redo.

    ``open_bars`` counts wanted bars that have no fact or a pending redo; the three others count
    wanted bars by their fact. All four are maintained with every fact, frozen when it finishes.
    """

    id: str
    sequence: int
    dataset: Dataset
    state: BackfillState
    window_bars: int
    priority: int
    deadline_ms: int | None
    redo: Redo | None
    requested: bytes
    plan: Accepted
    wanted: list[tuple[str, list[tuple[int, int]]]]
    bars: int
    open_bars: int = 0
    fact_bars: list[int] = field(default_factory=lambda: [0, 0, 0])
    windows_violated: int = 0
    # caches
    order: tuple[int, int, int]
    cell_ms: int
    wants: list[Want] = field(default_factory=list)
    heap: list[tuple[int, str, int, Want]] = field(default_factory=list)
    is_ready: bool = False


class Lease(Row, eq=False, kw_only=True):
    """A window in somebody's hands. What it still holds are its pieces in ``series.tasks``."""

    fence: int
    series: Series
    start_ms: int
    end_ms: int
    gen: int
    worker: Worker
    deadline_ms: int
    cursor_ms: int | None
    attempts: int
    expiries: int
    left_ms: int
    """Length of what it still holds; 0 ends the lease."""
    has_progress: bool = False


class Worker(Row, eq=False, kw_only=True):
    """A worker id, the boot nonce that speaks for it now, and the last nonces that no longer do."""

    id: str
    boot: str
    dead_boots: list[str] = field(default_factory=list)
    is_draining: bool = False
    seen_ms: int = 0
    completed_total: int = 0
    failed_total: int = 0
    # caches
    leases: dict[int, Lease] = field(default_factory=dict)


class OfferGroup(Struct, frozen=True):
    """A (source, store) that a worker serves and an active backfill wants, with its prices."""

    key: tuple[str, str]
    source: SourceRow
    page_bars: int
    page_weight: int


class Match(Struct, frozen=True):
    """What a worker's last Acquire came to, as long as ``epoch`` is the state's: a cache, since
    a worker says the same every time and checking it costs more than granting."""

    epoch: int
    worker: Worker
    offers: tuple[SourceOffer, ...]
    stores: tuple[str, ...]
    groups: tuple[OfferGroup, ...]


class SourceRow(Row, eq=False, kw_only=True):
    """A source's budget as a token bucket in 1/60,000 weight, its breaker, and the pause switch."""

    name: str
    is_paused: bool = False
    weight_per_minute: int = 0
    tokens: int = 0
    refilled_ms: int = 0
    breaker_until_ms: int = 0
    last_status: int | None = None


class Session(Row, eq=False, kw_only=True):
    """Outcomes of one client: sequence → encoded reply, for sequences in [low, low + 256)."""

    client: int
    low: int = 0
    used_ms: int = 0
    replies: dict[int, bytes] = field(default_factory=dict)


class ClaimRow(Row, eq=False, kw_only=True):
    """A live compatibility claim."""

    fence: int
    key: str
    holder: str
    deadline_ms: int
    # caches
    namespace: Namespace
    start_s: int
    stop_s: int


def _claims() -> IntervalMap[ClaimRow]:
    return IntervalMap()


class Namespace(Row, eq=False, kw_only=True):
    """Compatibility keys that exclude each other: live claims and what was done, by second."""

    name: tuple[str, int, str, str]
    done: IntervalMap[int] = field(default_factory=_gens)
    """Range → lease clock of its completion."""
    # caches
    live: IntervalMap[ClaimRow] = field(default_factory=_claims)


class Member(Row, eq=False, kw_only=True):
    """A coordinator node as it announced itself."""

    name: str
    url: str
    version_min: int
    version_max: int


class Restatement(Row, eq=False, kw_only=True):
    """Values that were replaced: gen before and after, since which rev. ``gen_after`` None: gap."""

    number: int
    dataset: str
    symbol: str
    start_ms: int
    end_ms: int
    gen_before: int
    rows_before: int
    digest_before: int | None
    gen_after: int | None
    digest_after: int | None
    rev: int
    wall_ms: int


class Completion(Row, eq=False, kw_only=True, gc=False):
    """One accepted range of a Complete, remembered so that a repetition is recognised."""

    fence: int
    start_ms: int
    end_ms: int
    content: str
    """The content digest as sent, or ``gap:<reason>``."""
    rev: int


@dataclass(slots=True, eq=False)
class Counters:
    """Totals since the beginning; part of the state, so that every node tells the same."""

    granted: int = 0
    expired: int = 0
    regranted: int = 0
    stale: int = 0


@dataclass(slots=True, eq=False)
class State:
    """All tables. Dictionaries are in insertion order, which is log order, hence deterministic.

    A dataclass, not a ``Struct`` like the rows: there is one, so that making it may be slow, and
    setting a field, which every operation does some ten times, takes 10 ns instead of 50.
    """

    rev: int = 0
    clock_ms: int = 0
    fence: int = 0
    term: int = 0
    reign_ms: int = 0
    wall_ms: int = 0
    version: int = 1
    cluster_id: str = ""
    limits: Limits = default(default_factory=Limits)
    backfills_issued: int = 0
    clients_issued: int = 0
    restatements_issued: int = 0
    ledger_floor_rev: int = 0
    """Restatements at or below this rev may have been dropped from the ledger."""
    counters: Counters = default(default_factory=Counters)

    datasets: dict[str, Dataset] = default(default_factory=dict)
    series: dict[tuple[str, str], Series] = default(default_factory=dict)
    backfills: dict[str, Backfill] = default(default_factory=dict)
    finished: deque[Backfill] = default(default_factory=deque)
    leases: dict[int, Lease] = default(default_factory=dict)
    workers: OrderedDict[str, Worker] = default(default_factory=OrderedDict)
    sources: dict[str, SourceRow] = default(default_factory=dict)
    sessions: OrderedDict[int, Session] = default(default_factory=OrderedDict)
    namespaces: dict[tuple[str, int, str, str], Namespace] = default(default_factory=dict)
    claims: dict[int, ClaimRow] = default(default_factory=dict)
    claims_done: deque[tuple[Namespace, int, int, int]] = default(default_factory=deque)
    members: dict[str, Member] = default(default_factory=dict)
    restatements: deque[Restatement] = default(default_factory=deque)
    completions: deque[Completion] = default(default_factory=deque)
    events: deque[Event] = default(default_factory=deque)

    # caches
    step: int = 0
    """Counts operations and expiry rounds: what happens in one of them is one change."""
    waiting_count: int = 0
    gap_count: int = 0
    session_bytes: int = 0
    digest_sum: int = 0
    dirty: list[Row] = default(default_factory=list)
    completed: dict[int, tuple[Completion, ...]] = default(default_factory=dict)
    """Fence → its completions. Tuples, since the garbage collector leaves tuples of plain rows
    alone, and would walk 65,536 lists again and again."""
    deadlines: list[tuple[int, int]] = default(default_factory=list)
    claim_deadlines: list[tuple[int, int]] = default(default_factory=list)
    due: list[tuple[int, int, int]] = default(default_factory=list)
    by_number: list[Series] = default(default_factory=list)
    ready: dict[tuple[str, str], list[tuple[tuple[int, int, int], Backfill]]] = default(
        default_factory=dict
    )
    active_groups: dict[tuple[str, str], int] = default(default_factory=dict)
    """(source, store) → number of active backfills of such datasets."""
    matches: dict[str, Match] = default(default_factory=dict)
    match_epoch: int = 0
    """Raised when a worker, a source's price or a group changes: every ``Match`` before is void."""
    new_events: list[Event] = default(default_factory=list)
    finishing: list[Backfill] = default(default_factory=list)
