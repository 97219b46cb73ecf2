"""pysyncobj's Raft core, and every private name of it that we use.

Owns the construction of one ``SyncObj`` and typed access to its inside. Must not know the lease
machine or who proposes: entries are bytes.

Private names are read here and nowhere else. ``check_pysyncobj`` proves at start, and a contract
test one by one, that the pinned version still has them: with a library that keeps its state in
mangled attributes a wrong guess would not fail, it would silently read nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pysyncobj
from pysyncobj import SyncObjConf, replicated
from pysyncobj import syncobj as syncobj_module
from pysyncobj.config import FAIL_REASON
from pysyncobj.monotonic import monotonic
from pysyncobj.transport import TCPTransport
from pysyncobj.version import VERSION

from seamfill.errors import SeamfillError
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft.guard import Entry, Guard
from seamfill_coordinator.raft.peers import Member, MemberTransport, TransportSettings
from seamfill_coordinator.raft.poller import LoopPoller
from seamfill_coordinator.raft.timing import RaftTiming

__all__ = [
    "PRIVATE_ATTRIBUTES",
    "PRIVATE_NAMES",
    "Core",
    "CoreSettings",
    "UnsupportedPysyncobj",
    "check_pysyncobj",
]

SUPPORTED_VERSION: Final = "0.3.17"
APPEND_BATCH_BYTES: Final = 4 << 20
_NEVER: Final = 10**9
_CANDIDATE: Final = 1

PRIVATE_NAMES: Final[tuple[tuple[type, str], ...]] = (
    (pysyncobj.SyncObj, "_SyncObj__sendAppendEntries"),
    (pysyncobj.SyncObj, "_SyncObj__generateRaftTimeout"),
    (pysyncobj.SyncObj, "_SyncObj__applyLogEntries"),
    (pysyncobj.SyncObj, "_checkCommandsToApply"),
    (pysyncobj.SyncObj, "_isLeader"),
    (pysyncobj.SyncObj, "_getLeader"),
    (TCPTransport, "_shouldConnect"),
    (TCPTransport, "_sendSelfAddress"),
    (TCPTransport, "_onIncomingMessageReceived"),
    (TCPTransport, "_onNodeConnected"),
    (TCPTransport, "_onNodeDisconnected"),
    (TCPTransport, "_onMessageReceived"),
)
"""Methods we call or replace; attributes of a built core are in ``PRIVATE_ATTRIBUTES``."""

PRIVATE_ATTRIBUTES: Final = (
    "_SyncObj__raftLog",
    "_SyncObj__raftState",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__transport",
    "_poller",
)


class UnsupportedPysyncobj(SeamfillError):
    """The installed pysyncobj is not the one this shell was proved with; install 0.3.17."""

    code = "unsupported_pysyncobj"


def check_pysyncobj() -> None:
    """Raise ``UnsupportedPysyncobj`` unless it is the pinned version with all names in place."""
    if VERSION != SUPPORTED_VERSION:
        raise UnsupportedPysyncobj(f"pysyncobj {VERSION} is installed; {SUPPORTED_VERSION} needed")
    for owner, name in PRIVATE_NAMES:
        if not callable(getattr(owner, name, None)):
            raise UnsupportedPysyncobj(f"pysyncobj's {owner.__name__} has no {name}")
    if not callable(getattr(syncobj_module, "createPoller", None)):
        raise UnsupportedPysyncobj("pysyncobj.syncobj has no createPoller")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Everything one core is built from."""

    cluster_id: str
    node_id: str
    listen: str
    """host:port; bound exactly so."""
    peers: dict[str, str]
    """node id → host:port of the others."""
    journal: Path
    dump: Path
    timing: RaftTiming


class _Machine(pysyncobj.SyncObj):  # type: ignore[misc]  # pysyncobj carries no types
    """The replicated object: one method, total.

    pysyncobj applies an entry whose method raised again on every tick, on every replica, for ever.
    Hence ``apply`` does not raise: it hands the bytes to a function that ends the process instead.
    """

    seamfill_apply: Callable[[bytes], Applied]

    @replicated  # type: ignore[untyped-decorator]  # pysyncobj carries no types
    def apply(self, command: bytes) -> Applied:
        return self.seamfill_apply(command)


