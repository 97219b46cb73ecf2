"""One member of the simulated cluster: its machine, its disk, and its lives one after another.

Owns starting, killing, wiping and damaging one node. Must not know when or why (``nemesis.py``), or
what a replica does. A node that may not start (its journal is damaged) stays down until somebody
wipes it, as a real one would.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

from seamfill.errors import SeamfillError
from seamfill_chaos.disk import Fate, SimulatedDisk
from seamfill_chaos.sim.loop import VirtualLoop
from seamfill_chaos.sim.process import Machine, Process, ProcessEnded
from seamfill_chaos.sim.trace import Trace
from seamfill_coordinator.raft.journal import JournalUnusable
from seamfill_coordinator.raft.journal_format import decode_mark
from seamfill_coordinator.raft.journal_replay import MARK_NAME, segment_number
from seamfill_coordinator.raft.replica import PysyncobjReplica

__all__ = ["DATA_DIR", "DiskFault", "MakeReplica", "Node"]

DATA_DIR: Final = Path("/data")


class DiskFault(Enum):
    """What a disk does at a step that it was told to fail at."""

    POWER_LOST = "power_lost"
    KILLED = "killed"
    SYNC_FAILS = "sync_fails"
    SLOW = "slow"


MakeReplica = Callable[["Node", Process], PysyncobjReplica]


class Node:
    """A member, from its first life to its last."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        rng: random.Random,
        trace: Trace,
        machine: Machine,
        make_replica: MakeReplica,
        on_event: Callable[[str], None],
        on_life: Callable[[Node, Process], None],
    ) -> None:
        self.name = name
        self.machine = machine
        self.process: Process | None = None
        """The life that was begun last; it may have ended."""
        self.replica: PysyncobjReplica | None = None
        """Of the present life, once it serves."""
        self.ended_itself = False
        """Whether the last life ended by its own decision; nobody meant it to be down."""
        self.refused = False
        """Whether it did so because of what lies on the disk, before it served."""
        self.lives = 0
        self.stall_s = 0.0
        """How long a sync takes that is slow."""
        self.slow_syncs = 0.0
        """How often a sync is slow."""
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._make_replica = make_replica
        self._on_event = on_event
        self._on_life = on_life
        self._armed: tuple[DiskFault, int] | None = None
        self._fate = Fate.KEPT
        self.had_journal = False
        self.incarnation = ""
        self.disk = SimulatedDisk()
        self._begin_anew()

    @property
    def is_up(self) -> bool:
        """Whether a process runs there, be it paused or starting."""
        return self.process is not None and not self.process.has_ended

    # Lives

    def start(self) -> None:
        """Begin a life, unless one goes on."""
        if self.is_up:
            return
        self.machine.has_power = True
        self.lives += 1
        self.ended_itself = self.refused = False
        self._armed = None
        self.disk.on_step = self._step
        self.process = Process(self._loop, self.machine)
        self._on_life(self, self.process)
        self._note("node.starts", life=self.lives)
        self.process.spawn(self._live(self.process))

    async def _live(self, process: Process) -> None:
        replica = self._make_replica(self, process)
        try:
            await replica.start()
        except (SeamfillError, OSError) as exc:
            # A start that is refused is the end of the process, as in the real command.
            self.ended_itself = True
            # A full disk is no reason to wipe it.
            self.refused = isinstance(exc, SeamfillError) and not isinstance(exc, JournalUnusable)
            self._note("node.start_refused", why=f"{type(exc).__name__}: {exc}")
            process.exit()
        self.had_journal = True
        self.replica = replica

    def fatal(self, what: str, exc: BaseException) -> None:
        """End the present life from within; what a replica calls instead of ``os._exit``."""
        self._note("node.ends_itself", what=what, exc=f"{type(exc).__name__}: {exc}")
        assert self.process is not None
        self.ended_itself = True
        self._settle(Fate.KEPT)
        self.process.exit()

    def kill(self) -> None:
        """SIGKILL: the kernel goes on, and with it everything that was written."""
        if self.is_up:
            self._note("node.killed")
            self._end(Fate.KEPT)

    def lose_power(self, fate: Fate) -> None:
        """Let the machine go dark: nobody is told, and what was not synced is up to ``fate``."""
        if self.is_up:
            self._note("node.lost_power", fate=fate.value)
            self.machine.has_power = False
            self._end(fate)

    def _end(self, fate: Fate) -> None:
        assert self.process is not None
        self._settle(fate)
        self.process.end()

    def _settle(self, fate: Fate) -> None:
        """Decide now what a restart will find; nothing is written any more by this life."""
        survived = self.disk.after_power_loss(fate, self._rng)
        self.disk.on_step = _refuse_the_dead
        self.replica = None
        self.disk = survived

    # The disk

    def disarm(self) -> None:
        """Let the disk be well again, unless it has failed already."""
        self._armed = None

    def fail_at_step(self, fault: DiskFault, steps: int, fate: Fate = Fate.KEPT) -> None:
        """Let the disk do that at the ``steps``-th change from now."""
        self._armed = (fault, steps)
        self._fate = fate

    def _step(self, name: str, path: Path) -> None:
        if self._armed is not None:
            fault, steps = self._armed
            self._armed = (fault, steps - 1)
            if steps <= 1 and (fault is not DiskFault.SYNC_FAILS or "sync" in name):
                self._armed = None
                self._fail_now(fault, name, path)
        if self.slow_syncs and name == "sync" and self._rng.random() < self.slow_syncs:
            assert self.process is not None
            self.process.stall(self.stall_s)

    def _fail_now(self, fault: DiskFault, name: str, path: Path) -> None:
        assert self.process is not None
        self._note(f"disk.{fault.value}", at=name, file=path.name, fate=self._fate.value)
        match fault:
            case DiskFault.SYNC_FAILS:
                raise OSError(errno.EIO, "the simulated disk failed to sync")
            case DiskFault.SLOW:
                self.process.stall(self.stall_s)
            case DiskFault.POWER_LOST | DiskFault.KILLED:
                if fault is DiskFault.POWER_LOST:
                    self.machine.has_power = False
                self._settle(self._fate if fault is DiskFault.POWER_LOST else Fate.KEPT)
                self.process.exit()

    def flip_a_bit(self) -> bool:
        """Damage one bit that was durable, of a node that is down; return whether there was one.

        Behind the journal's mark a damaged group can not be told from a torn one: there nothing is
        promised.
        """
        assert not self.is_up
        places = self._durable_places()
        if not places:
            return False
        path, end = self._rng.choice(places)
        content = bytearray(self.disk.read(path))
        at = self._rng.randrange(end)
        content[at] ^= 1 << self._rng.randrange(8)
        self.disk.put(path, bytes(content))
        self._note("disk.bit_flipped", file=path.name, offset=at)
        return True

    def _durable_places(self) -> list[tuple[Path, int]]:
        """Return files and up to where they are certainly durable."""
        journal, snapshots = DATA_DIR / "journal", DATA_DIR / "snapshots"
        places = [(snapshots / name, len(self.disk.read(snapshots / name)))
                  for name in self.disk.names(snapshots)]  # fmt: skip
        if MARK_NAME not in self.disk.names(journal):
            return places
        mark = decode_mark(self.disk.read(journal / MARK_NAME))
        for name in self.disk.names(journal):
            number = segment_number(name)
            if number is not None and number <= mark.segment:
                size = len(self.disk.read(journal / name))
                places.append((journal / name, mark.end if number == mark.segment else size))
        return [(path, end) for path, end in places if end > 0]

    def wipe(self) -> None:
        """Lose everything; the next life is another incarnation of this node."""
        assert not self.is_up
        self._begin_anew()
        self._note("node.wiped", incarnation=self.incarnation)

    def _begin_anew(self) -> None:
        self.disk = SimulatedDisk()
        self.had_journal = False
        self.incarnation = f"{self._rng.getrandbits(128):032x}"

    def _note(self, event: str, **facts: object) -> None:
        self._trace.add(self.name, event, **facts)
        self._on_event(event)


def _refuse_the_dead(name: str, path: Path) -> None:
    """What a disk says to a life that has ended and still unwinds."""
    raise ProcessEnded
