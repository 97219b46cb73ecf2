"""pysyncobj's Raft core, and every private name of it that we use.

Owns the construction of one ``SyncObj``, which of its methods we replace, and typed access to its
inside. Must not know the lease machine, links or who proposes: entries are bytes.

What remains pysyncobj's: states and terms, casting and counting votes, appending and truncating,
match indexes and the commit rule, the loop that applies. What is replaced: when an election begins
(its own deadline never comes), sending appends, snapshots, transport, poller, journal, clock, and
decoding an entry, which stock unpickles.

Private names are read here and nowhere else. ``check_pysyncobj`` proves at start, and a contract
test one by one, that the pinned version still has them: with a library that keeps its state in
mangled attributes a wrong guess would not fail, it would silently read nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import pysyncobj
from pysyncobj import SyncObjConf
from pysyncobj import syncobj as syncobj_module
from pysyncobj.config import FAIL_REASON
from pysyncobj.node import Node
from pysyncobj.poller import Poller
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.guard import Heartbeat
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import EntryKind, term_at
from seamfill_coordinator.raft.messages import Append, Appended, Message, Vote, VoteRequest
from seamfill_coordinator.raft.timing import RaftTiming

__all__ = [
    "PRIVATE_ATTRIBUTES",
    "PRIVATE_METHODS",
    "PRIVATE_NAMES",
    "Core",
    "CoreHooks",
    "UnsupportedPysyncobj",
    "check_pysyncobj",
]

SUPPORTED_VERSION: Final = "0.3.17"
_NEVER: Final = 10**9
_NO_TERM: Final = -1

PRIVATE_METHODS: Final = (
    "_SyncObj__sendAppendEntries",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__doApplyCommand",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__loadDumpFile",
    "_SyncObj__onMessageReceived",
    "_SyncObj__setState",
    "_SyncObj__setCurrentTerm",
    "_checkCommandsToApply",
)
"""Methods we call or replace; attributes of a built core are in ``PRIVATE_ATTRIBUTES``."""

PRIVATE_NAMES: Final = ("createJournal", "createPoller", "monotonicTime")
"""What we replace in pysyncobj's module."""

PRIVATE_ATTRIBUTES: Final = (
    "_SyncObj__raftLog",
    "_SyncObj__raftState",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLeader",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__lastResponseTime",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__commandsWaitingCommit",
    "_SyncObj__connectedNodes",
    "_SyncObj__otherNodes",
    "_SyncObj__readonlyNodes",
    "_SyncObj__selfNode",
)

_CANDIDATE: Final = 1
_LEADER: Final = 2


class UnsupportedPysyncobj(SeamfillError):
    """The installed pysyncobj is not the one this shell was proved with; install 0.3.17."""

    code = "unsupported_pysyncobj"


def check_pysyncobj() -> None:
    """Raise ``UnsupportedPysyncobj`` unless it is the pinned version with all names in place."""
    if VERSION != SUPPORTED_VERSION:
        raise UnsupportedPysyncobj(f"pysyncobj {VERSION} is installed; {SUPPORTED_VERSION} needed")
    for name in PRIVATE_METHODS:
        if not callable(getattr(pysyncobj.SyncObj, name, None)):
            raise UnsupportedPysyncobj(f"pysyncobj's SyncObj has no {name}")
    for name in PRIVATE_NAMES:
        if not callable(getattr(syncobj_module, name, None)):
            raise UnsupportedPysyncobj(f"pysyncobj.syncobj has no {name}")


class CoreHooks(Protocol):
    """What the core needs done."""

    def apply(self, index: int, command: bytes) -> Applied:
        """Apply the command at ``index``; total: what it raises must end the process."""
        ...

    def send(self, node_id: str, message: Message) -> None: ...

    def replicate(self) -> None:
        """Send every member what it lacks, or a heartbeat; only called on a leader."""
        ...


