"""Keeps one connection to one member: dials, waits, dials again.

Owns when the next dial happens. Must not know what is said on the connection.

Invariant: at any moment there is one dial under way, or one connection, or one pause before the
next dial, never two of them; so a member that can not be reached costs one attempt at a time.
The pause has no jitter: of two members only one dials, so there is nobody to collide with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from seamfill.logs import log_event
from seamfill_coordinator.raft.network import Network

__all__ = ["DialPlan", "Dialer"]

_log = logging.getLogger("seamfill.coordinator.raft")


@dataclass(frozen=True, slots=True, kw_only=True)
class DialPlan:
    """Whom to call, and how patiently."""

    node_id: str
    address: str
    pause_s: float
    timeout_s: float
    """An address that swallows everything would else hold the dial for minutes."""


class Dialer:
    """Dials one member until ``stop``.

    ``protocol`` makes the connection's end here; ``has_connection`` tells whether one that was
    dialed stands. Whoever owns the connections tells when one was greeted and when one is lost.
    """

    def __init__(
        self,
        plan: DialPlan,
        *,
        network: Network,
        protocol: Callable[[], asyncio.Protocol],
        has_connection: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._network = network
        self._protocol = protocol
        self._has_connection = has_connection
        self._loop = asyncio.get_running_loop()
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_error: str | None = None
        self._is_stopped = False

    def dial(self) -> None:
        """Dial now."""
        self._attempt = self._loop.create_task(self._dial())
        self._timer = self._loop.call_later(self._plan.timeout_s, self._attempt.cancel)
        self._attempt.add_done_callback(self._attempted)

    def greeted(self) -> None:
        """The dialed connection's handshake is complete: the next failure is news."""
        self._last_error = None

    def lost(self, reason: str | None) -> None:
        """The dialed connection has ended; with a reason if it never was greeted."""
        if reason is not None and not self._is_stopped:
            self._tell(reason)
        self._dial_later()

    def stop(self) -> None:
        """Dial no more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()

    async def stopped(self) -> None:
        """Return when nothing is under way any more; ``stop`` comes before."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])

    def _dial_later(self) -> None:
        """Dial after a pause, unless a dial, a pause or a connection is there already."""
        is_idle = self._attempt is None and self._timer is None and not self._is_stopped
        if is_idle and not self._has_connection():
            self._timer = self._loop.call_later(self._plan.pause_s, self.dial)

    async def _dial(self) -> None:
        try:
            await self._network.dial(self._plan.node_id, self._plan.address, self._protocol)
        except OSError as exc:
            self._tell(str(exc) or type(exc).__name__)

    def _attempted(self, attempt: asyncio.Task[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._attempt = self._timer = None
        if self._is_stopped:
            return
        self._dial_later()
        if attempt.cancelled():
            self._tell(f"no answer in {self._plan.timeout_s:g} s")
        else:
            attempt.result()  # a bug in the network: the loop tells it

    def _tell(self, error: str) -> None:
        # Ten attempts a second with the same outcome are one piece of news.
        if error != self._last_error:
            self._last_error = error
            log_event(
                _log,
                "peer.unreachable",
                level=logging.WARNING,
                peer=self._plan.node_id,
                address=self._plan.address,
                error=error,
            )
