"""pysyncobj's sockets on the running event loop.

Owns the registration of descriptors with asyncio, in the shape of pysyncobj's ``Poller``. Must not
know what the callbacks do.

Invariant: a callback runs only for a descriptor that is subscribed at that moment; ``poll`` never
blocks, because the loop has already waited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pysyncobj.poller import POLL_EVENT_TYPE, Poller

__all__ = ["LoopPoller"]

_READ: Final[int] = POLL_EVENT_TYPE.READ
_WRITE: Final[int] = POLL_EVENT_TYPE.WRITE

_Callback = Callable[[int, int], None]


class LoopPoller(Poller):  # type: ignore[misc]  # pysyncobj carries no types
    """Call pysyncobj's callbacks from the loop, and ``after_event`` after each of them.

    asyncio reports errors and hang-ups as readable and writable; pysyncobj's callbacks then read
    the socket's error themselves, so its own ERROR events are not needed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        after_event: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._after_event = after_event
        self._on_error = on_error
        self._callbacks: dict[int, _Callback] = {}

    def subscribe(self, descr: int, callback: _Callback, eventMask: int) -> None:  # noqa: N803
        """Replace the descriptor's subscription."""
        self._callbacks[descr] = callback
        if eventMask & _READ:
            self._loop.add_reader(descr, self._fire, descr, _READ)
        else:
            self._loop.remove_reader(descr)
        if eventMask & _WRITE:
            self.watch_write(descr)
        else:
            self._loop.remove_writer(descr)

    def unsubscribe(self, descr: int) -> None:
        """Forget the descriptor; the socket may be closed already."""
        if self._callbacks.pop(descr, None) is None:
            return
        # pysyncobj closes before it unsubscribes: the selector forgets the descriptor, and says
        # that the kernel did not know it any more.
        with suppress(OSError):
            self._loop.remove_reader(descr)
        with suppress(OSError):
            self._loop.remove_writer(descr)

    def watch_write(self, descr: int) -> None:
        """Also wait until the descriptor takes bytes again.

        pysyncobj subscribes to that only while it handles an event: what a full socket refused
        would otherwise lie there until the next heartbeat.
        """
        if descr in self._callbacks:
            self._loop.add_writer(descr, self._fire, descr, _WRITE)

    def poll(self, timeout: float) -> None:
        """Return at once."""

    def close(self) -> None:
        """Unsubscribe everything."""
        for descr in list(self._callbacks):
            self.unsubscribe(descr)

    def _fire(self, descr: int, event: int) -> None:
        callback = self._callbacks.get(descr)
        if callback is None:
            return
        try:
            callback(descr, event)
        except Exception as exc:  # outermost: the loop would only log it and go on half-done
            self._on_error(exc)
        self._after_event()
