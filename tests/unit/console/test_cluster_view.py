"""What `coordinator status` makes of the answers that it got."""

from __future__ import annotations

from typing import Literal

import pytest

from seamfill.errors import InvalidInput
from seamfill.protocol.cluster import BackfillCounts, ClusterAnswer, LeaseCounts, MemberView
from seamfill_coordinator.console.cluster_view import fault_margin_words, merge_views

LEASES = LeaseCounts(
    live=0,
    lock_delay=0,
    waiting=0,
    compatibility=0,
    granted_total=0,
    expired_total=0,
    regranted_total=0,
    stale_fence_total=0,
)
BACKFILLS = BackfillCounts(
    active=0,
    paused=0,
    complete=0,
    incomplete=0,
    cancelled=0,
    bars_wanted=0,
    bars_verified=0,
    bars_gap=0,
    bars_violated=0,
)


def member(
    name: str,
    *,
    healthy: bool = True,
    digests: dict[str, str] | None = None,
    role: Literal["leader", "follower", "unknown"] = "follower",
) -> MemberView:
    return MemberView(
        id=name,
        url=f"http://{name}:1",
        role=role,
        healthy=healthy,
        applied_index=5,
        digests=digests,
    )


def told(
    own: MemberView,
    *peers: MemberView,
    leader: str | None = "n1",
    term: int = 3,
    rev: int = 10,
    cluster: str = "c",
) -> ClusterAnswer:
    return ClusterAnswer(
        cluster_id=cluster,
        node_id=own.id,
        leader=leader,
        leader_url=None,
        term=term,
        rev=rev,
        clock_ms=0,
        quorum=2,
        ready=True,
        self_view=own,
        peers=peers,
        leases=LEASES,
        backfills=BACKFILLS,
    )


@pytest.mark.parametrize(
    ("healthy", "margin", "words"),
    [
        (3, 1, "tolerates 1 more failure"),
        (2, 0, "NEXT FAILURE STOPS WRITES"),
        (1, -1, "NO QUORUM: writes have stopped"),
    ],
)
def test_the_fault_margin_counts_healthy_members_above_the_quorum(
    healthy: int, margin: int, words: str
) -> None:
    members = [member(f"n{k}", healthy=k <= healthy) for k in (1, 2, 3)]
    view = merge_views({"u": told(*members)})
    assert view.fault_margin == margin
    assert fault_margin_words(view.fault_margin) == words
    assert view.document()["fault_margin"] == margin


def test_what_a_member_says_of_itself_beats_what_others_say_of_it() -> None:
    dead = member("n2", healthy=False, role="unknown")
    alive = member("n2", healthy=True)
    view = merge_views({"a": told(member("n1"), dead), "b": told(alive, member("n1"))})
    assert [each.healthy for each in view.members] == [True, True]
    assert view.reached == {"n1", "n2"}


def test_digests_are_compared_at_the_newest_index_that_all_have_passed() -> None:
    """n2 lags: its 64 must be compared with n1's 64, never with n1's 128."""
    ahead = member("n1", digests={"64": "aa", "128": "bb"})
    behind = member("n2", digests={"64": "aa"})
    view = merge_views({"u": told(ahead, behind)})
    assert (view.digests_agree, view.compared_index) == (True, 64)
    other = member("n2", digests={"64": "cc"})
    assert merge_views({"u": told(ahead, other)}).digests_agree is False
    apart = member("n2", digests={"192": "dd"})
    assert merge_views({"u": told(ahead, apart)}).digests_agree is None
    assert merge_views({"u": told(ahead)}).digests_agree is None


def test_the_leader_of_the_newest_term_is_named_not_a_deposed_one() -> None:
    old = told(member("n1"), leader="n1", term=3, rev=12)
    new = told(member("n2"), leader="n2", term=4, rev=11)
    assert merge_views({"a": old, "b": new}).leader == "n2"
    headless = told(member("n2"), leader=None, term=5)
    assert merge_views({"a": old, "b": headless}).leader is None


def test_endpoints_of_two_clusters_are_refused() -> None:
    with pytest.raises(InvalidInput, match="different clusters"):
        merge_views({"a": told(member("n1")), "b": told(member("n1"), cluster="d")})
