"""Trust ends before the coordinator's deadline, whatever the network does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from seamfill_worker.trust import MARGIN_MS_MIN, Trust


def test_trust_counts_from_when_the_request_was_sent() -> None:
    trust = Trust.granted(sent_at_ms=1_000, ttl_ms=30_000, renew_after_ms=10_000)
    assert trust.until_ms == 1_000 + 30_000 - 1_500
    assert trust.renew_at_ms == 11_000
    assert trust.holds(29_499) and not trust.holds(29_500)
    assert trust.remaining_ms(29_400) == 100 and trust.remaining_ms(99_000) == 0


def test_a_short_lease_keeps_a_margin_all_the_same() -> None:
    assert Trust.granted(sent_at_ms=0, ttl_ms=1_000, renew_after_ms=1).until_ms == (
        1_000 - MARGIN_MS_MIN
    )


@settings(deadline=None)
@given(
    sent=st.integers(0, 10**9),
    ttl=st.integers(10_000, 600_000),
    later=st.integers(-600_000, 600_000),
    second_ttl=st.integers(10_000, 600_000),
)
def test_a_renewal_never_shortens_and_never_reaches_past_its_own_deadline(
    sent: int, ttl: int, later: int, second_ttl: int
) -> None:
    """Answers may overtake each other: the one sent earlier may be heard later."""
    first = Trust.granted(sent_at_ms=sent, ttl_ms=ttl, renew_after_ms=ttl // 3)
    second = first.renewed(
        sent_at_ms=sent + later, ttl_ms=second_ttl, renew_after_ms=second_ttl // 3
    )
    assert second.until_ms >= first.until_ms
    assert second.until_ms < max(sent + ttl, sent + later + second_ttl)
