"""An event loop in virtual time.

Owns what runs next and when it is. Must not know what a process does, nor any I/O: sockets, threads
and signals are refused, so that nothing but the seed decides what happens.

Time stands still while callbacks run and jumps to the next timer when none is ready. Equal times
are served in the order in which they were asked for. Hence a run depends on its inputs alone.

Each callback belongs to the process whose context it was scheduled in, see ``process.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from heapq import heappop, heappush
from typing import Any, Final, NoReturn

from msgspec import Struct

from seamfill_chaos.sim.process import CURRENT, ProcessEnded, current_process, process_of

__all__ = ["CallbackFailed", "Handle", "Livelock", "VirtualLoop"]

MAX_CALLBACKS_AT_ONCE: Final = 20_000
"""So many callbacks at one instant are a loop that feeds itself."""


class CallbackFailed(Exception):
    """An exception escaped a callback; a real loop would have logged it and gone on half done."""


class Livelock(Exception):
    """Callbacks schedule each other for ever, without time passing."""


class Handle(Struct, eq=False):
    """A callback that will run; also a timer's, so that both are cancelled alike.

    A struct, since hundreds are made in a virtual second, and one is made without a call of ours.
    """

    when_s: float
    context: Context | None
    """None: it was cancelled."""
    callback: Callable[..., object] | None
    args: tuple[Any, ...]

    def cancel(self) -> None:
        # What it would have called is let go of at once: a timer may lie in the heap for long.
        self.context = self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.context is None

    def when(self) -> float:
        return self.when_s


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs in virtual seconds from 0; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(False)
        self.now = 0.0
        """Virtual seconds since the run began."""
        self.callbacks = 0
        """How many have run."""
        self._soon: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._sequence = 0
        self._outside = Context()  # empty, hence false: always compare with None
        self._world_tasks: list[asyncio.Task[Any]] = []
        self._failure: BaseException | None = None

    # Running

    def run_until(self, time_s: float) -> None:
        """Run everything that is due until ``time_s``; raises what escaped a callback.

        An error in a task that somebody awaits is that waiter's; here only ends what nobody caught.
        """
        end = self.call_at(time_s, self.stop, context=self._outside)
        try:
            self.run_forever()
        finally:
            end.cancel()
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Forget everything that would still have happened."""
        self._soon.clear()
        self._timers.clear()
        self._world_tasks.clear()
        super().close()

    def fail(self, failure: BaseException) -> None:
        """Stop the run at once; ``run_until`` raises ``failure``, the first one."""
        if self._failure is None:
            self._failure = failure
        self.stop()

    def _run_once(self) -> None:
        # BaseEventLoop calls this for ever. Unlike its own it returns only in order to stop. Every
        # call that is saved here is saved a thousand times per virtual second.
        soon, timers = self._soon, self._timers
        at_once = 0
        while not self._stopping:  # type: ignore[attr-defined]  # of BaseEventLoop, not in its stub
            if soon:
                handle = soon.popleft()
            elif timers:
                when_s, _, handle = heappop(timers)
                if when_s > self.now and handle.context is not None:
                    self.now = when_s
                    self.callbacks += at_once
                    at_once = 0
            else:
                raise Livelock("nothing will ever happen again")
            context, callback = handle.context, handle.callback
            if context is None or callback is None:
                continue
            process = context.get(CURRENT)
            if process is None or process.runs:
                at_once += 1
                if at_once > MAX_CALLBACKS_AT_ONCE:
                    raise Livelock(f"{at_once} callbacks at {self.now:.6f} s, last {callback!r}")
                try:
                    context.run(callback, *handle.args)
                except ProcessEnded:
                    pass
                except BaseException as exc:
                    self._escaped(context, callback, exc)
            elif not process.has_ended:
                process.parked.append(handle)
        self.callbacks += at_once

    def _escaped(
        self, context: Context, callback: Callable[..., object], exc: BaseException
    ) -> None:
        if isinstance(exc, KeyboardInterrupt | SystemExit):
            raise exc
        process = process_of(context)
        name = process.name if process else "the world"
        failure = CallbackFailed(f"{name}: {callback!r} raised {exc!r}")
        failure.__cause__ = exc
        self.fail(failure)

    # Scheduling

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]  # our handle is not a subclass of asyncio's
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(self.now, copy_context() if context is None else context, callback, args)
        self._soon.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        handle = Handle(when, copy_context() if context is None else context, callback, args)
        self._sequence = sequence = self._sequence + 1
        heappush(self._timers, (when, sequence, handle))
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        when = self.now + delay
        handle = Handle(when, copy_context() if context is None else context, callback, args)
        self._sequence = sequence = self._sequence + 1
        heappush(self._timers, (when, sequence, handle))
        return handle

    def call_outside(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call it as the world, whoever runs now: no pause and no end of a process stops it."""
        return self.call_later(delay, callback, *args, context=self._outside)

    def spawn_outside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a task of the world itself."""
        self._world_tasks.append(self.create_task(work, context=self._outside.copy()))

    def run_soon(self, handles: Iterable[Handle]) -> None:
        """Run what had been put aside."""
        self._soon.extend(handles)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        # No call of BaseEventLoop's: it asks for a factory and for debugging, which we never have.
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        process = current_process() if context is None else process_of(context)
        if process is not None:
            process.own(task)
        return task

    # What is reported, and what is refused

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Let an exception that nobody took out of a task or future fail the run."""
        exc = context.get("exception")
        if exc is None or isinstance(exc, ProcessEnded):
            return  # a task of a killed process that was pending: as it should be
        failure = CallbackFailed(f"{context.get('message')}: {exc!r}")
        failure.__cause__ = exc
        self.fail(failure)

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("there are no threads in virtual time")

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("there are no threads in virtual time")
