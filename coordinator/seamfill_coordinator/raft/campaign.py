"""Elections of one node: asking for one, granting one to others, counting votes.

Owns which votes and pre-votes are cast and believed. ``elections.py`` has the timer, pysyncobj's
core casts and counts the votes themselves. Must not know logs beyond who is further.

Invariants: a candidate was pre-elected for exactly its term; a vote is counted once, and only from
a voter; who hears a leader lets nobody take its term.
"""

from __future__ import annotations

from collections.abc import Callable

from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.members import Members
from seamfill_coordinator.raft.messages import (
    HigherTerm,
    Message,
    PreVoteReply,
    PreVoteRequest,
    Vote,
    VoteRequest,
)

__all__ = ["Campaign"]


class Campaign:
    """One node's part in elections."""

    def __init__(
        self,
        elections: Elections,
        *,
        node_id: str,
        core: Core,
        journal: DurableJournal,
        members: Members,
        say: Callable[[str, Message], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._elections = elections
        self._node_id = node_id
        self._core = core
        self._journal = journal
        self._members = members
        self._say = say
        self._now_ms = now_ms
        self._votes: set[str] = set()
        self._votes_term = 0

    @property
    def deadline_ms(self) -> int:
        """When this node should ask for an election, unless it hears a leader before."""
        return self._elections.deadline_ms

    @property
    def is_following(self) -> bool:
        """Whether a leader was heard within the longest election timeout."""
        return self._elections.is_following(self._now_ms())

    def heard_leader(self) -> bool:
        """Note a word of the present leader; return whether one was followed before."""
        return self._elections.heard_leader(self._now_ms())

    def lost(self, node_id: str) -> None:
        """Note that the connection to this node broke: if it leads, it is likely dead."""
        core = self._core
        if core.is_leader or not core.is_voter or core.leader_id != node_id:
            return
        followers = sorted(m.node_id for m in self._members.voters if m.node_id != node_id)
        self._elections.lost_leader(
            self._now_ms(), place=followers.index(self._node_id), followers=len(followers)
        )

    def mind(self) -> None:
        """Ask for an election if it is time; a leader and who is no voter never do."""
        core = self._core
        if core.is_leader or not core.is_voter:
            return
        now_ms = self._now_ms()
        if not self._elections.is_due(now_ms):
            return
        request = PreVoteRequest(
            term=core.term + 1, last_index=core.last_index, last_term=core.last_term
        )
        self._elections.ask(now_ms, term=request.term, me=self._node_id)
        for node_id in self._members.connected:
            if self._members.is_voter(node_id):
                self._say(node_id, request)
        self._begin_if_pre_elected()

    def take_pre_vote_request(self, sender: str, request: PreVoteRequest) -> None:
        core = self._core
        if request.term <= core.term:
            self._say(sender, HigherTerm(term=core.term))
            return
        up_to_date = (request.last_term, request.last_index) >= (core.last_term, core.last_index)
        granted = self._may_vote and up_to_date and not self._has_leader
        self._say(sender, PreVoteReply(term=request.term, granted=granted))

    def take_pre_vote_reply(self, sender: str, reply: PreVoteReply) -> None:
        if reply.granted and self._members.is_voter(sender):
            self._elections.count(sender, reply.term)
            self._begin_if_pre_elected()

    def take_vote_request(self, sender: str, request: VoteRequest) -> None:
        core = self._core
        if request.term < core.term:
            self._say(sender, HigherTerm(term=core.term))
            return
        if not self._may_vote:
            return
        if request.term > core.term and self._has_leader:
            # A leader that is heard keeps its term; a candidate that can do without us is elected
            # without us, and its appends bring its term.
            return
        before = (core.term, self._journal.getVotedForNodeId())
        core.deliver_vote_request(sender, request)
        if (core.term, self._journal.getVotedForNodeId()) != before:
            self._elections.voted(self._now_ms())

    def take_vote(self, sender: str, vote: Vote) -> None:
        core = self._core
        if not core.is_candidate or vote.term != core.term or not self._members.is_voter(sender):
            return
        if self._votes_term != vote.term:
            self._votes_term, self._votes = vote.term, set()
        if sender in self._votes:
            return  # the core would count it again
        self._votes.add(sender)
        core.deliver_vote(sender, vote)

    def _begin_if_pre_elected(self) -> None:
        core = self._core
        term = core.term + 1
        voters = [member.node_id for member in self._members.voters]
        if core.is_leader or not core.is_voter or not self._elections.has_majority(voters, term):
            return
        self._elections.campaigned()
        core.campaign()
        assert core.term == term

    @property
    def _may_vote(self) -> bool:
        """Whether to give a vote when one is asked for.

        Not only as a voter: this node may have been made one by an entry that it has not got, and
        without its vote that entry may never come. The candidate knows whom it may count, by id and
        incarnation (Ongaro's thesis, 4.1). Who knows of no cluster at all has nothing to say.
        """
        return self._members.configuration is not None

    @property
    def _has_leader(self) -> bool:
        return self._core.is_leader or self._elections.hears_leader(self._now_ms())
