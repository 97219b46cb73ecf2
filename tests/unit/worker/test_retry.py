"""Which error means to ask again, to hand back, or to give up."""

from __future__ import annotations

import pytest

from seamfill.errors import (
    SourceError,
    SourceMalformed,
    SourceRateLimited,
    SourceRejected,
    SourceUnavailable,
    StoreError,
    StoreMismatch,
    StoreNotVisible,
    StoreRefused,
    StoreUnavailable,
    UnknownSymbol,
)
from seamfill_worker.retry import (
    DETAIL_CHARS,
    TRIES,
    Again,
    GiveBack,
    GiveUp,
    after_source_error,
    after_store_error,
)


@pytest.mark.parametrize("error", [SourceUnavailable("x"), SourceMalformed("x")])
def test_an_unusable_answer_is_tried_again_with_growing_pauses_then_given_up(
    error: SourceError,
) -> None:
    pauses = [after_source_error(error, tries=tries) for tries in range(1, TRIES)]
    assert pauses == [Again(delay_ms=250), Again(delay_ms=500), Again(delay_ms=1_000)]
    assert after_source_error(error, tries=TRIES) == GiveUp(
        code=error.code, retryable=True, detail="x"
    )


@pytest.mark.parametrize("error", [SourceRejected("x"), UnknownSymbol("x")])
def test_what_can_not_help_is_given_up_for_good(error: SourceError) -> None:
    assert after_source_error(error, tries=1) == GiveUp(
        code=error.code, retryable=False, detail="x"
    )


@pytest.mark.parametrize(
    ("retry_after_ms", "banned", "expected"),
    [
        (7_000, False, GiveBack(delay_ms=7_000, why="source_rate_limited")),
        (0, False, GiveBack(delay_ms=1_000, why="source_rate_limited")),
        (10**12, True, GiveBack(delay_ms=86_400_000, why="source_banned")),
    ],
)
def test_a_venue_that_asks_for_patience_gets_it(
    retry_after_ms: int, banned: bool, expected: GiveBack
) -> None:
    error = SourceRateLimited("x", retry_after_ms=retry_after_ms, banned=banned)
    assert after_source_error(error, tries=1) == expected


@pytest.mark.parametrize("error", [StoreUnavailable("x"), StoreNotVisible("x")])
def test_a_store_that_is_down_never_uses_an_attempt(error: StoreError) -> None:
    assert isinstance(after_store_error(error, tries=1), Again)
    assert isinstance(after_store_error(error, tries=TRIES), GiveBack)


@pytest.mark.parametrize("error", [StoreRefused("full"), StoreMismatch("full")])
def test_a_store_that_refuses_uses_one(error: StoreError) -> None:
    assert after_store_error(error, tries=TRIES) == GiveUp(
        code=error.code, retryable=True, detail="full"
    )


def test_details_are_cut_to_what_a_lease_may_carry() -> None:
    decision = after_source_error(SourceRejected("x" * 9_999), tries=1)
    assert isinstance(decision, GiveUp) and len(decision.detail) == DETAIL_CHARS
