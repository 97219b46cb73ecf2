"""One member's Raft node: pysyncobj's core inside the rules that make it safe.

Owns what a message does and the order of a turn, and puts the parts around the core together:
members, campaign, guard, feeding, shipping, compaction, outbox. Must not know asyncio, sockets or
clients: time is handed in, messages go out through ``NodeHooks``.

A turn: what was heard and appended since the last one is made durable, and everything that was said
is sent; ``outbox.py`` has the order. Then the core counts, commits and applies; an election is
called if it is time; a slice of a snapshot is written; and what came of that is made durable and
sent in the same way. The answers go first, because others wait for them and applying a large
command takes a while; and what the core counts as this node's own is durable by then. The core is
only asked when it may find something to do; the heartbeat of a leader that is followed anyway is
answered without a turn.

Invariants: an acknowledgement is counted once, in the term it was meant for, from a member by id
*and* incarnation; what can not be right (a second leader in a term, an overwritten commit) raises,
and the shell ends the process: the log is evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from seamfill.logs import log_event
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.campaign import Campaign
from seamfill_coordinator.raft.compaction import Compaction, CompactionLimits
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.feeding import Feeder
from seamfill_coordinator.raft.guard import Guard, Heartbeat, SafetyViolation
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import EntryKind
from seamfill_coordinator.raft.members import Members
from seamfill_coordinator.raft.messages import (
    Append,
    Appended,
    Founded,
    Hello,
    HigherTerm,
    Message,
    PreVoteReply,
    PreVoteRequest,
    SnapshotPart,
    SnapshotTaken,
    Vote,
    VoteRequest,
)
from seamfill_coordinator.raft.outbox import Outbox, Wire
from seamfill_coordinator.raft.shipping import Receiving, Shipping
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore
from seamfill_coordinator.raft.timing import RaftTiming

__all__ = ["NodeHooks", "NodeSettings", "RaftNode"]

_log = logging.getLogger("seamfill.coordinator.raft")
_IDLE_MS: Final = 1_000


class NodeHooks(Wire, Protocol):
    """What a node needs of its surroundings."""

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply the command at ``index``; total: what it raises must end the process."""
        ...

    def machine(self) -> LeaseMachine:
        """Return the machine, as the last applied entry left it."""
        ...

    def installed(self, machine: LeaseMachine, last_index: int) -> None:
        """Take a machine that a leader's snapshot was loaded into, instead of the present one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Who this node is, and with whom it was told to be; an ``Identity``."""

    cluster_id: str
    node_id: str
    incarnation: str
    peer_ids: tuple[str, ...]
    timing: RaftTiming = field(default_factory=RaftTiming)
    compaction: CompactionLimits = field(default_factory=CompactionLimits)


