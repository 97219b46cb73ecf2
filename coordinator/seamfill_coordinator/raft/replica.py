"""One node of the cluster: pysyncobj's core, the lease machine, and who may propose.

Owns the turns on the event loop, reigns and their stamps, readiness, digests and fail-stop. Must
not know HTTP, what peers say (``node.py`` does) or pysyncobj's inside (``core.py`` does).

A *reign* is one stay in leadership, within one term. It begins by committing ``Announce``, so that
every member knows where to send requests before this node calls itself ready; its clock starts at
zero; what it launched and did not see applied when it ends is *unknown*, what it only queued is
refused.

Invariants: proposals are appended only while this node leads the term they are stamped with; the
machine is changed by ``_apply`` alone, in log order, on every member; an exception on the way
through the core or the machine ends the process, because half a command must not stay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Concatenate, Final, ParamSpec

from seamfill.clock import Clock, SystemClock
from seamfill.errors import SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.machine.commands import Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Reply
from seamfill_coordinator.raft.aggregator import Aggregator, AggregatorLimits
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.compaction import CompactionLimits
from seamfill_coordinator.raft.journal import SEGMENT_BYTES, open_journal
from seamfill_coordinator.raft.journal_files import Files, OsFiles
from seamfill_coordinator.raft.links import Links
from seamfill_coordinator.raft.membership import Configuration
from seamfill_coordinator.raft.messages import Hello, Message
from seamfill_coordinator.raft.network import Network
from seamfill_coordinator.raft.node import NodeSettings, RaftNode
from seamfill_coordinator.raft.reign import Reign, announcement, announcement_refused
from seamfill_coordinator.raft.snapshot_store import (
    SnapshotInfo,
    SnapshotStore,
    SnapshotUnusable,
)
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import (
    NotLeader,
    PeerStatus,
    ReplicaStatus,
    Role,
    SavedSnapshot,
    SnapshotNotSaved,
)

__all__ = [
    "FATAL_EXIT_CODE",
    "AnnouncementRefused",
    "PysyncobjReplica",
    "ReplicaSettings",
    "end_process",
]

FATAL_EXIT_CODE: Final = 70
"""The process ended itself because going on could make replicas differ."""

_log = logging.getLogger("seamfill.coordinator.raft")
_NODE_RAISED: Final = "the Raft node raised"
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Who this node is and where its cluster lives."""

    cluster_id: str
    node_id: str
    incarnation: str
    """Drawn when the data directory was created."""
    url: str
    """Where clients and other members reach this node's HTTP API; announced when it leads."""
    peer_listen: str
    peers: dict[str, str]
    """node id → host:port of the others; may change between starts."""
    data_dir: Path
    journal_must_exist: bool = False
    """Whether this incarnation had a journal before, so that one that is gone is a loss."""
    timing: RaftTiming = field(default_factory=RaftTiming)
    limits: AggregatorLimits = field(default_factory=AggregatorLimits)
    compaction: CompactionLimits = field(default_factory=CompactionLimits)
    segment_bytes: int = SEGMENT_BYTES


class AnnouncementRefused(SeamfillError):
    """The cluster's own state refuses this node as its leader; the text says why."""

    code: ClassVar[str] = "announcement_refused"


def end_process(what: str, exc: BaseException) -> None:
    """Log why, and end the process at once; there is no state to save."""
    log_event(_log, "replica.fatal", level=logging.CRITICAL, exc=exc, what=what)
    logging.shutdown()
    os._exit(FATAL_EXIT_CODE)


@dataclass(frozen=True, slots=True, eq=False)
class _SnapshotWish:
    """Somebody waits for a snapshot of at least this index."""

    index: int
    saved: asyncio.Future[SavedSnapshot]