class Core:
    """One node's Raft core, driven by ``tick``; satisfies the guard's ``CoreView``."""

    def __init__(
        self,
        *,
        node_id: str,
        journal: DurableJournal,
        applied_index: int,
        timing: RaftTiming,
        now_ms: Callable[[], int],
        hooks: CoreHooks,
    ) -> None:
        """Begin as a follower that counts nobody; see ``set_members``.

        ``applied_index``: index of the snapshot that the machine was loaded from, 1 without one.
        Raises ``UnsupportedPysyncobj``.
        """
        check_pysyncobj()
        self._nodes = _Nodes()
        self._me = self._nodes[node_id]
        self._hooks = hooks
        self._journal = journal
        self._heartbeat_s = timing.heartbeat_ms / 1000
        # What is asked for several times a message is kept here instead of looked up.
        self.log: Final = journal.entries
        """The log as it is now; a view that must not be changed."""
        self.is_leader = False
        self.is_candidate = False
        self._now_ms = now_ms
        transport = functools.partial(_Outbox, send=self._send)
        with self._in_its_world(journal):
            # Built with itself as the only member, which no tick ever sees.
            self._core: Any = _Machine(
                self._me, [], conf=_configuration(timing), transportClass=transport
            )
        for name in PRIVATE_ATTRIBUTES:
            if not hasattr(self._core, name):
                raise UnsupportedPysyncobj(f"a pysyncobj core has no {name}")
        self.term: int = self._core._SyncObj__raftCurrentTerm
        self._core.seamfill_apply = self._apply
        self._core.seamfill_replicate = hooks.replicate
        self._core.seamfill_changed = self._changed
        self._core._SyncObj__selfNode = None
        self._core._SyncObj__otherNodes = self._nodes.of(())
        self._core._SyncObj__readonlyNodes = self._nodes.of(())
        self._core._SyncObj__raftElectionDeadline = math.inf
        self._start_at(applied_index)

    # What it is now

    @property
    def is_voter(self) -> bool:
        return self._core._SyncObj__selfNode is not None

    @property
    def commit_index(self) -> int:
        index: int = self._core._SyncObj__raftCommitIndex
        return index

    @property
    def applied_index(self) -> int:
        index: int = self._core._SyncObj__raftLastApplied
        return index

    @property
    def first_index(self) -> int:
        return self.log[0][1]

    @property
    def last_index(self) -> int:
        return self.log[-1][1]

    @property
    def last_term(self) -> int:
        return self.log[-1][2]

    @property
    def applied_term(self) -> int:
        """The term of the last applied entry."""
        term = self.term_at(self.applied_index)
        assert term is not None, "the log keeps the last applied entry"
        return term

    def term_at(self, index: int) -> int | None:
        """Return the term of the entry at ``index``, None when the log does not hold it."""
        return term_at(self.log, index)

    @property
    def heartbeat_due_ms(self) -> int:
        """When a leader's next heartbeat is due: the first ms that is later than the core's."""
        # A sum of seconds may lie a hair below its ms: cut off as it is, the due time would be the
        # present one, at which the core does nothing, and turns would follow each other for a ms.
        return int(self._core._SyncObj__newAppendEntriesTime * 1000 + 0.001) + 1

    @property
    def leader_id(self) -> str | None:
        """The last known leader of this term, heard or not."""
        leader: _Node | None = self._core._SyncObj__raftLeader
        return None if leader is None else leader.id

    # Members

    def set_members(
        self, *, voters: Iterable[str], learners: Iterable[str], is_voter: bool
    ) -> None:
        """Count these others from now on; ``is_voter`` says whether this node itself counts.

        A member that was there before keeps its indexes; see ``forget_member``.
        """
        core = self._core
        core._SyncObj__selfNode = self._me if is_voter else None
        before = core._SyncObj__otherNodes | core._SyncObj__readonlyNodes
        core._SyncObj__otherNodes = self._nodes.of(voters)
        core._SyncObj__readonlyNodes = self._nodes.of(learners)
        members = core._SyncObj__otherNodes | core._SyncObj__readonlyNodes
        for node in before.keys() - members.keys():
            core._SyncObj__raftNextIndex.pop(node, None)
            core._SyncObj__raftMatchIndex.pop(node, None)
            core._SyncObj__lastResponseTime.pop(node, None)
        for node in members:
            if node in before:
                continue
            core._SyncObj__raftNextIndex[node] = self.last_index + 1
            core._SyncObj__raftMatchIndex[node] = 0
            core._SyncObj__lastResponseTime[node] = self._now_ms() / 1000

    def forget_member(self, node_id: str) -> None:
        """Drop the member and what is known of it: its id will mean another incarnation."""
        node, core = self._nodes[node_id], self._core
        for known in (
            core._SyncObj__otherNodes,
            core._SyncObj__readonlyNodes,
            core._SyncObj__raftNextIndex,
            core._SyncObj__raftMatchIndex,
            core._SyncObj__lastResponseTime,
        ):
            known.pop(node, None)

    def set_connected(self, node_ids: Iterable[str]) -> None:
        """Say which members can be talked to now."""
        self._core._SyncObj__connectedNodes = self._nodes.of(node_ids)

    # A leader's knowledge of the others

    def match_index(self, node_id: str) -> int:
        """Index up to which the member is known to have our log; 0 when nothing is known."""
        return int(self._core._SyncObj__raftMatchIndex.get(self._nodes[node_id], 0))

    def next_index(self, node_id: str) -> int:
        """Index of the next entry to send to the member."""
        known: int | None = self._core._SyncObj__raftNextIndex.get(self._nodes[node_id])
        return self.last_index + 1 if known is None else known

    def set_next_index(self, node_id: str, index: int) -> None:
        self._core._SyncObj__raftNextIndex[self._nodes[node_id]] = index

    # What it does

    def tick(self) -> None:
        """Count acknowledgements, commit, apply; heartbeat when it is due."""
        self._enter()
        self._core.doTick(0.0)

    def campaign(self) -> None:
        """Call an election in the next term, now; only for a voter."""
        assert self.is_voter
        self._core._SyncObj__raftElectionDeadline = -math.inf
        self.tick()
        self._core._SyncObj__raftElectionDeadline = math.inf

    def put_off_heartbeat(self) -> None:
        """Have the next heartbeat a whole period from now."""
        now_s = self._now_ms() / 1000
        self._core._SyncObj__newAppendEntriesTime = now_s + self._heartbeat_s

    def append(self, entry: bytes, done: Callable[[Applied | None], None] | None = None) -> int:
        """Append an entry to our log and return its index. Only for a leader.

        ``done`` is called when it was applied here, with None when another entry took its place;
        it may also never be called. pysyncobj's own way in is a queue whose commands are forwarded
        when leadership is lost meanwhile.
        """
        assert self.is_leader
        index, term = self.last_index + 1, self.term
        self._journal.add(entry, index, term)
        if done is not None:

            def land(result: Applied | None, reason: int) -> None:
                done(result if reason == FAIL_REASON.SUCCESS else None)

            self._core._SyncObj__commandsWaitingCommit[index].append((term, land))
        return index

    def deliver_append(self, sender: str, message: Append | Heartbeat) -> None:
        """Hand a leader's word to the core, as the guard let it through.

        A heartbeat that tells the core nothing, as most of them do, is answered in its place.
        """
        if isinstance(message, Append) and self._knows(sender, message):
            answer = Appended(
                term=self.term, next_index=message.previous_index + 1, success=True, reset=False
            )
            self._hooks.send(sender, answer)
            return
        plain: dict[str, Any] = {
            "type": "append_entries",
            "term": message.term,
            "commit_index": message.commit_index,
        }
        if isinstance(message, Append):
            plain["prevLogIdx"] = message.previous_index
            plain["prevLogTerm"] = message.previous_term
            plain["entries"] = message.entries
        self._deliver(sender, plain)

    def _knows(self, sender: str, message: Append) -> bool:
        """Whether it has no entries, takes none away, commits nothing, and is its leader's."""
        return (
            not message.entries
            and message.previous_index == self.last_index
            and message.term == self.term
            and message.commit_index <= self._core._SyncObj__raftCommitIndex
            and self._core._SyncObj__raftLeader is self._nodes[sender]
        )

    def deliver_vote_request(self, sender: str, message: VoteRequest) -> None:
        """Let the core grant its vote, or not, whether or not it is a voter itself."""
        core = self._core
        counted_as = core._SyncObj__selfNode
        # The core hears no vote request without it. Whether its vote counts is for the candidate.
        core._SyncObj__selfNode = self._me
        self._deliver(
            sender,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )
        core._SyncObj__selfNode = counted_as

    def deliver_vote(self, sender: str, message: Vote) -> None:
        self._deliver(sender, {"type": "response_vote", "term": message.term})

    def deliver_appended(self, sender: str, message: Appended) -> None:
        if message.success and message.next_index <= self.match_index(sender) + 1:
            self.heard(sender)
            return
        sent_up_to = self.next_index(sender)
        self._deliver(
            sender,
            {
                "type": "next_node_idx",
                "next_node_idx": message.next_index,
                "reset": message.reset,
                "success": message.success,
            },
        )
        if message.success:
            # The core would go back to what was acknowledged and send again what is under way.
            self.set_next_index(sender, max(sent_up_to, message.next_index))

    def heard(self, sender: str) -> None:
        """Note that a member is there, for a leader that asks whether a majority is."""
        self._core._SyncObj__lastResponseTime[self._nodes[sender]] = self._now_ms() / 1000

    def observe_term(self, sender: str, term: int) -> None:
        """Step down into a higher term that somebody knows.

        The core learns terms from messages only: it gets a vote request it can not grant.
        """
        self.deliver_vote_request(sender, VoteRequest(term=term, last_index=0, last_term=_NO_TERM))

    def install(self, *, last_index: int, last_term: int) -> None:
        """Go on from a snapshot that the machine was just loaded from."""
        self._journal.begin_at(last_index, last_term)
        self._core._SyncObj__commandsWaitingCommit.clear()
        self._start_at(last_index)

    def trim(self, index: int) -> None:
        """Forget the entries before ``index``, which a durable snapshot contains."""
        self._journal.deleteEntriesTo(index - self.first_index)

    def _start_at(self, applied_index: int) -> None:
        core = self._core
        core._SyncObj__raftLastApplied = applied_index
        commit = max(core._SyncObj__raftCommitIndex, applied_index)
        core._SyncObj__raftCommitIndex = min(commit, self.last_index)
        self._journal.setRaftCommitIndex(core._SyncObj__raftCommitIndex)

    def _deliver(self, sender: str, plain: dict[str, Any]) -> None:
        self._enter()
        self._core._SyncObj__onMessageReceived(self._nodes[sender], plain)

    def _send(self, node_id: str, plain: dict[str, Any]) -> None:
        match plain["type"]:
            case "request_vote":
                message: Message = VoteRequest(
                    term=plain["term"],
                    last_index=plain["last_log_index"],
                    last_term=plain["last_log_term"],
                )
            case "response_vote":
                message = Vote(term=plain["term"])
            case "next_node_idx":
                message = Appended(
                    term=self.term,
                    next_index=plain["next_node_idx"],
                    success=plain["success"],
                    reset=plain["reset"],
                )
            case other:
                raise AssertionError(f"the core sends {other}, which is replaced")
        self._hooks.send(node_id, message)

    def _apply(self, command: bytes) -> Applied:
        return self._hooks.apply(self.applied_index + 1, command)

    def _changed(self, state: int, term: int) -> None:
        self.is_leader = state == _LEADER
        self.is_candidate = state == _CANDIDATE
        self.term = term

    def _enter(self) -> None:
        # pysyncobj reads one global clock; several cores with clocks of their own may share a
        # process, in tests and in the simulator.
        # One time for all that is done in one go: it is asked for five times a tick.
        syncobj_module.monotonicTime = (self._now_ms() / 1000).__float__

    @contextmanager
    def _in_its_world(self, journal: DurableJournal) -> Iterator[None]:
        """Let a core that is built now find our journal and no poller."""
        # pysyncobj has no arguments for these; it calls the functions while it is built.
        create_journal, create_poller = syncobj_module.createJournal, syncobj_module.createPoller
        syncobj_module.createJournal = lambda _path: journal
        syncobj_module.createPoller = lambda _kind: _NoPoller()
        self._enter()
        try:
            yield
        finally:
            syncobj_module.createJournal = create_journal
            syncobj_module.createPoller = create_poller


