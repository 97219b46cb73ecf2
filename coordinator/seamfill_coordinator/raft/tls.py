"""Members' connections over mutual TLS 1.3: both ends show a certificate, its name is the node id.

Owns sockets and TLS handshakes. Must not know messages or members beyond their names (``links.py``
does), or where certificates come from (``credentials.py``).

Invariants: a connection reaches the links only after both ends have shown certificates of the
cluster's CA; who has not is bounded in number and time, and costs no more memory than a handshake.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from cryptography import x509

from seamfill.logs import log_event
from seamfill_coordinator.raft.credentials import Credentials, names_of
from seamfill_coordinator.raft.network import Listener, split_address
from seamfill_coordinator.raft.refusals import RefusalLog

__all__ = ["HANDSHAKES_MAX", "HANDSHAKE_S", "TlsNetwork"]

HANDSHAKES_MAX: Final = 32
"""Connections in a TLS handshake; the oldest goes when one more comes."""
HANDSHAKE_S: Final = 3.0
_SHUTDOWN_S: Final = 1.0
_BACKLOG: Final = 128
_ACCEPT_PAUSE_S: Final = 0.5
"""After a failed accept: out of file descriptors, trying at once would only keep the loop busy."""
_log = logging.getLogger("seamfill.coordinator.raft")


class TlsNetwork:
    """``Network`` over TCP and TLS."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def listen(self, address: str, accept: Callable[[], asyncio.Protocol]) -> Listener:
        """Accept peers with certificates of our CA at ``host:port``. Raises ``OSError``."""
        listener = await _bound(address)
        return _TlsListener(listener, self._credentials.accepting, accept)

    async def dial(
        self, node_id: str, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """Connect to the member at ``host:port``. Raises ``OSError``.

        That it is ``node_id`` is known by ``proves``; a member learns whether it was accepted
        itself from what comes next, because a TLS 1.3 client is done first.
        """
        host, port = split_address(address)
        await asyncio.get_running_loop().create_connection(
            protocol,
            host,
            port,
            ssl=self._credentials.dialing,
            server_hostname="",
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=_SHUTDOWN_S,
        )

    def proves(self, transport: asyncio.BaseTransport, node_id: str) -> bool:
        """Whether the certificate at the other end is for ``node_id``."""
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        return shown is not None and node_id in names_of(x509.load_der_x509_certificate(shown))


class _TlsListener:
    """Accepts, and lets a bounded number of strangers shake hands at a time."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        accept: Callable[[], asyncio.Protocol],
    ) -> None:
        self._socket = listener
        self._context = context
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._refusals = RefusalLog(_log)
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """Under way, oldest first."""
        self._retry: asyncio.TimerHandle | None = None
        self._watch()

    def close(self) -> None:
        """Accept no more; handshakes under way are given up. Safe to repeat."""
        if self._socket.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for handshake in self._handshakes:
            handshake.cancel()

    def _watch(self) -> None:
        self._retry = None
        # Not ``sock_accept``: cancelled in the wrong moment it loses a connection, open for ever.
        self._loop.add_reader(self._socket, self._accept_one)

    def _accept_one(self) -> None:
        try:
            connection, address = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # whoever called has hung up again
        except OSError as exc:
            log_event(_log, "peer.accept_failed", level=logging.ERROR, error=str(exc))
            self._loop.remove_reader(self._socket)
            self._retry = self._loop.call_later(_ACCEPT_PAUSE_S, self._watch)
            return
        self._admit(connection, f"{address[0]}:{address[1]}")

    def _admit(self, connection: socket.socket, address: str) -> None:
        if len(self._handshakes) >= HANDSHAKES_MAX:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        handshake = self._loop.create_task(self._shake_hands(connection, address))
        self._handshakes[handshake] = None
        handshake.add_done_callback(functools.partial(self._shaken, connection))

    async def _shake_hands(self, connection: socket.socket, address: str) -> None:
        # From here on the transport closes it; until here ``_shaken`` does.
        owned = socket.socket(fileno=connection.detach())
        try:
            await self._loop.connect_accepted_socket(
                self._accept,
                owned,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as exc:  # TLS errors and timeouts are among them
            self._refusals.refused("tls", address, str(exc), now_s=self._loop.time())

    def _shaken(self, connection: socket.socket, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)
        connection.close()  # still ours when it was cancelled before its first step
        if not handshake.cancelled():
            handshake.result()  # a bug: the loop tells it


async def _bound(address: str) -> socket.socket:
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    ((family, kind, protocol, _, where), *_) = await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
