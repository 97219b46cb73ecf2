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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from seamfill.clock import Clock, SystemClock
from seamfill.errors import SeamfillError
from seamfill.logs import log_event
from seamfill_coordinator.machine.codec import apply_encoded, command_version
from seamfill_coordinator.machine.commands import Request, Stamp
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Reply
from seamfill_coordinator.machine.steering import NEWEST_VERSION
from seamfill_coordinator.raft.aggregator import Aggregator, AggregatorLimits
from seamfill_coordinator.raft.core import Core, CoreSettings
from seamfill_coordinator.raft.digests import DigestPoints
from seamfill_coordinator.raft.poller import LoopPoller
from seamfill_coordinator.raft.reign import Reign, announcement, announcement_refused
from seamfill_coordinator.raft.timing import RaftTiming
from seamfill_coordinator.replication import NotLeader, PeerStatus, ReplicaStatus, Role

__all__ = [
    "FATAL_EXIT_CODE",
    "AnnouncementRefused",
    "MachineTooOld",
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


class MachineTooOld(SeamfillError):
    """The log was written for a newer machine version; upgrade this node, then start it again."""

    code: ClassVar[str] = "machine_too_old"


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
        self._machine = machine if machine is not None else LeaseMachine()
        self._clock = clock or SystemClock()
        self._on_fatal = on_fatal
        self._digests = DigestPoints(self._machine.state_digest)
        self._listeners: list[Callable[[Applied], None]] = []
        self._leader_waiters: list[asyncio.Future[None]] = []
        self._reign: Reign | None = None
        self._core: Core | None = None
        self._poller: LoopPoller | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn_scheduled = False
        self._failed = False
        self._replaying_to = 0
        self._started_ms = self._last_turn_ms = 0
        self._last_keepalive_ms = self._last_launch_ms = 0
        self._seen_leader: str | None = None
        self._aggregator = Aggregator(
            launch=self._launch,
            stamp=self._stamp,
            machine_version=lambda: self._machine.state.version,
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
        )
        self._replaying_to = self._core.commit_index
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
        self._wake_leader_waiters()

    # Replica

    @property
    def machine(self) -> LeaseMachine:
        return self._machine

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
        self._listeners.append(listener)

    async def wait_for_leader(self, *, timeout_ms: int) -> str | None:
        """Return the id of a leader that can be talked to; of this node only when it is ready."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while (leader_id := self._usable_leader_id()) is None and self._core is not None:
                    waiter = asyncio.get_running_loop().create_future()
                    self._leader_waiters.append(waiter)
                    await waiter
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
            digests=self._digests.points(),
        )

    # Turns

    def _beat(self) -> None:
        now_ms = self._clock.monotonic_ms()
        core = self._core
        if core is None:
            return
        timing = self._settings.timing
        if now_ms - self._last_turn_ms > timing.stall_ms and not core.is_leader:
            log_event(_log, "replica.stalled", stalled_ms=now_ms - self._last_turn_ms)
            core.listen_longer()
        if now_ms - self._last_keepalive_ms >= timing.keepalive_ms:
            self._last_keepalive_ms = now_ms
            core.keep_alive()
        self._turn()
        if now_ms - self._last_launch_ms >= timing.idle_tick_ms:
            self._aggregator.tick()
        self._timer = asyncio.get_running_loop().call_later(timing.turn_ms / 1000, self._beat)

    def _wake(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        self._turn_scheduled = False
        self._turn()

    def _turn(self) -> None:
        core = self._core
        if core is None or self._failed:
            return
        self._last_turn_ms = self._clock.monotonic_ms()
        try:
            core.turn()
        except Exception as exc:  # the outermost loop of the core
            self._fail("the Raft core raised", exc)
            return
        self._digests.reached(core.applied_index)
        self._observe(core)

    def _observe(self, core: Core) -> None:
        """Begin and end reigns, and tell who waits for a leader."""
        reign = self._reign
        if reign is not None and not (core.is_leader and core.term == reign.term):
            log_event(_log, "replica.reign_ended", term=reign.term, leader=core.leader_id)
            self._end_reign()
        if self._reign is None and core.is_leader:
            self._begin_reign(core.term)
        leader_id = self._usable_leader_id()
        if leader_id != self._seen_leader:
            self._seen_leader = leader_id
            log_event(_log, "replica.leader", leader=leader_id, term=core.term)
        if leader_id is not None:
            self._wake_leader_waiters()

    def _wake_leader_waiters(self) -> None:
        waiters, self._leader_waiters = self._leader_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _peer_connected(self) -> None:
        # A node that has just started has heard no heartbeat yet. Should it call an election now,
        # its higher term would depose a healthy leader. Only for a while: connections that come
        # and go must not put elections off for ever.
        core = self._core
        if core is not None and self._clock.monotonic_ms() - self._started_ms < _SETTLING_MS:
            core.listen_longer()

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
        core = self._running_core
        index = core.applied_index + 1
        try:
            self._digests.reached(index - 1)
            version = command_version(command) or 0
            if version > NEWEST_VERSION:
                raise MachineTooOld(
                    f"index {index} needs machine version {version}; this is {NEWEST_VERSION}"
                )
            applied = apply_encoded(self._machine, command)
        except BaseException as exc:
            # Also MemoryError: half a command must not stay.
            self._fail(f"the machine raised at index {index}", exc)
            raise
        if index > self._replaying_to:
            self._tell(applied)
        return applied

    def _tell(self, applied: Applied) -> None:
        for listener in self._listeners:
            try:
                listener(applied)
            except Exception as exc:  # an exception here would make the core apply this again
                log_event(_log, "replica.listener_failed", level=logging.ERROR, exc=exc)

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
        hears a leader, and has applied all it knows to be committed, up to an entry of this term.
        """
        core = self._running_core
        if core.is_leader:
            return self._reign is not None and self._reign.is_announced
        return (
            core.leader_id is not None
            and core.applied_index == core.commit_index
            and core.applied_term == core.term
        )

    def _usable_leader_id(self) -> str | None:
        if self._core is None or (self._core.is_leader and not self._is_ready):
            return None
        return self._core.leader_id


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
