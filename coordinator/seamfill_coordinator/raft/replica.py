"""One node of the cluster: pysyncobj's core, the lease machine, and who may propose.

Owns the turn of the loop, reigns and their stamps, readiness, digests and fail-stop. Must not know
HTTP, or pysyncobj's inside (``core.py`` does).

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
from typing import ClassVar, Final

from seamfill.clock import Clock, SystemClock
from seamfill.errors import SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.machine.commands import Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Reply
from seamfill_coordinator.raft.aggregator import Aggregator, AggregatorLimits
from seamfill_coordinator.raft.applying import Applier
from seamfill_coordinator.raft.core import Core, CoreSettings
from seamfill_coordinator.raft.poller import LoopPoller
from seamfill_coordinator.raft.reign import Reign, announcement, announcement_refused
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import NotLeader, PeerStatus, ReplicaStatus, Role

__all__ = [
    "FATAL_EXIT_CODE",
    "AnnouncementRefused",
    "PysyncobjReplica",
    "ReplicaSettings",
    "end_process",
]

FATAL_EXIT_CODE: Final = 70
"""The process ended itself because going on could make replicas differ."""

_SETTLING_MS: Final = 2_000
_log = logging.getLogger("seamfill.coordinator.raft")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Who this node is and where its cluster lives."""

    cluster_id: str
    node_id: str
    url: str
    """Where clients and other members reach this node's HTTP API; announced when it leads."""
    peer_listen: str
    peers: dict[str, str]
    """node id → host:port of the others; may change between starts."""
    data_dir: Path
    timing: RaftTiming = field(default_factory=RaftTiming)
    limits: AggregatorLimits = field(default_factory=AggregatorLimits)


class AnnouncementRefused(SeamfillError):
    """The cluster's own state refuses this node as its leader; the text says why."""

    code: ClassVar[str] = "announcement_refused"


def end_process(what: str, exc: BaseException) -> None:
    """Log why, and end the process at once; there is no state to save."""
    log_event(_log, "replica.fatal", level=logging.CRITICAL, exc=exc, what=what)
    logging.shutdown()
    os._exit(FATAL_EXIT_CODE)


