"""A simulated process: what runs in it, until it is stopped, continued or killed.

Owns the life of one process, and the machine it runs on with its two clocks. Must not know what
runs in it.

Every callback of the loop carries the context it was scheduled from, and with it the process it
belongs to (``current_process``). That is all that is needed: the callbacks of a paused process are
parked and run when it is resumed, as after SIGSTOP and SIGCONT; those of an ended process never
run, as after SIGKILL. Neither the process's tasks nor its ``finally`` blocks hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from seamfill_chaos.sim.loop import Handle, VirtualLoop

__all__ = [
    "CURRENT",
    "EPOCH_MS",
    "Machine",
    "Process",
    "ProcessEnded",
    "current_process",
    "process_of",
]

EPOCH_MS: Final = 1_700_000_000_000
"""Wall clock at virtual time 0, of a clock that is right."""

CURRENT: Final[ContextVar[Process | None]] = ContextVar("seamfill_sim_process", default=None)


class ProcessEnded(BaseException):
    """The process that is running ends here, as if by ``os._exit``: nothing after this happens.

    No ``Exception``, so that nothing but an outermost handler catches it; and what is done on the
    way out (``finally``, ``except BaseException``) has no effect on disk or network any more.
    """


class Machine:
    """What outlives its processes: a name, a pair of clocks, and whether it has power.

    Satisfies ``seamfill.clock.Clock``.
    """

    def __init__(
        self, loop: VirtualLoop, name: str, *, rate: float = 1.0, booted_ms: int = 0
    ) -> None:
        self.name = name
        self.has_power = True
        self.wall_offset_ms = 0
        """How far the wall clock is off; the nemesis moves it."""
        self._loop = loop
        self._rate_ms = rate * 1000
        self._booted_ms = booted_ms

    def monotonic_ms(self) -> int:
        return int(self._loop.now * self._rate_ms) + self._booted_ms

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self._loop.now * self._rate_ms) + self.wall_offset_ms

    async def sleep_ms(self, delay_ms: float) -> None:
        await asyncio.sleep(delay_ms / self._rate_ms)


class Process:
    """One life of a simulated process."""

    __slots__ = (
        "_at_end",
        "_pauses",
        "_tasks",
        "context",
        "has_ended",
        "loop",
        "machine",
        "name",
        "parked",
        "runs",
    )

    def __init__(self, loop: VirtualLoop, machine: Machine) -> None:
        self.loop = loop
        self.machine = machine
        self.name = machine.name
        self.context: Final = Context()
        """What the world schedules callbacks of this process in."""
        self.context.run(CURRENT.set, self)
        self.runs = True
        """Neither paused nor ended; the loop asks before every callback."""
        self.has_ended = False
        self.parked: list[Handle] = []
        self._pauses = 0
        # The garbage collector closes a coroutine that nobody holds, and thereby runs its
        # ``finally`` blocks: at that moment a killed process would act once more.
        self._tasks: list[asyncio.Task[Any]] = []
        self._at_end: list[Callable[[], None]] = []

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` as a task of this process, from the next turn on."""
        self.loop.create_task(work, context=self.context.copy())

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run ``callback`` in this process in the next turn."""
        self.loop.call_soon(callback, *args, context=self.context)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Have the world call ``callback`` when this process has ended, before anything else."""
        self._at_end.append(callback)

    def own(self, task: asyncio.Task[Any]) -> None:
        """Keep a task of this process from being collected before the run is over."""
        self._tasks.append(task)
        if len(self._tasks) > 64:
            self._tasks = [task for task in self._tasks if not task.done()]

    def pause(self) -> None:
        """Let nothing run until as many ``resume`` have followed."""
        self._pauses += 1
        self.runs = False

    def resume(self) -> None:
        """Go on with everything that was due meanwhile, in the order in which it was due."""
        self._pauses -= 1
        assert self._pauses >= 0, "resumed more often than paused"
        if self._pauses == 0 and not self.has_ended:
            self.runs = True
            parked, self.parked = self.parked, []
            self.loop.run_soon(parked)

    def stall(self, seconds: float) -> None:
        """Pause for so long: a slow disk, a swapped-out page, a busy machine."""
        self.pause()
        self.loop.call_outside(seconds, self.resume)

    def end(self) -> None:
        """Let nothing run ever again. Safe to repeat."""
        if self.has_ended:
            return
        self.has_ended = True
        self.runs = False
        self.parked.clear()
        for callback in self._at_end:
            callback()

    def exit(self) -> None:
        """End this process from within, and do not return: raises ``ProcessEnded``."""
        self.end()
        raise ProcessEnded

    def bury(self) -> None:
        """Let go of its tasks when the run is over: what they still do has no effect any more."""
        for task in self._tasks:
            coroutine = task.get_coro()
            if not task.done() and coroutine is not None:
                with suppress(BaseException):
                    coroutine.close()
        self._tasks.clear()


def current_process() -> Process | None:
    """Return the process that runs now; None for the world itself."""
    return CURRENT.get()


def process_of(context: Context) -> Process | None:
    """Return the process that a context belongs to."""
    return context.get(CURRENT)
