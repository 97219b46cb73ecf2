"""One member's Raft node: pysyncobj's core inside the rules that make it safe.

Owns what a message does, when the journal is synced, the founding of the cluster, the configuration
in force, and the parts around the core: guard, elections, feeding, shipping, compaction. Must not
know asyncio, sockets or clients: time is handed in, messages go out through ``NodeHooks``.

A turn: what was heard and appended since the last one is made durable, and everything that was said
is sent, in this order, except that a leader's appends may leave before its own disk has them: they
promise nothing (Ongaro's thesis, 10.2.1), and its own copy is counted only after. Then the core
counts, commits and applies; an election is called if it is time; a slice of a snapshot is written;
and what came of that is made durable and sent in the same way.

Invariants:

* no acknowledgement, vote or vote request leaves before the journal is synced;
* answers are counted once, in the term they were meant for, from voters of the configuration in
  force by id *and* incarnation;
* a node that no configuration names neither votes nor campaigns: it listens;
* what can not be right (a second leader in a term, an overwritten commit) raises, and the shell
  ends the process: the log is evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from seamfill.logs import log_event
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.compaction import Compaction, CompactionLimits
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.elections import Elections
from seamfill_coordinator.raft.feeding import Feeder
from seamfill_coordinator.raft.guard import Guard, Heartbeat, SafetyViolation
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import EntryKind
from seamfill_coordinator.raft.membership import (
    Configuration,
    ConfigurationLog,
    Member,
    membership_entry,
)
from seamfill_coordinator.raft.messages import (
    PROTOCOL_VERSION,
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
from seamfill_coordinator.raft.shipping import Receiving, Shipping
from seamfill_coordinator.raft.snapshot_store import SnapshotInfo, SnapshotStore
from seamfill_coordinator.raft.timing import RaftTiming

__all__ = ["MembershipRefused", "NodeHooks", "NodeSettings", "RaftNode"]

_log = logging.getLogger("seamfill.coordinator.raft")
_IDLE_MS: Final = 1_000


class MembershipRefused(Exception):
    """The configuration can not be changed so, or not now; nothing was done."""


class NodeHooks(Protocol):
    """What a node needs of its surroundings."""

    def apply(self, index: int, command: bytes) -> Applied: ...

    def machine(self) -> LeaseMachine:
        """Return the machine, as the last applied entry left it."""
        ...

    def installed(self, machine: LeaseMachine, last_index: int) -> None:
        """Take a machine that a leader's snapshot was loaded into, instead of the present one."""
        ...

    def send(self, node_id: str, message: Message) -> bool: ...

    def flush(self) -> None:
        """Let what was sent leave now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Who this node is, and with whom it was told to be."""

    cluster_id: str
    node_id: str
    incarnation: str
    peer_ids: tuple[str, ...]
    """The others that founded, or are to found, the cluster."""
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
        self._peers: dict[str, Hello] = {}
        self._outbox: list[tuple[str, Message]] = []
        self._synced_term = journal.getCurrentTerm()
        self._votes: set[str] = set()
        self._votes_term = 0
        self._fed_index = 0
        self._reign_term: int | None = None
        self.leader_commit_index: int | None = None
        """What a leader last said to be committed, before it is cut to what is verified here."""
        self.snapshots_installed = 0
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
        self._elections = Elections(settings.timing, now_ms=now_ms(), draw=draw)
        self._feeder = Feeder(self.core, send=self._say, ship=self._ship)
        self._shipping = Shipping(snapshots, send=self._say)
        self._receiving = Receiving(snapshots)
        self.compaction = Compaction(
            snapshots,
            settings.compaction,
            newest_index=0 if newest is None else newest.last_index,
            journal_bytes=lambda: journal.bytes_written,
            on_written=lambda info: log_event(
                _log, "snapshot.written", index=info.last_index, bytes=info.size
            ),
        )
        self._configurations = ConfigurationLog(None if newest is None else newest.configuration)
        self._configurations.appended(journal.entries)
        self._apply_configuration(None)
        if not settings.peer_ids:
            self._found_if_possible()

    # What it is now

    @property
    def configuration(self) -> Configuration | None:
        """In force here; None while the cluster is not founded, or this node not part of it."""
        return self._configurations.in_force

    @property
    def hello(self) -> Hello:
        """What this node says of itself on a new connection."""
        settings = self._settings
        return Hello(
            protocol=PROTOCOL_VERSION,
            cluster_id=settings.cluster_id,
            node_id=settings.node_id,
            incarnation=settings.incarnation,
            configuration=self.configuration,
            peer_ids=tuple(sorted((settings.node_id, *settings.peer_ids))),
        )

    @property
    def leader_id(self) -> str | None:
        """The leader that this node hears now; itself while it leads."""
        leader = self.core.leader_id
        if leader is None or leader == self._settings.node_id:
            return self._settings.node_id if self.core.is_leader else None
        heard = self._elections.is_following(self._now_ms())
        return leader if heard and leader in self._peers else None

    @property
    def has_caught_up(self) -> bool:
        """Whether all that a leader of this term said to be committed is applied here."""
        said = self.leader_commit_index
        behind = said is None or self.core.applied_index < said
        return not behind and self.core.applied_term == self.core.term

    @property
    def peers(self) -> Mapping[str, Hello]:
        """The nodes that a connection stands to."""
        return self._peers

    @property
    def voters(self) -> tuple[Member, ...]:
        return () if self.configuration is None else self.configuration.voters

    @property
    def next_turn_ms(self) -> int:
        """When the node should have its next turn, if nothing happens before."""
        now_ms = self._now_ms()
        if self.compaction.is_busy:
            return now_ms
        if self.core.is_leader:
            return self.core.heartbeat_due_ms
        if self.core.is_voter:
            return min(self._elections.deadline_ms, now_ms + _IDLE_MS)
        return now_ms + _IDLE_MS

    # What happens to it

    def turn(self) -> None:
        """Do what is due, make it durable, send it; see the module."""
        core = self.core
        # What was heard and appended since the last turn first: others wait for it, while applying
        # a large command takes a while. It also makes durable what the tick then counts as ours.
        self._feed_what_is_new()
        self._flush()
        core.tick()
        self._mind_reign()
        if not core.is_leader:
            self._mind_election()
        if self.compaction.step(self._hooks.machine(), core, self._configurations):
            self.compaction.trim(
                core, self._configurations, shipped_index=self._shipping.oldest_index
            )
        self._feed_what_is_new()
        self._flush()

    def connected(self, hello: Hello) -> None:
        """Note a new connection; an older one of this node has gone with what was on its way."""
        if hello.node_id in self._peers:
            self._forget_connection(hello.node_id)
        self._peers[hello.node_id] = hello
        self._tell_core_who_is_connected()
        if hello.configuration is not None:
            self._adopt(hello.configuration)
        self._found_if_possible()

    def disconnected(self, node_id: str) -> None:
        """Note that the connection has gone."""
        if self._peers.pop(node_id, None) is None:
            return
        self._forget_connection(node_id)
        self._tell_core_who_is_connected()
        core = self.core
        if not core.is_leader and core.leader_id == node_id and core.is_voter:
            me = self._settings.node_id
            followers = sorted(m.node_id for m in self.voters if m.node_id != node_id)
            if me in followers:
                self._elections.lost_leader(
                    self._now_ms(), place=followers.index(me), followers=len(followers)
                )

    def received(self, sender: str, message: Message) -> None:
        """Take one message of a peer. Raises ``SafetyViolation``."""
        match message:
            case Append():
                self._take_append(sender, message)
            case Appended():
                self._take_appended(sender, message)
            case VoteRequest():
                self._take_vote_request(sender, message)
            case Vote():
                self._take_vote(sender, message)
            case PreVoteRequest():
                self._take_pre_vote_request(sender, message)
            case PreVoteReply():
                if message.granted and self._is_voter(sender):
                    self._elections.count(sender, message.term)
                    self._campaign_if_elected()
            case HigherTerm():
                if message.term > self.core.term:
                    self.core.observe_term(sender, message.term)
            case SnapshotPart():
                self._take_part(sender, message)
            case SnapshotTaken():
                if message.term == self.core.term and self.core.is_leader:
                    self._shipping.taken(sender, message, message.term)
            case Founded():
                self._adopt(message.configuration)
            case Hello():
                raise AssertionError("links keep greetings to themselves")
            case _:
                assert_never(message)

    def append(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        """Append a command to the log; it leaves with the next turn. Only for a leader."""
        self.core.append(bytes([EntryKind.COMMAND]) + command, done)

    def change_membership(self, configuration: Configuration) -> int:
        """Append a configuration, which is in force at once; return its index.

        Only for a leader that has committed in its term; at most one voter may come or go, and the
        change before must be committed (Ongaro's thesis, 4.1). Raises ``MembershipRefused``.
        """
        present, core = self.configuration, self.core
        assert present is not None
        if not core.is_leader:
            raise MembershipRefused("this node does not lead")
        if core.log[core.commit_index - core.first_index][2] != core.term:
            raise MembershipRefused("nothing of this term is committed yet")
        if self._configurations.newest_index > core.commit_index:
            raise MembershipRefused("the change before is not committed yet")
        if len(set(present.voters) ^ set(configuration.voters)) > 1:
            raise MembershipRefused("more than one voter would change at once")
        me = Member(self._settings.node_id, self._settings.incarnation)
        if me not in configuration.voters:
            raise MembershipRefused("a leader can not remove itself; transfer the leadership")
        ids = [m.node_id for m in (*configuration.voters, *configuration.learners)]
        if len(ids) != len(set(ids)):
            raise MembershipRefused("a node id may be named once")
        entry = membership_entry(configuration)
        index = core.append(entry)
        self._configurations.appended([(entry, index, core.term)])
        self._apply_configuration(present)
        return index

    def close(self) -> None:
        """Let go of files; what was not sent is not."""
        self._shipping.stop_all()
        self._receiving.abandon()
        self.compaction.abandon()
        self._journal.close()

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
        self._feeder.feed(self._connected_members(), heartbeat=heartbeat)

    def _feed_what_is_new(self) -> None:
        if self.core.is_leader and self.core.last_index > self._fed_index:
            self._feed(heartbeat=False)

    def _ship(self, node_id: str) -> None:
        self._shipping.go_on(node_id, self.core.term)

    def _take_appended(self, sender: str, message: Appended) -> None:
        # An acknowledgement that was meant for an earlier reign proves nothing in this one.
        core = self.core
        if not core.is_leader or message.term != core.term or not self._is_member(sender):
            return
        core.deliver_appended(sender, message)
        self._feeder.acknowledged(sender, message)
        if message.success and message.next_index > core.first_index:
            self._shipping.stop(sender)
        if core.next_index(sender) <= core.last_index:
            self._feeder.feed((sender,), heartbeat=False)

    # Following

    def _take_append(self, sender: str, message: Append) -> None:
        core = self.core
        if not self._is_leaders_word(sender, message.term):
            return
        verdict = self._guard.judge(message)
        if verdict.malformed:
            log_event(_log, "replica.append_malformed", level=logging.WARNING, peer=sender)
            return
        self._heard_leader(message.term, message.commit_index)
        match verdict.deliver:
            case Append() as append:
                self._deliver_append(sender, append)
            case Heartbeat() as heartbeat:
                core.deliver_append(sender, heartbeat)
            case None:
                pass
        if verdict.answer is not None:
            self._say(sender, verdict.answer)

    def _deliver_append(self, sender: str, append: Append) -> None:
        before = self.configuration
        changed = False
        if append.previous_index < self.core.last_index:
            changed = self._configurations.truncated(append.previous_index + 1)
        self.core.deliver_append(sender, append)
        if self._configurations.appended(append.entries) or changed:
            self._apply_configuration(before)

    def _take_part(self, sender: str, part: SnapshotPart) -> None:
        core = self.core
        if not self._is_leaders_word(sender, part.term):
            return
        self._heard_leader(part.term, part.last_index)
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
        before = self.configuration
        kept = self._holds(info.last_index, info.last_term)
        self.core.install(last_index=info.last_index, last_term=info.last_term)
        self.compaction.installed(info)
        if not kept:
            self._configurations.replaced(info.configuration)
            self._apply_configuration(before)
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

    def _heard_leader(self, term: int, commit_index: int) -> None:
        self._elections.heard_leader(self._now_ms())
        self.leader_commit_index = commit_index

    def _holds(self, index: int, term: int) -> bool:
        core = self.core
        return (
            core.first_index <= index <= core.last_index
            and core.log[index - core.first_index][2] == term
        )

    # Elections

    def _mind_election(self) -> None:
        core, now_ms = self.core, self._now_ms()
        if not core.is_voter or not self._elections.is_due(now_ms):
            return
        term = core.term + 1
        self._elections.ask(now_ms, term=term, me=self._settings.node_id)
        request = PreVoteRequest(term=term, last_index=core.last_index, last_term=core.last_term)
        for node_id in self._connected_members():
            if self._is_voter(node_id):
                self._say(node_id, request)
        self._campaign_if_elected()

    def _campaign_if_elected(self) -> None:
        core = self.core
        term = core.term + 1
        voters = [member.node_id for member in self.voters]
        if core.is_leader or not core.is_voter or not self._elections.has_majority(voters, term):
            return
        self._elections.campaigned()
        core.campaign()
        assert core.term == term

    def _take_pre_vote_request(self, sender: str, request: PreVoteRequest) -> None:
        core = self.core
        if request.term <= core.term:
            self._say(sender, HigherTerm(term=core.term))
            return
        up_to_date = (request.last_term, request.last_index) >= (core.last_term, core.last_index)
        granted = core.is_voter and up_to_date and not self._has_leader
        self._say(sender, PreVoteReply(term=request.term, granted=granted))

    def _take_vote_request(self, sender: str, request: VoteRequest) -> None:
        core = self.core
        if request.term < core.term:
            self._say(sender, HigherTerm(term=core.term))
            return
        if request.term > core.term and self._has_leader:
            # A leader that is heard keeps its term; a candidate that can do without us is elected
            # without us, and its appends bring its term.
            return
        before = (core.term, self._journal.getVotedForNodeId())
        core.deliver_vote_request(sender, request)
        if (core.term, self._journal.getVotedForNodeId()) != before:
            self._elections.voted(self._now_ms())

    def _take_vote(self, sender: str, vote: Vote) -> None:
        core = self.core
        if not core.is_candidate or vote.term != core.term or not self._is_voter(sender):
            return
        if self._votes_term != vote.term:
            self._votes_term, self._votes = vote.term, set()
        if sender in self._votes:
            return  # the core would count it again
        self._votes.add(sender)
        core.deliver_vote(sender, vote)

    @property
    def _has_leader(self) -> bool:
        return self.core.is_leader or self._elections.hears_leader(self._now_ms())

    # Members

    def _is_voter(self, node_id: str) -> bool:
        configuration, hello = self.configuration, self._peers.get(node_id)
        return (
            configuration is not None
            and hello is not None
            and configuration.is_voter(node_id, hello.incarnation)
        )

    def _is_member(self, node_id: str) -> bool:
        configuration, hello = self.configuration, self._peers.get(node_id)
        return (
            configuration is not None
            and hello is not None
            and configuration.is_member(node_id, hello.incarnation)
        )

    def _connected_members(self) -> list[str]:
        return [node_id for node_id in sorted(self._peers) if self._is_member(node_id)]

    def _tell_core_who_is_connected(self) -> None:
        self.core.set_connected(self._connected_members())

    def _forget_connection(self, node_id: str) -> None:
        self._shipping.stop(node_id)
        if self.core.is_leader:
            self._feeder.lost(node_id)

    def _apply_configuration(self, before: Configuration | None) -> None:
        """Put the configuration in force here, replacing ``before``."""
        configuration, settings = self.configuration, self._settings
        if configuration is None:
            return
        me = Member(settings.node_id, settings.incarnation)
        old = set() if before is None else {*before.voters, *before.learners}
        members = {*configuration.voters, *configuration.learners}
        # A node id that now means another incarnation must not inherit what is known of the old.
        reborn = {m.node_id for m in members - old} & {m.node_id for m in old - members}
        for node_id in reborn:
            self.core.forget_member(node_id)
            self._forget_connection(node_id)
        self.core.set_members(
            voters=_ids(configuration.voters, without=me.node_id),
            learners=_ids(configuration.learners, without=me.node_id),
            is_voter=me in configuration.voters,
        )
        self._tell_core_who_is_connected()
        log_event(
            _log,
            "replica.members",
            voters=_ids(configuration.voters),
            learners=_ids(configuration.learners),
            is_voter=me in configuration.voters,
        )

    def _adopt(self, configuration: Configuration) -> None:
        """Begin with the members that others know, if this very life is one of them."""
        settings = self._settings
        if self.configuration is not None:
            return
        if not configuration.is_voter(settings.node_id, settings.incarnation):
            log_event(
                _log,
                "replica.not_a_member",
                level=logging.WARNING,
                node=settings.node_id,
                incarnation=settings.incarnation,
            )
            return
        self._begin_with(configuration)

    def _found_if_possible(self) -> None:
        """Found the cluster, if it falls to this node and nothing of a cluster exists yet.

        Once, by the member with the smallest id, when it sees all the others at the same time and
        each says that it knows of no cluster. They learn of one from the founder only, so that what
        they said can not be out of date. A node that lost its disk finds others that do know, and
        waits to be taken in.
        """
        settings = self._settings
        everyone = self.hello.peer_ids
        if (
            self.configuration is not None
            or not self._is_untouched
            or settings.node_id != everyone[0]
            or set(self._peers) != set(settings.peer_ids)
            or any(h.configuration is not None for h in self._peers.values())
        ):
            return
        if any(hello.peer_ids != everyone for hello in self._peers.values()):
            log_event(
                _log,
                "replica.peers_differ",
                level=logging.ERROR,
                mine=everyone,
                theirs={name: hello.peer_ids for name, hello in self._peers.items()},
            )
            return
        members = [Member(settings.node_id, settings.incarnation)]
        members += [Member(name, hello.incarnation) for name, hello in self._peers.items()]
        configuration = Configuration(voters=tuple(sorted(members)))
        log_event(_log, "replica.founded", voters=_ids(configuration.voters))
        self._begin_with(configuration)

    @property
    def _is_untouched(self) -> bool:
        """Whether this log has nothing but the empty entry that every new log begins with."""
        return self.core.last_index == 1 and self.core.term == 0

    def _begin_with(self, configuration: Configuration) -> None:
        """Put the first configuration this node knows in force, and tell the others."""
        journal = self._journal
        if self.core.first_index == 1:
            # The log's first entry is never sent. It may have later ones already: a leader was
            # quicker than the founder's word.
            log = [(membership_entry(configuration), 1, 0), *journal.entries[1:]]
            journal.clear()
            for entry in log:
                journal.add(*entry)
        self._configurations.replaced(configuration)
        self._apply_configuration(None)
        for node_id in self._peers:
            self._say(node_id, Founded(configuration=configuration))

    # Sending

    def _say(self, node_id: str, message: Message) -> None:
        self._outbox.append((node_id, message))

    def _flush(self) -> None:
        journal, outbox = self._journal, self._outbox
        promises = any(type(message) not in _PROMISE_NOTHING for _, message in outbox)
        if promises or self._synced_term != self.core.term:
            self._sync()
        if outbox:
            self._outbox = []
            for node_id, message in outbox:
                self._hooks.send(node_id, message)
            self._hooks.flush()
        if journal.needs_sync:
            self._sync()

    def _sync(self) -> None:
        self._journal.sync()
        self._synced_term = self.core.term


_PROMISE_NOTHING: Final = (Append, SnapshotPart, PreVoteRequest, PreVoteReply, HigherTerm)
"""What may leave before the journal is synced."""


def _ids(members: tuple[Member, ...], without: str = "") -> list[str]:
    return [member.node_id for member in members if member.node_id != without]


class _CoreSide:
    """The node as its core sees it."""

    def __init__(self, node: RaftNode) -> None:
        self._node = node

    def apply(self, index: int, command: bytes) -> Applied:
        return self._node._hooks.apply(index, command)

    def send(self, node_id: str, message: Message) -> None:
        self._node._say(node_id, message)

    def replicate(self) -> None:
        self._node._feed(heartbeat=True)