class PysyncobjReplica:
    """A member of a Raft cluster; see ``Replica``. Belongs to the loop it was started on."""

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        network: Network,
        files: Files | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_fatal: Callable[[str, BaseException], None] = end_process,
    ) -> None:
        self._settings = settings
        self._network = network
        self._files = files or OsFiles()
        self._applier = Applier(LeaseMachine())
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._on_fatal = on_fatal
        self._leader_known = asyncio.Event()
        self._reign: Reign | None = None
        self._node: RaftNode | None = None
        self._links: Links | None = None
        self._store: SnapshotStore | None = None
        self._wishes: list[_SnapshotWish] = []
        self._timer: asyncio.TimerHandle | None = None
        self._turn_scheduled = False
        self._failed = False
        self._last_launch_ms = 0
        self._caught_up_term = -1
        self._seen_leader: str | None = None
        self._aggregator = Aggregator(
            launch=self._launch,
            stamp=self._stamp,
            machine_version=lambda: self.machine.state.version,
            leader_id=lambda: self._leader_id,
            limits=settings.limits,
        )

    # Life

    async def start(self) -> None:
        """Load snapshot and journal, apply what is known to be committed, and join the cluster.

        Raises ``OSError`` (address in use), ``SnapshotUnusable``, the errors of ``open_journal``,
        ``UnsupportedPysyncobj``.
        """
        settings = self._settings
        directory = settings.data_dir
        store, newest = self._load_snapshot()
        self._store = store
        journal = open_journal(
            directory / "journal",
            cluster_id=settings.cluster_id,
            incarnation=settings.incarnation,
            fatal=self._fail,
            files=self._files,
            snapshot_index=None if newest is None else newest.last_index,
            must_exist=settings.journal_must_exist,
            segment_bytes=settings.segment_bytes,
        )
        self._node = RaftNode(
            NodeSettings(
                cluster_id=settings.cluster_id,
                node_id=settings.node_id,
                incarnation=settings.incarnation,
                peer_ids=tuple(sorted(settings.peers)),
                timing=settings.timing,
                compaction=settings.compaction,
            ),
            journal=journal,
            snapshots=store,
            newest=newest,
            hooks=_NodeSide(self),
            now_ms=self._clock.monotonic_ms,
            draw=self._rng.uniform,
        )
        # Nobody hears this node before it has applied what it knows to be committed, and its own
        # first entry is durable.
        self._applier.quiet_until = self._node.core.commit_index
        self._turn(self._node)
        log_event(
            _log,
            "replica.started",
            node=settings.node_id,
            incarnation=settings.incarnation,
            term=self._node.core.term,
            applied_index=self._node.core.applied_index,
            last_index=self._node.core.last_index,
            torn_groups=journal.torn_groups,
        )
        self._links = Links(
            cluster_id=settings.cluster_id,
            node_id=settings.node_id,
            listen=settings.peer_listen,
            peers=settings.peers,
            network=self._network,
            events=_LinkSide(self),
            timing=settings.timing,
        )
        try:
            await self._links.start()
        except BaseException:
            self._node.close()
            self._node = None
            raise
        self._wake()

    def _load_snapshot(self) -> tuple[SnapshotStore, SnapshotInfo | None]:
        directory = self._settings.data_dir / "snapshots"
        try:
            store = SnapshotStore(directory, self._files, cluster_id=self._settings.cluster_id)
            newest = store.newest()
            if newest is not None:
                self._applier.restart_from(store.load(newest), newest.last_index)
        except OSError as exc:
            # Not an address that is taken, which is what the caller makes of an ``OSError``.
            where = exc.filename or directory
            raise SnapshotUnusable(f"{where}: {exc.strerror or exc}") from exc
        return store, newest

    async def stop(self) -> None:
        """Leave the cluster; proposals in flight become unknown. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        node, self._node = self._node, None
        if node is None:
            return
        self._end_reign()
        for wish in self._wishes:
            if not wish.saved.done():
                wish.saved.set_exception(SnapshotNotSaved("the node is stopping"))
        if self._links is not None:
            await self._links.stop()
        node.close()
        self._leader_known.set()  # who still waits hears that there is none

    # Replica

    @property
    def machine(self) -> LeaseMachine:
        return self._applier.machine

    async def propose(self, request: Request, *, timeout_ms: int) -> Reply:
        reply = await self._aggregator.submit(request, timeout_ms=timeout_ms)
        assert reply is not None
        return reply

    async def barrier(self, *, timeout_ms: int) -> None:
        # Any command that is appended after this call and applied here, in the term in which this
        # node leads, proves that nothing newer was acknowledged elsewhere meanwhile.
        await self._aggregator.submit(None, timeout_ms=timeout_ms)

    async def save_snapshot(self, *, timeout_ms: int) -> SavedSnapshot:
        index = self._running_node.core.applied_index
        if index <= 1:
            raise SnapshotNotSaved("nothing has been applied here yet")
        wish = _SnapshotWish(index, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._wake()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await wish.saved
        except TimeoutError:
            raise SnapshotNotSaved(f"it was not written within {timeout_ms} ms") from None
        finally:
            self._wishes.remove(wish)

    def on_applied(self, listener: Callable[[Applied], None]) -> None:
        """Call ``listener`` after each command that is newer than this node's start."""
        self._applier.add_listener(listener)

    async def wait_for_leader(self, *, timeout_ms: int) -> str | None:
        """Return the id of a leader that can be talked to; of this node only when it is ready."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while (leader_id := self._usable_leader_id()) is None and self._node is not None:
                    # Known at the last turn and gone since: wait for a turn that knows better.
                    self._leader_known.clear()
                    await self._leader_known.wait()
        except TimeoutError:
            return None
        return leader_id

    def change_membership(self, configuration: Configuration) -> int:
        """Append a configuration of members; see ``Members.change``."""
        index = self._running_node.members.change(configuration)
        self._wake()
        return index

    @property
    def configuration(self) -> Configuration | None:
        """The members in force here; None while the cluster is not founded."""
        return self._running_node.members.configuration

    @property
    def committed_configuration(self) -> Configuration | None:
        """The members of the newest committed configuration. One that is in force and not
        committed yet goes with its leader's log, if that is lost: only this one is for good."""
        node = self._running_node
        return node.members.log.at(node.core.commit_index)

    @property
    def is_following(self) -> bool:
        """Whether this node runs, and hears another one that leads."""
        return self._leader_id not in (None, self._settings.node_id)

    def status(self) -> ReplicaStatus:
        node = self._running_node
        core = node.core
        others = [m.node_id for m in node.members.voters if m.node_id != self._settings.node_id]
        return ReplicaStatus(
            node_id=self._settings.node_id,
            cluster_id=self._settings.cluster_id,
            role=self._role,
            term=core.term,
            leader_id=node.leader_id,
            # A leader without a quorum steps down, a follower forgets a leader it does not hear.
            has_quorum=node.leader_id is not None,
            ready=self._is_ready,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            last_index=core.last_index,
            members=len(node.members.voters) or len(self._settings.peers) + 1,
            peers=tuple(
                PeerStatus(
                    node_id=node_id,
                    connected=node_id in node.members.peers,
                    match_index=core.match_index(node_id) if core.is_leader else None,
                )
                for node_id in sorted(others or self._settings.peers)
            ),
            journal_bytes=node.journal_bytes,
            digests=self._applier.digests.points(),
        )

    # Turns

    def _wake(self) -> None:
        """Have a turn as soon as everything that is waiting in the loop has been heard."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        self._turn_scheduled = False
        node = self._node
        if node is None or self._failed:
            return
        began_ms = self._clock.monotonic_ms()
        try:
            now_ms = self._turn(node)
        except Exception as exc:
            self._fail(_NODE_RAISED, exc)
            return
        if now_ms - began_ms > self._settings.timing.slow_turn_ms:
            log_event(_log, "replica.slow_turn", level=logging.WARNING, ms=now_ms - began_ms)
        loop = asyncio.get_running_loop()
        due = loop.time() + max(node.next_turn_ms - now_ms, 0) / 1000
        # One that fires too early does no harm, and deadlines mostly move away.
        if self._timer is None or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(due, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._woken()

    def _turn(self, node: RaftNode) -> int:
        """Let the node have its turn, and see what came of it; return the time of its end."""
        node.turn()
        self._observe(node)
        if self._wishes:
            self._mind_wishes(node)
        now_ms = self._clock.monotonic_ms()
        idle_ms = now_ms - self._last_launch_ms
        if node.core.is_leader and idle_ms >= self._settings.timing.idle_tick_ms:
            self._aggregator.tick()
        return now_ms

    def _mind_wishes(self, node: RaftNode) -> None:
        """Tell who wished for a snapshot that it is there, or have one written."""
        waiting = [wish for wish in self._wishes if not wish.saved.done()]
        if not waiting:
            return
        newest_index = node.compaction.newest_index
        fulfilled = [wish for wish in waiting if wish.index <= newest_index]
        if fulfilled and (info := self._running_store.newest()) is not None:
            saved = SavedSnapshot(
                last_index=info.last_index,
                last_term=info.last_term,
                size=info.size,
                path=info.path,
            )
            for wish in fulfilled:
                wish.saved.set_result(saved)
        if len(fulfilled) < len(waiting) and not node.compaction.is_busy:
            node.compaction.ask()

    def _observe(self, node: RaftNode) -> None:
        """Begin and end reigns, and tell who waits for a leader."""
        core, reign = node.core, self._reign
        if reign is not None and not (core.is_leader and core.term == reign.term):
            log_event(_log, "replica.reign_ended", term=reign.term, leader=node.leader_id)
            self._end_reign()
        if self._reign is None and core.is_leader:
            self._begin_reign(core.term)
        # Once a term: between a message and the turn that applies it every follower is behind.
        if self._caught_up_term != core.term and not core.is_leader and node.has_caught_up:
            self._caught_up_term = core.term
        leader_id = self._usable_leader_id()
        if leader_id != self._seen_leader:
            self._seen_leader = leader_id
            log_event(_log, "replica.leader", leader=leader_id, term=core.term)
        if leader_id is not None and not self._leader_known.is_set():
            self._leader_known.set()

    def _heard(
        self, step: Callable[Concatenate[RaftNode, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Take what a link brought; the next turn, after all that has come, answers it."""
        node = self._node
        if node is None or self._failed:
            return
        try:
            step(node, *args, **kwargs)
        except Exception as exc:
            self._fail(_NODE_RAISED, exc)
        else:
            if node.needs_turn:
                self._wake()

    # Reigns

    def _begin_reign(self, term: int) -> None:
        settings = self._settings
        reign = Reign(term=term, clock=self._clock)
        self._reign = reign
        log_event(_log, "replica.reign_began", term=term)

        def announced(reply: Reply) -> None:
            refused = announcement_refused(reply)
            if refused is not None:
                self._fail("this node can not lead", AnnouncementRefused(refused))
                return
            reign.is_announced = True
            self._wake()

        first = announcement(
            member=settings.node_id, url=settings.url, cluster_id=settings.cluster_id
        )
        self._aggregator.open(first, announced)

    def _end_reign(self) -> None:
        if self._reign is not None:
            self._reign = None
            self._aggregator.close()

    @staticmethod
    def _leads(node: RaftNode, reign: Reign) -> bool:
        return node.core.is_leader and node.core.term == reign.term

    def _stamp(self) -> Stamp:
        # An open aggregator belongs to a reign.
        assert self._reign is not None
        return self._reign.stamp()

    def _launch(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        node, reign = self._node, self._reign
        if node is None or reign is None or not self._leads(node, reign):
            raise NotLeader(self._leader_id)
        self._last_launch_ms = self._clock.monotonic_ms()
        try:
            node.append(command, done)
        except Exception as exc:  # half an append: its outcome is not even unknown, stop
            self._fail("a command could not be appended", exc)
        self._wake()

    # Applying

    def _apply(self, index: int, command: bytes) -> Applied:
        try:
            return self._applier.apply(index, command)
        except BaseException as exc:
            # Also MemoryError: half a command must not stay.
            self._fail(f"index {index} could not be applied", exc)
            raise

    def _fail(self, what: str, exc: BaseException) -> None:
        self._failed = True
        self._on_fatal(what, exc)

    # What it is now

    @property
    def _running_store(self) -> SnapshotStore:
        assert self._store is not None, "the replica is not running"
        return self._store

    @property
    def _running_node(self) -> RaftNode:
        assert self._node is not None, "the replica is not running"
        return self._node

    @property
    def _leader_id(self) -> str | None:
        return self._node.leader_id if self._node is not None else None

    @property
    def _role(self) -> Role:
        core = self._running_node.core
        if core.is_leader:
            return Role.LEADER
        return Role.CANDIDATE if core.is_candidate else Role.FOLLOWER

    @property
    def _is_ready(self) -> bool:
        """A leader: its announcement, hence everything before, is applied here. A follower: it
        hears a leader, and has once in this term applied all that this leader had committed.
        """
        node = self._running_node
        if node.core.is_leader:
            return self._reign is not None and self._reign.is_announced
        return node.leader_id is not None and self._caught_up_term == node.core.term

    def _usable_leader_id(self) -> str | None:
        node = self._node
        if node is None or (node.core.is_leader and not self._is_ready):
            return None
        return node.leader_id


class _NodeSide:
    """The replica as its Raft node sees it."""

    def __init__(self, replica: PysyncobjReplica) -> None:
        self._replica = replica

    def apply(self, index: int, command: bytes) -> Applied:
        return self._replica._apply(index, command)

    def machine(self) -> LeaseMachine:
        return self._replica.machine

    def installed(self, machine: LeaseMachine, last_index: int) -> None:
        self._replica._applier.restart_from(machine, last_index)

    def send(self, node_id: str, message: Message) -> bool:
        links = self._replica._links
        return links is not None and links.send(node_id, message)

    def flush(self) -> None:
        if self._replica._links is not None:
            self._replica._links.flush()


class _LinkSide:
    """The replica as its links see it."""

    def __init__(self, replica: PysyncobjReplica) -> None:
        self._replica = replica

    def hello(self) -> Hello:
        return self._replica._running_node.members.hello

    def connected(self, hello: Hello) -> None:
        self._replica._heard(RaftNode.connected, hello)

    def disconnected(self, node_id: str) -> None:
        self._replica._heard(RaftNode.disconnected, node_id)

    def received(self, node_id: str, message: Message) -> None:
        self._replica._heard(RaftNode.received, node_id, message)