class Core:
    """One node's Raft core, driven by ``turn``; satisfies the guard's ``CoreView``."""

    def __init__(
        self,
        settings: CoreSettings,
        *,
        apply: Callable[[bytes], Applied],
        poller: LoopPoller,
        on_peer_connected: Callable[[], None],
        on_peer_lost: Callable[[str], None],
    ) -> None:
        """Load the journal and bind the peer port.

        Raises ``OSError`` when the port can not be bound, ``UnsupportedPysyncobj``.
        """
        check_pysyncobj()
        me = Member(settings.node_id, settings.listen)
        others = [Member(node_id, address) for node_id, address in settings.peers.items()]
        transport = functools.partial(
            MemberTransport,
            settings=TransportSettings(
                cluster_id=settings.cluster_id,
                guard=lambda sync_obj: Guard(_View(sync_obj)),
                on_peer_connected=on_peer_connected,
                on_peer_lost=on_peer_lost,
            ),
        )
        with _created_poller(poller):
            try:
                self._core: Any = _Machine(
                    me, others, conf=_configuration(settings), transportClass=transport
                )
            except syncobj_module.SyncObjException as exc:
                raise OSError(f"the peer address {settings.listen} can not be bound") from exc
        self._core.seamfill_apply = apply
        self._view = _View(self._core)
        self._others = others
        for name in PRIVATE_ATTRIBUTES:
            if not hasattr(self._core, name):
                raise UnsupportedPysyncobj(f"a pysyncobj core has no {name}")

    # What it is now

    @property
    def term(self) -> int:
        return self._view.term

    @property
    def is_leader(self) -> bool:
        return self._view.is_leader

    @property
    def is_candidate(self) -> bool:
        return bool(self._core._SyncObj__raftState == _CANDIDATE)

    @property
    def commit_index(self) -> int:
        return self._view.commit_index

    @property
    def log(self) -> Sequence[Entry]:
        return self._view.log

    @property
    def applied_index(self) -> int:
        return int(self._core.raftLastApplied)

    @property
    def last_index(self) -> int:
        return self.log[-1][1]

    @property
    def applied_term(self) -> int:
        """The term of the last applied entry."""
        return self.log[self.applied_index - self.log[0][1]][2]

    @property
    def leader_id(self) -> str | None:
        """The leader, if it was heard within an election timeout and is still connected.

        pysyncobj forgets a leader only when it calls an election itself, which a node that is cut
        off never does.
        """
        leader = self._core._getLeader()
        if leader is None:
            return None
        if self.is_leader:
            return str(leader.id)
        heard = self._core._SyncObj__raftElectionDeadline >= monotonic()
        return str(leader.id) if heard and self._core.isNodeConnected(leader) else None

    @property
    def has_caught_up(self) -> bool:
        """Whether all that a leader of this term said to be committed is applied here."""
        said: int | None = self._core._SyncObj__transport.leader_commit_index
        behind = said is None or self.applied_index < said
        return not behind and self.applied_term == self.term

    @property
    def last_leader_id(self) -> str | None:
        """The last known leader, heard or not."""
        leader = self._core._getLeader()
        return None if leader is None else str(leader.id)

    @property
    def is_leader_connected(self) -> bool:
        """Whether the last known leader is another node with an open connection to us."""
        leader = self._core._getLeader()
        return leader is not None and bool(self._core.isNodeConnected(leader))

    def peers(self) -> list[tuple[str, bool, int | None]]:
        """Return (node id, connected, match index if we lead) of the others, sorted."""
        match_index = self._core._SyncObj__raftMatchIndex if self.is_leader else {}
        return sorted(
            (node.id, bool(self._core.isNodeConnected(node)), match_index.get(node))
            for node in self._others
        )

    # What it does

    def turn(self) -> None:
        """Count acknowledgements, commit, apply, send what is due, connect."""
        self._core.doTick(0.0)

    def append(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        """Append ``command`` to our log and send it to the followers, now. Only for a leader.

        The core would leave it in a queue, decide later whether it still leads, and if not forward
        it; and it would send it up to one heartbeat later.
        """
        assert self.is_leader

        def land(result: Applied | None, reason: int) -> None:
            # DISCARDED is a no in theory; the stock core has reported failure for commands that
            # were applied, so that all but SUCCESS is unknown.
            done(result if reason == FAIL_REASON.SUCCESS else None)

        self._core.apply(command, callback=land)
        self._core._checkCommandsToApply()
        self._core._SyncObj__sendAppendEntries()

    def listen_longer(self) -> None:
        """Put our own election off by one more election timeout."""
        timeout = self._core._SyncObj__generateRaftTimeout()
        deadline = max(self._core._SyncObj__raftElectionDeadline, monotonic() + timeout)
        self._core._SyncObj__raftElectionDeadline = deadline

    def call_election_within(self, delay_s: float) -> None:
        """Call an election after so long, unless a leader is heard before."""
        deadline = min(self._core._SyncObj__raftElectionDeadline, monotonic() + delay_s)
        self._core._SyncObj__raftElectionDeadline = deadline

    def keep_alive(self) -> None:
        """Let idle connections not count as dead."""
        self._core._SyncObj__transport.keep_alive()

    def close(self) -> None:
        """Close connections, listener and journal."""
        self._core.destroy()


class _View:
    """The guard's and our own read-only look at the core."""

    def __init__(self, core: Any) -> None:
        self._core = core

    @property
    def term(self) -> int:
        return int(self._core.raftCurrentTerm)

    @property
    def is_leader(self) -> bool:
        return bool(self._core._isLeader())

    @property
    def commit_index(self) -> int:
        return int(self._core.raftCommitIndex)

    @property
    def log(self) -> Sequence[Entry]:
        log: Sequence[Entry] = self._core._SyncObj__raftLog
        return log


def _configuration(settings: CoreSettings) -> SyncObjConf:
    timing = settings.timing
    return SyncObjConf(
        autoTick=False,
        useFork=False,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat_ms / 1000,
        appendEntriesBatchSizeBytes=APPEND_BATCH_BYTES,
        raftMinTimeout=timing.election_min_ms / 1000,
        raftMaxTimeout=timing.election_max_ms / 1000,
        leaderFallbackTimeout=timing.leader_fallback_ms / 1000,
        connectionTimeout=timing.connection_timeout_ms / 1000,
        connectionRetryTime=timing.reconnect_ms / 1000,
        maxBindRetries=1,
        bindAddress=settings.listen,
        dynamicMembershipChange=False,
        journalFile=str(settings.journal),
        fullDumpFile=str(settings.dump),
        # Compaction is off: stock compaction is not crash-safe. The journal grows (its offsets end
        # at 4 GiB) until our own journal replaces it.
        logCompactionMinEntries=_NEVER,
        logCompactionMinTime=_NEVER,
    )


@contextmanager
def _created_poller(poller: LoopPoller) -> Iterator[None]:
    # pysyncobj has no argument for a poller; it calls this function once while it is built.
    original = syncobj_module.createPoller
    syncobj_module.createPoller = lambda _kind: poller
    try:
        yield
    finally:
        syncobj_module.createPoller = original