class RaftNode:
    """See the module. Everything belongs to one thread."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        journal: DurableJournal,
        snapshots: SnapshotStore,
        newest: SnapshotInfo | None,
        hooks: NodeHooks,
        now_ms: Callable[[], int],
        draw: Callable[[float, float], float],
    ) -> None:
        """``newest``: the snapshot that the machine was loaded from, and the journal opened with.

        Raises ``UnsupportedPysyncobj``.
        """
        self._settings = settings
        self._journal = journal
        self._hooks = hooks
        self._now_ms = now_ms
        self._fed_index = 0
        self._is_stirred = True
        """Whether anything has happened since the last tick that a tick may act upon."""
        self._reign_term: int | None = None
        self.leader_commit_index: int | None = None
        """What a leader last said to be committed, before it is cut to what is verified here."""
        self.snapshots_installed = 0
        self._outbox = Outbox(journal, hooks)
        self._say = self._outbox.say
        if newest is not None:
            journal.begin_at(newest.last_index, newest.last_term)
        self.core = Core(
            node_id=settings.node_id,
            journal=journal,
            applied_index=1 if newest is None else newest.last_index,
            timing=settings.timing,
            now_ms=now_ms,
            hooks=_CoreSide(self),
        )
        self._guard = Guard(self.core)
        self._feeder = Feeder(self.core, send=self._say, ship=self._ship)
        self._shipping = Shipping(snapshots, send=self._say)
        self._receiving = Receiving(snapshots)
        self.members = Members(
            settings,
            core=self.core,
            journal=journal,
            base=None if newest is None else newest.configuration,
            say=self._say,
            on_left=self._forget_way_to,
        )
        self.campaign = Campaign(
            Elections(settings.timing, now_ms=now_ms(), draw=draw),
            node_id=settings.node_id,
            core=self.core,
            journal=journal,
            members=self.members,
            say=self._say,
            now_ms=now_ms,
        )
        self.compaction = Compaction(
            snapshots,
            settings.compaction,
            newest_index=0 if newest is None else newest.last_index,
            journal=journal,
            on_written=_log_written,
        )

    # What it is now

    @property
    def leader_id(self) -> str | None:
        """The leader that this node hears now; itself while it leads."""
        leader, me = self.core.leader_id, self._settings.node_id
        if self.core.is_leader:
            return me
        if leader == me or leader not in self.members.peers:
            return None
        return leader if self.campaign.is_following else None

    @property
    def has_caught_up(self) -> bool:
        """Whether all that a leader of this term said to be committed is applied here."""
        said = self.leader_commit_index
        behind = said is None or self.core.applied_index < said
        return not behind and self.core.applied_term == self.core.term

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal's files, reserved ones included."""
        return self._journal.size

    @property
    def next_turn_ms(self) -> int:
        """When the node should have its next turn, if nothing happens before."""
        if self.compaction.is_busy:
            return self._now_ms()
        if self.core.is_leader:
            return self.core.heartbeat_due_ms
        if self.core.is_voter:
            return self.campaign.deadline_ms
        return self._now_ms() + _IDLE_MS

    # What happens to it

    @property
    def needs_turn(self) -> bool:
        """Whether what has happened since the last turn calls for one before it is due."""
        return self._is_stirred or self._outbox.is_waiting

    def turn(self) -> None:
        """Send, commit, apply, and whatever is due; see the module."""
        core, members = self.core, self.members
        self._feed_what_is_new()
        self._outbox.flush()
        # Entries that are sent, or synced and acknowledged, are not committed yet: a tick would
        # find nothing, and costs more than having heard them.
        if not self._is_stirred and self._now_ms() < self.next_turn_ms:
            return
        self._is_stirred = False
        core.tick()
        self._mind_reign()
        self.campaign.mind()
        if self.compaction.step(self._hooks.machine, core, members.log):
            self.compaction.trim(core, members.log, shipped_index=self._shipping.oldest_index)
        self._feed_what_is_new()
        self._outbox.flush()

    def connected(self, hello: Hello) -> None:
        """Note a new connection; an older one of this node has gone with what was on its way."""
        self._is_stirred = True
        if hello.node_id in self.members.peers:
            self._forget_way_to(hello.node_id)
        self.members.greeted(hello)

    def disconnected(self, node_id: str) -> None:
        """Note that the connection has gone."""
        self._is_stirred = True
        if self.members.gone(node_id):
            self._forget_way_to(node_id)
            self.campaign.lost(node_id)

    def received(self, sender: str, message: Message) -> None:
        """Take one message of a peer. Raises ``SafetyViolation``."""
        match message:
            case Append():
                self._take_append(sender, message)
                return
            case Appended():
                self._take_appended(sender, message)
                return
            case SnapshotPart():
                self._take_part(sender, message)
            case SnapshotTaken():
                if message.term == self.core.term and self.core.is_leader:
                    self._shipping.taken(sender, message, message.term)
            case PreVoteRequest():
                self.campaign.take_pre_vote_request(sender, message)
            case PreVoteReply():
                self.campaign.take_pre_vote_reply(sender, message)
            case VoteRequest():
                self.campaign.take_vote_request(sender, message)
            case Vote():
                self.campaign.take_vote(sender, message)
            case HigherTerm():
                if message.term > self.core.term:
                    self.core.observe_term(sender, message.term)
            case Founded():
                self.members.adopt(message.configuration)
            case Hello():
                raise AssertionError("links keep greetings to themselves")
            case _:
                assert_never(message)
        self._is_stirred = True

    def append(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        """Append a command to the log; it leaves with the next turn. Only for a leader."""
        self.core.append(bytes([EntryKind.COMMAND]) + command, done)

    def close(self) -> None:
        """Let go of files; what was not sent is not."""
        self._shipping.stop_all()
        self._receiving.abandon()
        self.compaction.abandon()
        self._journal.close()

    def _forget_way_to(self, node_id: str) -> None:
        self._shipping.stop(node_id)
        if self.core.is_leader:
            self._feeder.lost(node_id)

    # Leading

    def _mind_reign(self) -> None:
        """Forget what was under way in an earlier reign."""
        term = self.core.term if self.core.is_leader else None
        if term != self._reign_term:
            self._reign_term = term
            self._feeder.reign_changed()
            self._shipping.stop_all()

    def _feed(self, *, heartbeat: bool) -> None:
        self._mind_reign()
        self._fed_index = self.core.last_index
        if self._feeder.feed(self.members.connected, heartbeat=heartbeat):
            # What everybody was sent says as much as a heartbeat.
            self.core.put_off_heartbeat()

    def _feed_what_is_new(self) -> None:
        core = self.core
        if core.is_leader and core.last_index > self._fed_index:
            self._feed(heartbeat=False)
            # Where others vote, nothing is to be counted before one of them has answered.
            if len(self.members.voters) == 1:
                self._is_stirred = True

    def _ship(self, node_id: str) -> None:
        self._shipping.go_on(node_id, self.core.term)

    def _take_appended(self, sender: str, message: Appended) -> None:
        # An acknowledgement that was meant for an earlier reign proves nothing in this one.
        core = self.core
        if not core.is_leader or message.term != core.term or sender not in self.members.connected:
            return
        # One more acknowledgement of what is committed already changes nothing.
        if not message.success or message.next_index > core.commit_index + 1:
            self._is_stirred = True
        self._feeder.answered(sender, message)
        if message.success and message.next_index > core.first_index:
            self._shipping.stop(sender)
        if core.next_index(sender) <= core.last_index:
            self._feeder.feed((sender,), heartbeat=False)

    # Following

    def _take_append(self, sender: str, message: Append) -> None:
        core = self.core
        if not self._is_leaders_word(sender, message.term):
            return
        term = core.term
        verdict = self._guard.judge(message)
        if verdict.malformed:
            log_event(_log, "replica.append_malformed", level=logging.WARNING, peer=sender)
            return
        was_following = self._heard_leader(message.commit_index)
        match verdict.deliver:
            case Append() as append:
                self._deliver_append(sender, append)
            case Heartbeat() as heartbeat:
                core.deliver_append(sender, heartbeat)
            case None:
                pass
        if verdict.answer is not None:
            self._say(sender, verdict.answer)
        if core.term != term or core.commit_index > core.applied_index or not was_following:
            self._is_stirred = True
        elif not message.entries and not self._is_stirred:
            # A heartbeat of the leader that is followed anyway: it asks for an answer, and for
            # nothing else. A turn costs more than all of that.
            self._outbox.flush()

    def _deliver_append(self, sender: str, append: Append) -> None:
        first_new = append.previous_index + 1
        gives_way = first_new if first_new <= self.core.last_index else None
        self.core.deliver_append(sender, append)
        if append.entries or gives_way is not None:
            self.members.appended(append.entries, from_index=gives_way)

    def _take_part(self, sender: str, part: SnapshotPart) -> None:
        core = self.core
        if not self._is_leaders_word(sender, part.term):
            return
        self._heard_leader(part.last_index)
        core.deliver_append(sender, Heartbeat(term=part.term, commit_index=core.commit_index))
        if part.last_index <= core.commit_index:
            # We have that entry, and all before it; our log is worth more than the snapshot.
            self._receiving.abandon()
            self._say_installed(sender, part)
            return
        receipt = self._receiving.take(part)
        if receipt.damage is not None:
            log_event(_log, "snapshot.refused", level=logging.ERROR, why=receipt.damage)
        if receipt.installed is not None:
            self._install(*receipt.installed)
            self._say_installed(sender, part)
        else:
            self._say(sender, receipt.answer)

    def _install(self, info: SnapshotInfo, machine: LeaseMachine) -> None:
        kept = self.core.term_at(info.last_index) == info.last_term
        self.core.install(last_index=info.last_index, last_term=info.last_term)
        self.compaction.installed(info)
        if not kept:
            self.members.replaced(info.configuration)
        self._hooks.installed(machine, info.last_index)
        self.snapshots_installed += 1
        log_event(_log, "snapshot.installed", index=info.last_index, bytes=info.size)

    def _say_installed(self, leader: str, part: SnapshotPart) -> None:
        self._say(
            leader,
            Appended(term=part.term, next_index=part.last_index + 1, success=True, reset=False),
        )

    def _is_leaders_word(self, sender: str, term: int) -> bool:
        """Whether to listen to a leader of this term. Raises ``SafetyViolation``."""
        core = self.core
        if term < core.term:
            # Without this a node that raised its term alone would never be led again.
            self._say(sender, HigherTerm(term=core.term))
            return False
        if term == core.term and core.is_leader:
            raise SafetyViolation(f"{sender} leads term {term}, and so does this node")
        return True

    def _heard_leader(self, commit_index: int) -> bool:
        self.leader_commit_index = commit_index
        return self.campaign.heard_leader()


def _log_written(info: SnapshotInfo) -> None:
    log_event(_log, "snapshot.written", index=info.last_index, bytes=info.size)


class _CoreSide:
    """The node as its core sees it."""

    def __init__(self, node: RaftNode) -> None:
        self._node = node
        self.apply = node._hooks.apply
        self.send = node._outbox.say

    def replicate(self) -> None:
        self._node._feed(heartbeat=True)
