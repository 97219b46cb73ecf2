"""Ports for nodes that did not ask for particular ones.

Owns how a free port is found. Must not know who listens there.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

from seamfill.errors import SeamfillError

__all__ = ["NoFreePort", "free_ports"]

_LOWEST: Final = 15_000
_DEFAULT_EPHEMERAL: Final = 32_768
_TRIES_PER_PORT: Final = 200
_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoFreePort(SeamfillError):
    """No free port was found on this machine; give one with --port."""

    code = "no_free_port"


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ``count`` different ports on which nobody listens at this moment.

    They lie below the range from which the kernel takes ports for outgoing connections. A port of
    that range, free now, may be somebody's client port when a killed node wants it back.
    Raises ``NoFreePort``.
    """
    highest = max(_first_ephemeral_port(), _LOWEST + 10 * count)
    found: set[int] = set()
    for _ in range(count * _TRIES_PER_PORT):
        if len(found) == count:
            break
        port = random.randrange(_LOWEST, highest)
        if _is_free(host, port):
            found.add(port)
    if len(found) < count:
        raise NoFreePort
    return sorted(found)


def _first_ephemeral_port() -> int:
    try:
        return int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_EPHEMERAL


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As the nodes do: ports of connections that have just ended count as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