class _Node(Node):  # type: ignore[misc]  # pysyncobj carries no types
    """A member; there is one object per id, so that the core finds it without comparing names."""

    id: str = ""
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        object.__setattr__(self, "id", node_id)  # a property there, which nobody may set


class _Nodes(dict[str, _Node]):
    """The one object of each id."""

    def __missing__(self, node_id: str) -> _Node:
        node = self[node_id] = _Node(node_id)
        return node

    def of(self, node_ids: Iterable[str]) -> dict[_Node, None]:
        """Return them as a set that keeps its order: the core walks through its members, and must
        do so in the same order in every process."""
        return dict.fromkeys(self[node_id] for node_id in node_ids)


class _Machine(pysyncobj.SyncObj):  # type: ignore[misc]  # pysyncobj carries no types
    """The core with what we replace replaced; mangled names override the library's private ones."""

    _SyncObj__raftState: int
    seamfill_apply: Callable[[bytes], Applied]
    seamfill_replicate: Callable[[], None]
    seamfill_changed: Callable[[int, int], None]

    def _SyncObj__setState(self, newState: int) -> None:  # noqa: N802, N803
        # Called for every append, mostly with the state that it has.
        if newState != self._SyncObj__raftState:
            self._SyncObj__raftState = newState
            self.seamfill_changed(newState, self._SyncObj__raftCurrentTerm)

    def _SyncObj__setCurrentTerm(  # noqa: N802
        self,
        term: int,
        votedForNodeId: str | None,  # noqa: N803
    ) -> None:
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)
        self.seamfill_changed(self._SyncObj__raftState, term)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        # Stock sends unbounded batches, pickles commands that are larger, and busies itself for a
        # whole period while a snapshot is written.
        self.seamfill_replicate()

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        return math.inf

    def _SyncObj__doApplyCommand(self, entry: bytes) -> Applied | None:  # noqa: N802
        # An exception here would make the core apply the entry again, on every tick, for ever.
        if entry[0] != EntryKind.COMMAND:
            return None
        return self.seamfill_apply(entry[1:])

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        pass

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        # Nothing is ever put into the library's queue; looking costs a tenth of a tick.
        pass

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803
        raise AssertionError("snapshots are loaded by the node")


