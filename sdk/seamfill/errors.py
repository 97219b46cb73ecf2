"""The one error tree of seamfill.

Owns every exception that crosses a module border on purpose. Must not know any adapter: foreign
exceptions are wrapped where they are caught, with ``raise … from exc``.

::

    SeamfillError
    ├── InvalidInput              a value from outside is wrong; ``field`` names it
    ├── CoordinatorError
    │   ├── CoordinatorUnavailable    not done, safe to retry
    │   ├── RequestRefused            a definite no, with the coordinator's problem
    │   └── OutcomeUnknown            may have happened; repeat only with the same identity
    ├── SourceError               an exchange or vendor did not give a usable answer
    │   ├── SourceRateLimited         told to wait (429, 418, maintenance)
    │   ├── SourceUnavailable         no answer, or a 5xx
    │   ├── SourceMalformed           an answer that can not be trusted
    │   ├── SourceRejected            the request itself is wrong
    │   └── UnknownSymbol
    ├── StoreError
    │   ├── StoreUnavailable          not reachable; whether a write happened is unknown
    │   ├── StoreNotVisible           acknowledged but not readable in time
    │   ├── StoreRefused              the store says no (table differs, disk full, …)
    │   └── StoreMismatch             read back something else than was written
    ├── SeamlessSLAExceeded
    ├── ConformancePipelineError
    ├── SchemaValidationError
    ├── CoverageIncomplete        bars are missing and nobody has proved why, yet
    ├── BackfillViolated
    └── Restated

Invariants: ``code`` is stable and unique; ``retryable`` says whether the same request may help
later; a class's docstring is its default message and tells the operator what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackfillViolated",
    "ConformancePipelineError",
    "CoordinatorError",
    "CoordinatorUnavailable",
    "CoverageIncomplete",
    "InvalidInput",
    "OutcomeUnknown",
    "RequestRefused",
    "Restated",
    "SchemaValidationError",
    "SeamfillError",
    "SeamlessSLAExceeded",
    "SourceError",
    "SourceMalformed",
    "SourceRateLimited",
    "SourceRejected",
    "SourceUnavailable",
    "StoreError",
    "StoreMismatch",
    "StoreNotVisible",
    "StoreRefused",
    "StoreUnavailable",
    "UnknownSymbol",
]


class SeamfillError(Exception):
    """Something went wrong in seamfill; the subclass says what."""

    code: ClassVar[str] = "seamfill_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """Return the text a person reads."""
        return str(self.args[0])


class InvalidInput(SeamfillError):
    """A value is not usable; correct the named field and try again."""

    code = "invalid_input"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class CoordinatorError(SeamfillError):
    """The coordinator cluster did not do what was asked."""

    code = "coordinator_error"


class CoordinatorUnavailable(CoordinatorError):
    """No coordinator could take the request; nothing was done. Check `coordinator status`."""

    code = "coordinator_unavailable"
    retryable = True


class RequestRefused(CoordinatorError):
    """The coordinator refused the request; nothing was done. The problem names the reason."""

    code = "request_refused"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: str,
        field: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.field = field
        self.retry_after_ms = retry_after_ms


class OutcomeUnknown(CoordinatorError):
    """The request may or may not have taken effect; repeat it only with the same identity."""

    code = "outcome_unknown"
    retryable = True


class SourceError(SeamfillError):
    """A source did not give a usable answer."""

    code = "source_error"
    retryable = True


class SourceRateLimited(SourceError):
    """The source asked every worker to wait (429, 418 or maintenance)."""

    code = "source_rate_limited"

    def __init__(self, message: str, *, retry_after_ms: int, banned: bool = False) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.banned = banned


class SourceUnavailable(SourceError):
    """The source gave no answer, or said that it can not answer now."""

    code = "source_unavailable"


class SourceMalformed(SourceError):
    """The source's answer can not be trusted: not JSON, off the grid, out of range, not finite."""

    code = "source_malformed"


class SourceRejected(SourceError):
    """The source says that the request itself is wrong; repeating it will not help."""

    code = "source_rejected"
    retryable = False


class UnknownSymbol(SourceError):
    """The source does not know this symbol; spell it as its registry does, like BTC/USDT."""

    code = "unknown_symbol"
    retryable = False


class StoreError(SeamfillError):
    """A store did not do what was asked."""

    code = "store_error"
    retryable = True


class StoreUnavailable(StoreError):
    """The store could not be reached; whether a write took effect is unknown."""

    code = "store_unavailable"


class StoreNotVisible(StoreError):
    """Rows were acknowledged but can not be read yet; look for a suspended table."""

    code = "store_not_visible"


class StoreRefused(StoreError):
    """The store refuses: its table differs from what is needed, or its disk is full."""

    code = "store_refused"


class StoreMismatch(StoreError):
    """What was read back differs from what was written; the window is not completed."""

    code = "store_mismatch"


class SeamlessSLAExceeded(SeamfillError):
    """A phase took longer than its budget; the backfill goes on, call ensure() to wait for it."""

    code = "sla_exceeded"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        node_id: str,
        elapsed_ms: int,
        budget_ms: int,
        backfill_id: str | None = None,
        bars_verified: int | None = None,
        bars_wanted: int | None = None,
        eta_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.node_id = node_id
        self.elapsed_ms = elapsed_ms
        self.budget_ms = budget_ms
        self.backfill_id = backfill_id
        self.bars_verified = bars_verified
        self.bars_wanted = bars_wanted
        self.eta_ms = eta_ms


class ConformancePipelineError(SeamfillError):
    """The frame does not conform; the report lists every flag."""

    code = "conformance_failed"


class SchemaValidationError(SeamfillError):
    """The frame does not match the approved schema of its subject."""

    code = "schema_invalid"


class CoverageIncomplete(SeamfillError):
    """Bars are missing and nobody has proved why; call ensure() to have them filled first."""

    code = "coverage_incomplete"
    retryable = True


class BackfillViolated(SeamfillError):
    """Some bars could not be filled and not be proved absent; see `coordinator backfill show`."""

    code = "backfill_violated"


class Restated(SeamfillError):
    """The values asked for with as_of are no longer kept; ask for the current ones.

    ``ranges``: the half-open ranges (start_ms, end_ms) of which they are gone.
    """

    code = "restated"

    def __init__(
        self, message: str | None = None, *, ranges: tuple[tuple[int, int], ...] = ()
    ) -> None:
        super().__init__(message)
        self.ranges = ranges
