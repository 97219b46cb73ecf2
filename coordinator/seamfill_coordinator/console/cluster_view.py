"""One view of a cluster, put together from what its members say of themselves.

Owns the merging of ``/v1/cluster`` answers, the fault margin, the comparison of state digests and
the stable document of ``coordinator status -o json``. Pure.

Invariants: what a member says of itself beats what others say of it; digests are compared only at
an index that the compared members have all passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from seamfill.errors import InvalidInput
from seamfill.protocol.cluster import ClusterAnswer, MemberView

__all__ = ["ClusterView", "fault_margin_words", "merge_views"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster as far as it could be reached. ``newest`` is the answer with the highest rev."""

    newest: ClusterAnswer
    members: tuple[MemberView, ...]
    reached: frozenset[str]
    leader: str | None

    @property
    def healthy(self) -> int:
        """Return how many members are healthy."""
        return sum(member.healthy for member in self.members)

    @property
    def fault_margin(self) -> int:
        """Return how many more members may fail before writes stop; negative: they have."""
        return self.healthy - self.newest.quorum

    @property
    def digests_agree(self) -> bool | None:
        """Whether all members that can be compared hold the same state; None: no two can be."""
        digests = [member.digests for member in self.members if member.digests]
        if len(digests) < 2:
            return None
        common = set.intersection(*(set(each) for each in digests))
        if not common:
            return None
        newest = max(common, key=int)
        return len({each[newest] for each in digests}) == 1

    @property
    def compared_index(self) -> int | None:
        """Return the index at which the digests were compared."""
        digests = [member.digests for member in self.members if member.digests]
        common = set.intersection(*(set(each) for each in digests)) if len(digests) > 1 else set()
        return max(map(int, common), default=None)

    def document(self) -> dict[str, Any]:
        """Return the document of ``-o json``; keys are a stable contract, more may come."""
        return {
            "cluster_id": self.newest.cluster_id,
            "leader": self.leader,
            "leader_url": self.newest.leader_url,
            "term": self.newest.term,
            "rev": self.newest.rev,
            "fault_margin": self.fault_margin,
            "fault_margin_words": fault_margin_words(self.fault_margin),
            "quorum": self.newest.quorum,
            "members": [self._member(member) for member in self.members],
            "digests_agree": self.digests_agree,
            "digests_compared_at": self.compared_index,
            "leases": msgspec.to_builtins(self.newest.leases),
            "backfills": msgspec.to_builtins(self.newest.backfills),
            "recovery": self.newest.recovery,
            "machine_version": self.newest.machine_version,
        }

    def _member(self, member: MemberView) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(member)
        plain.pop("digests", None)
        plain["reached"] = member.id in self.reached
        return plain


def merge_views(answers: Mapping[str, ClusterAnswer]) -> ClusterView:
    """Merge answers by the URL they came from; at least one. Refuses two different clusters."""
    assert answers
    clusters = {answer.cluster_id: url for url, answer in answers.items()}
    if len(clusters) > 1:
        named = ", ".join(f"{url} is {cluster}" for cluster, url in sorted(clusters.items()))
        raise InvalidInput("--endpoint", f"the nodes belong to different clusters: {named}")
    given = list(answers.values())
    newest = max(given, key=lambda answer: (answer.rev, answer.term))
    return ClusterView(
        newest=newest,
        members=_members(given),
        reached=frozenset(answer.node_id for answer in given),
        leader=_leader(given),
    )


def _members(answers: Sequence[ClusterAnswer]) -> tuple[MemberView, ...]:
    members: dict[str, MemberView] = {}
    for answer in answers:
        for peer in answer.peers:
            known = members.get(peer.id)
            if known is None or (peer.applied_index or -1) > (known.applied_index or -1):
                members[peer.id] = peer
    members.update({answer.node_id: answer.self_view for answer in answers})
    return tuple(members[name] for name in sorted(members))


def _leader(answers: Sequence[ClusterAnswer]) -> str | None:
    """Return the leader of the newest term that anybody knows; an older one has been deposed."""
    newest_term = max(answer.term for answer in answers)
    named = [answer.leader for answer in answers if answer.term == newest_term and answer.leader]
    return named[0] if named else None


def fault_margin_words(margin: int) -> str:
    """Say what the fault margin means for the operator."""
    if margin < 0:
        return "NO QUORUM: writes have stopped"
    if margin == 0:
        return "NEXT FAILURE STOPS WRITES"
    return f"tolerates {margin} more failure{'s' if margin > 1 else ''}"