class _Outbox(Transport):  # type: ignore[misc]  # pysyncobj carries no types
    """Takes what the core wants sent."""

    def __init__(
        self, core: Any, me: Any, others: Any, *, send: Callable[[str, dict[str, Any]], None]
    ) -> None:
        super().__init__(core, me, others)
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        self._send(node.id, message)
        return True


class _NoPoller(Poller):  # type: ignore[misc]  # pysyncobj carries no types
    """The core has no descriptors."""

    def subscribe(self, descr: int, callback: Any, eventMask: int) -> None:  # noqa: N803
        raise AssertionError("the core has no descriptors")

    def unsubscribe(self, descr: int) -> None:
        raise AssertionError("the core has no descriptors")

    def poll(self, timeout: float) -> None:
        """Return at once."""


def _configuration(timing: RaftTiming) -> SyncObjConf:
    heartbeat_s = timing.heartbeat_ms / 1000
    return SyncObjConf(
        autoTick=False,
        useFork=False,
        commandsWaitLeader=False,
        # Otherwise every applied entry asks for appends, also without anything to say.
        appendEntriesUseBatch=True,
        appendEntriesPeriod=heartbeat_s,
        leaderFallbackTimeout=timing.leader_fallback_ms / 1000,
        # Elections, connections and compaction are ours; these only have to pass its validation.
        raftMinTimeout=heartbeat_s * 4,
        raftMaxTimeout=heartbeat_s * 5,
        connectionTimeout=heartbeat_s * 5,
        dynamicMembershipChange=False,
        logCompactionMinEntries=_NEVER,
        logCompactionMinTime=_NEVER,
    )
