"""Network namespaces of a run: every node on a wire of its own, each direction cut by itself.

Owns the namespaces, the bridge between them, and the packet filter on that bridge. Must not know
what talks over the wires. Needs Linux, root, ``ip``, ``nft`` and ``nsenter``. The machine's own
network is not touched: the bridge lies in a namespace too, the *hub*, and whoever wants to talk to
a node from outside gets sockets that were made in there (``Wires.connector``).

Invariants: names carry the id of this process, so that a run can remove what an earlier one that
was killed left behind; leaving ``async with`` removes what was made, whatever happened inside. A
direction is cut or it is not: ``cut`` replaces the whole set of cut directions in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from seamfill_chaos.live.processes import ProcessFailed

__all__ = ["Direction", "Wires", "what_wires_lack"]

Direction = tuple[str, str]
"""From whom, to whom."""

_NETWORK: Final = "198.18.0"
"""RFC 2544 keeps 198.18.0.0/15 for tests of networks; nobody real has such an address."""
_HUB_HOST: Final = 254
_PREFIX: Final = "seamfill"
_SERIAL: Final = itertools.count(1)
_PLACE: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_FILTER: Final = """
table bridge cuts {
    set directions { type ipv4_addr . ipv4_addr; }
    chain forward {
        type filter hook forward priority 0;
        ip saddr . ip daddr @directions drop
    }
}
"""


def what_wires_lack() -> str | None:
    """Return in one line what this machine lacks for namespaces, or None when nothing."""
    if _LIBC is None:
        return "network namespaces: they need Linux"
    if os.geteuid() != 0:
        return "network namespaces: they need root"
    missing = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"network namespaces: no {', '.join(missing)} (iproute2, nftables, util-linux)"
    return None


class Wires:
    """A wire from each of ``names`` to the hub, for as long as the ``async with`` block lasts."""

    def __init__(self, names: Sequence[str]) -> None:
        assert len(names) < _HUB_HOST
        self._hosts = {name: f"{_NETWORK}.{number + 1}" for number, name in enumerate(names)}
        self._run = f"{_PREFIX}-{os.getpid()}-{next(_SERIAL)}"
        self._hub = -1

    def address(self, name: str) -> str:
        """Return the address under which everybody reaches ``name``."""
        return self._hosts[name]

    @property
    def outside(self) -> str:
        """Return the address that nodes see when they are talked to through ``connector``."""
        return f"{_NETWORK}.{_HUB_HOST}"

    def enter(self, name: str) -> tuple[str, ...]:
        """Return the words to put before a command line that is to run at the end of a wire."""
        # Unlike `ip netns exec` it stays the same process and sees the same mounts.
        return ("nsenter", f"--net={_PLACE / self._namespace(name)}", "--")

    def connector(self) -> aiohttp.TCPConnector:
        """Return a connector from the hub: no cut between nodes concerns it."""
        return aiohttp.TCPConnector(socket_factory=self._socket_in_hub, limit=0)

    async def cut(self, directions: Iterable[Direction]) -> None:
        """Drop every packet of exactly these directions from now on, until the next ``cut``."""
        pairs = [f"{self._hosts[source]} . {self._hosts[to]}" for source, to in directions]
        script = "flush set bridge cuts directions\n"
        if pairs:
            script += f"add element bridge cuts directions {{ {', '.join(pairs)} }}\n"
        await self._filter(script)

    async def heal(self) -> None:
        """Let everything pass."""
        await self.cut(())

    # ── Making and removing ──────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        lacking = what_wires_lack()
        if lacking is not None:
            raise ProcessFailed(lacking)
        await _remove_leftovers()
        try:
            await self._make()
        except BaseException:
            await asyncio.shield(self._remove())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.shield(self._remove())

    async def _make(self) -> None:
        hub = self._namespace("hub")
        await _ip("netns", "add", hub)
        self._hub = os.open(_PLACE / hub, os.O_RDONLY | os.O_CLOEXEC)
        await _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        await _ip("-n", hub, "addr", "add", f"{self.outside}/24", "dev", "bridge")
        await _ip("-n", hub, "link", "set", "bridge", "up")
        for name, address in self._hosts.items():
            end = self._namespace(name)
            await _ip("netns", "add", end)
            wire = ("link", "add", name, "type", "veth", "peer", "name", "wire", "netns", end)
            await _ip("-n", hub, *wire)
            await _ip("-n", hub, "link", "set", name, "master", "bridge", "up")
            await _ip("-n", end, "addr", "add", f"{address}/24", "dev", "wire")
            await _ip("-n", end, "link", "set", "wire", "up")
            # A node asks itself under its own address, which the kernel routes over loopback.
            await _ip("-n", end, "link", "set", "lo", "up")
        await self._filter(_FILTER)

    async def _remove(self) -> None:
        if self._hub >= 0:
            os.close(self._hub)
            self._hub = -1
        for path in sorted(_PLACE.glob(f"{self._run}-*")):
            await _ip("netns", "del", path.name)

    def _namespace(self, name: str) -> str:
        return f"{self._run}-{name}"

    async def _filter(self, script: str) -> None:
        hub = f"--net={_PLACE / self._namespace('hub')}"
        await _run("nsenter", hub, "--", "nft", "-f", "-", given=script)

    def _socket_in_hub(self, info: tuple[Any, ...]) -> socket.socket:
        # A socket belongs to the namespace that its thread was in when it made it, for ever. The
        # loop's thread makes no other socket meanwhile: nothing in here gives the loop a turn.
        family, kind, protocol = info[:3]
        with _visiting(self._hub):
            return socket.socket(family, kind, protocol)


@contextlib.contextmanager
def _visiting(namespace: int) -> Iterator[None]:
    assert _LIBC is not None
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(namespace)
        try:
            yield
        finally:
            _set_namespace(home)
    finally:
        os.close(home)


def _set_namespace(descriptor: int) -> None:
    assert _LIBC is not None
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


async def _remove_leftovers() -> None:
    for name in _leftovers():
        await _ip("netns", "del", name)


def _leftovers() -> list[str]:
    """Return the namespaces of runs whose process is gone: it was killed and could not."""
    made = sorted(path.name for path in _PLACE.glob(f"{_PREFIX}-*-*-*"))
    owners = {name: name.split("-")[1] for name in made}
    return [name for name, pid in owners.items() if not Path("/proc", pid).exists()]


async def _ip(*words: str) -> None:
    await _run("ip", *words)


async def _run(*line: str, given: str = "") -> None:
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate(given.encode())
    if process.returncode != 0:
        raise ProcessFailed(f"$ {' '.join(line)}\n{stderr.decode().strip()}")
