"""What the links between members need of a network.

Owns the two Protocols that part ``links.py`` (handshake, frames, who may speak) from how bytes
travel: ``tls.py`` in production, plain TCP in tests, the simulator's network in virtual time,
``NoNetwork`` for a cluster of one. Must not know messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["Listener", "Network", "NoNetwork", "split_address"]


class Listener(Protocol):
    """An address that is being listened on."""

    def close(self) -> None:
        """Accept no more; connections that stand are not touched. Safe to repeat."""
        ...


class Network(Protocol):
    """Reliable, ordered byte streams, as asyncio protocols and transports.

    The transports support ``write``, ``close``, ``abort``, ``is_closing``, ``pause_reading``,
    ``resume_reading``, ``get_write_buffer_size`` and ``set_write_buffer_limits``.
    """

    async def listen(self, address: str, accept: Callable[[], asyncio.Protocol]) -> Listener:
        """Accept connections at ``host:port``. Raises ``OSError``."""
        ...

    async def dial(
        self, node_id: str, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """Connect to the member at ``host:port``; returns when ``connection_made`` was called.

        Raises ``OSError`` (refused, unreachable, not who it should be).
        """
        ...

    def proves(self, transport: asyncio.BaseTransport, node_id: str) -> bool:
        """Whether the other end of this connection has proved to be ``node_id``."""
        ...


class NoNetwork:
    """``Network`` of a cluster of one: nobody is listened to, nobody can be reached."""

    async def listen(self, address: str, accept: Callable[[], asyncio.Protocol]) -> Listener:
        return self

    async def dial(
        self, node_id: str, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        raise ConnectionRefusedError(f"{node_id}: there is no network")

    def proves(self, transport: asyncio.BaseTransport, node_id: str) -> bool:
        return False

    def close(self) -> None:
        return None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 host may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
