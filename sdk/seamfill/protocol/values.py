"""Values that every body of the protocol is made of.

Owns the leaves: series, leases, receipts, ranges with facts. Must not know HTTP, the machine or any
adapter. The replicated machine embeds these leaves in its own commands, so a change here is a
change of the log's format: only add optional fields, and raise ``PROTOCOL`` when doing so.

Bodies are ``msgspec.Struct`` rather than dataclasses: the same declaration decodes, validates with
the field's path in the error, and generates the OpenAPI schema; a dataclass would need all three
written again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

__all__ = [
    "PROTOCOL",
    "Answer",
    "Asked",
    "Body",
    "CoveredRange",
    "DatasetSpec",
    "Directive",
    "Fence",
    "GapRange",
    "GapReason",
    "HexDigest",
    "HttpStatus",
    "LeaseRef",
    "ListingDate",
    "Name",
    "Part",
    "Receipt",
    "Redo",
    "SeriesId",
    "SourceOffer",
    "TimeMs",
    "Usage",
    "WorkerIdentity",
]

PROTOCOL: Final = 1

TimeMs = Annotated[int, Meta(ge=0, le=253_402_300_800_000, description="Epoch milliseconds, UTC.")]
DelayMs = Annotated[int, Meta(ge=0, le=86_400_000)]
Fence = Annotated[int, Meta(ge=1, lt=1 << 62)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
# Bounded like every integer that goes into the log: msgpack has 64 bits, JSON has none.
HttpStatus = Annotated[int, Meta(ge=0, le=999)]
# No patterns on these two: they stand in every lease and completion, and a regular expression
# costs more than the rest of decoding. Who registers a name or adds a digest checks it instead.
HexDigest = Annotated[str, Meta(min_length=32, max_length=32)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
"""A dataset, symbol, source, store or id. Where one is registered, control characters and ``|``
(which separates the parts of a native lease key) are refused."""


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Something a client sends: unknown fields are refused, so that a typo is not a default.

    Frozen values can not form cycles, so the garbage collector need not visit them (``gc=False``):
    commands are made of them by the thousand, and each collection walked all of the heap.
    """


class Answer(Struct, frozen=True, kw_only=True):
    """Something the coordinator answers: clients ignore fields that they do not know."""

    protocol: int = PROTOCOL


class Part(Struct, frozen=True, kw_only=True):
    """A part of an answer, under the version that the answer as a whole states."""


class GapReason(StrEnum):
    """Why a bar is proved to be absent at its source."""

    NOT_LISTED = "not_listed"
    DELISTED = "delisted"
    VENUE_OUTAGE = "venue_outage"
    NO_TRADES = "no_trades"
    MARKET_CLOSED = "market_closed"
    SOURCE_DEPTH = "source_depth"


class Redo(StrEnum):
    """Which finished bars a backfill opens again."""

    MISSING = "missing"
    FAILED = "failed"
    RESTATED = "restated"


class Directive(StrEnum):
    """What the coordinator wants a lease's holder to do next."""

    CONTINUE = "continue"
    DRAIN = "drain"
    CANCEL = "cancel"
    PAUSE = "pause"


class SeriesId(Body, frozen=True):
    """One series: a dataset (preset id) and a symbol as its source spells it."""

    dataset: Name
    symbol: Name


class DatasetSpec(Body, frozen=True):
    """What a dataset is, registered by its first backfill and the same for ever after."""

    kind: Name
    interval_ms: Annotated[int, Meta(ge=1, le=366 * 86_400_000)]
    source: Name
    store: Name
    dense: bool = True


class WorkerIdentity(Body, frozen=True):
    """A worker process: an id that outlives restarts, and a nonce that does not."""

    id: Name
    boot: Name


class LeaseRef(Body, frozen=True):
    """A granted window, named by series, half-open range and fencing token; never by a number."""

    series: SeriesId
    start_ms: TimeMs
    end_ms: TimeMs
    fence: Fence


class Asked(Body, frozen=True):
    """One well-formed answer of a source, as evidence for a gap."""

    start_ms: TimeMs
    end_ms: TimeMs
    server_time_ms: TimeMs
    http_status: HttpStatus
    body_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    rows: Count


class Receipt(Body, frozen=True):
    """The evidence that bars do not exist at the source: who was asked, and the bars beside."""

    reason: GapReason
    asked: Annotated[tuple[Asked, ...], Meta(min_length=1, max_length=8)]
    left_ms: TimeMs | None = None
    right_ms: TimeMs | None = None


class CoveredRange(Body, frozen=True):
    """Bars that the holder fetched, wrote and read back: half-open range, rows, content digest."""

    start_ms: TimeMs
    end_ms: TimeMs
    rows: Count
    content_digest: HexDigest


class GapRange(Body, frozen=True):
    """Bars that are proved absent, with the proof."""

    start_ms: TimeMs
    end_ms: TimeMs
    reason: GapReason
    receipt: Receipt


class ListingDate(Body, frozen=True):
    """The first bar a source has of a series, or the end of its last one, with two answers."""

    at_ms: TimeMs
    receipt: Receipt


class SourceOffer(Body, frozen=True):
    """A source that a worker can fetch from, with what a page costs there.

    ``weight_per_minute`` 0 means that the source has no budget. A window of n bars is estimated at
    ``ceil(n / page_bars) · page_weight``.
    """

    source: Name
    weight_per_minute: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    page_bars: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    page_weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1


class Usage(Body, frozen=True):
    """What a source's own counters said last, and how long it wants everybody to wait."""

    source: Name
    used_weight: Count | None = None
    penalty_ms: DelayMs | None = None
    status: HttpStatus | None = None