class PysyncobjReplica:
    """A member of a Raft cluster; see ``Replica``. Belongs to the loop it was started on."""

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        machine: LeaseMachine | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[str, BaseException], None] = end_process,
    ) -> None:
        self._settings = settings
        self._applier = Applier(machine if machine is not None else LeaseMachine())
        self._clock = clock or SystemClock()
        self._on_fatal = on_fatal
        self._leader_known = asyncio.Event()
        self._reign: Reign | None = None
        self._core: Core | None = None
        self._poller: LoopPoller | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn_scheduled = False
        self._failed = False
        self._started_ms = self._last_turn_ms = 0
        self._last_keepalive_ms = self._last_launch_ms = 0
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
        """Load the journal, apply what is known to be committed, and join the cluster.

        Raises ``OSError`` (address in use, unreadable data directory), ``UnsupportedPysyncobj``.
        """
        loop = asyncio.get_running_loop()
        settings = self._settings
        self._poller = LoopPoller(
            loop,
            after_event=self._wake,
            on_error=lambda exc: self._fail("a peer's message was not handled", exc),
        )
        self._core = Core(
            CoreSettings(
                cluster_id=settings.cluster_id,
                node_id=settings.node_id,
                listen=settings.peer_listen,
                peers=settings.peers,
                journal=settings.data_dir / "journal",
                dump=settings.data_dir / "dump",
                timing=settings.timing,
            ),
            apply=self._apply,
            poller=self._poller,
            on_peer_connected=self._peer_connected,
            on_peer_lost=self._peer_lost,
        )
        self._applier.quiet_until = self._core.commit_index
        self._started_ms = self._last_turn_ms = self._clock.monotonic_ms()
        self._core.turn()
        log_event(
            _log,
            "replica.started",
            node=settings.node_id,
            term=self._core.term,
            applied_index=self._core.applied_index,
            last_index=self._core.last_index,
        )
        # Replaying a long journal took its time; what peers said meanwhile has not been read yet.
        self._core.listen_longer()
        self._last_turn_ms = self._clock.monotonic_ms()
        self._beat()

    async def stop(self) -> None:
        """Leave the cluster; proposals in flight become unknown. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        core, self._core = self._core, None
        if core is None:
            return
        self._end_reign()
        core.close()
        if self._poller is not None:
            self._poller.close()
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

    def on_applied(self, listener: Callable[[Applied], None]) -> None:
        """Call ``listener`` after each command that is newer than this node's start."""
        self._applier.add_listener(listener)

    async def wait_for_leader(self, *, timeout_ms: int) -> str | None:
        """Return the id of a leader that can be talked to; of this node only when it is ready."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while (leader_id := self._usable_leader_id()) is None and self._core is not None:
                    # Known at the last turn and gone since: wait for a turn that knows better.
                    self._leader_known.clear()
                    await self._leader_known.wait()
        except TimeoutError:
            return None
        return leader_id

    def status(self) -> ReplicaStatus:
        core = self._running_core
        peers = core.peers()
        return ReplicaStatus(
            node_id=self._settings.node_id,
            cluster_id=self._settings.cluster_id,
            role=self._role,
            term=core.term,
            leader_id=core.leader_id,
            # A leader without a quorum steps down, a follower forgets a leader it does not hear.
            has_quorum=core.leader_id is not None,
            ready=self._is_ready,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            last_index=core.last_index,
            members=len(peers) + 1,
            peers=tuple(
                PeerStatus(node_id=node_id, connected=connected, match_index=match_index)
                for node_id, connected, match_index in peers
            ),
            journal_bytes=_size_of(self._settings.data_dir / "journal"),
            digests=self._applier.digests.points(),
        )

    # Turns

    def _beat(self) -> None:
        if self._core is None or not self._guarded(self._beat_once, self._core):
            return
        delay_s = self._settings.timing.turn_ms / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._beat)

    def _beat_once(self, core: Core) -> None:
        now_ms = self._clock.monotonic_ms()
        timing = self._settings.timing
        self._mind_a_stall(core, now_ms - self._last_turn_ms)
        if now_ms - self._last_keepalive_ms >= timing.keepalive_ms:
            self._last_keepalive_ms = now_ms
            core.keep_alive()
        self._turn(core)
        if now_ms - self._last_launch_ms >= timing.idle_tick_ms:
            self._aggregator.tick()

    def _mind_a_stall(self, core: Core, late_ms: int) -> None:
        """After a pause, listen before calling an election: it was us who did not hear.

        Not when the leader's connection has gone meanwhile: then it is the leader that is dead. A
        pause beyond the connection timeout closes the connections itself and says nothing.
        """
        timing = self._settings.timing
        if late_ms <= timing.stall_ms or core.is_leader:
            return
        log_event(_log, "replica.stalled", late_ms=late_ms)
        if core.is_leader_connected or late_ms > timing.connection_timeout_ms:
            core.listen_longer()

    def _wake(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        self._turn_scheduled = False
        if self._core is not None:
            self._guarded(self._turn, self._core)

    def _guarded(self, step: Callable[[Core], None], core: Core) -> bool:
        """Run one step of the outermost loop; what escapes it ends the process."""
        if self._failed:
            return False
        try:
            step(core)
        except Exception as exc:
            self._fail("the Raft core raised", exc)
        return not self._failed

    def _turn(self, core: Core) -> None:
        self._last_turn_ms = self._clock.monotonic_ms()
        core.turn()
        self._applier.digests.reached(core.applied_index)
        self._observe(core)

    def _observe(self, core: Core) -> None:
        """Begin and end reigns, and tell who waits for a leader."""
        reign = self._reign
        if reign is not None and not (core.is_leader and core.term == reign.term):
            log_event(_log, "replica.reign_ended", term=reign.term, leader=core.leader_id)
            self._end_reign()
        if self._reign is None and core.is_leader:
            self._begin_reign(core.term)
        # Once a term: between a message and the turn that applies it every follower is behind.
        if self._caught_up_term != core.term and not core.is_leader and core.has_caught_up:
            self._caught_up_term = core.term
        leader_id = self._usable_leader_id()
        if leader_id != self._seen_leader:
            self._seen_leader = leader_id
            log_event(_log, "replica.leader", leader=leader_id, term=core.term)
        if leader_id is not None:
            self._leader_known.set()

    def _peer_connected(self) -> None:
        # A node that has just started has heard no heartbeat yet. Should it call an election now,
        # its higher term would depose a healthy leader. Only for a while: connections that come
        # and go must not put elections off for ever.
        core = self._core
        if core is not None and self._clock.monotonic_ms() - self._started_ms < _SETTLING_MS:
            core.listen_longer()

    def _peer_lost(self, node_id: str) -> None:
        core, timing = self._core, self._settings.timing
        if core is None or core.is_leader or core.last_leader_id != node_id:
            return
        # All followers hear of it in the same millisecond. Each has a slot of its own, by its place
        # among them, half of it left to chance: drawn from one range two of thirty elections split.
        me = self._settings.node_id
        followers = sorted({me, *self._settings.peers} - {node_id})
        share = (followers.index(me) + random.uniform(0, 0.5)) / len(followers)
        slots_ms = timing.lost_leader_max_ms - timing.lost_leader_min_ms
        core.call_election_within((timing.lost_leader_min_ms + share * slots_ms) / 1000)

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

    def _stamp(self) -> Stamp:
        # An open aggregator belongs to a reign.
        assert self._reign is not None
        return self._reign.stamp()

    def _launch(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        core, reign = self._core, self._reign
        if core is None or reign is None or not core.is_leader or core.term != reign.term:
            raise NotLeader(self._leader_id)
        self._last_launch_ms = self._clock.monotonic_ms()
        try:
            core.append(command, done)
        except Exception as exc:  # half an append: its outcome is not even unknown, stop
            self._fail("a command could not be appended", exc)
        self._wake()

    # Applying

    def _apply(self, command: bytes) -> Applied:
        index = self._running_core.applied_index + 1
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
    def _running_core(self) -> Core:
        assert self._core is not None, "the replica is not running"
        return self._core

    @property
    def _leader_id(self) -> str | None:
        return self._core.leader_id if self._core is not None else None

    @property
    def _role(self) -> Role:
        core = self._running_core
        if core.is_leader:
            return Role.LEADER
        return Role.CANDIDATE if core.is_candidate else Role.FOLLOWER

    @property
    def _is_ready(self) -> bool:
        """A leader: its announcement, hence everything before, is applied here. A follower: it
        hears a leader, and has once in this term applied all that this leader had committed.
        """
        core = self._running_core
        if core.is_leader:
            return self._reign is not None and self._reign.is_announced
        return core.leader_id is not None and self._caught_up_term == core.term

    def _usable_leader_id(self) -> str | None:
        if self._core is None or (self._core.is_leader and not self._is_ready):
            return None
        return self._core.leader_id


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
