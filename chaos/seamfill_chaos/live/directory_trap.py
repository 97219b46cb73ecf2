"""A trap at a directory: something happens the moment a file of a given ending is made there.

Owns the kernel's file notifications (inotify), which Python has no module for. Must not know what
the files mean. It waits in a thread of its own, because the event loop may be busy for milliseconds
and the moment is shorter than that.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["spring_when_made"]

_IN_CREATE: Final = 0x100
_IN_CLOEXEC: Final = 0o2000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_HEADER: Final = struct.Struct("iIII")
_LOOK_S: Final = 0.2
"""How often the thread looks whether it is still wanted."""


async def spring_when_made(
    directory: Path, ending: str, act: Callable[[], None], *, timeout_s: float
) -> bool:
    """Call ``act``, in a thread, as soon as a file with this ending is made in ``directory``.

    Return whether that happened within ``timeout_s``. Raises ``OSError`` without the directory.
    """
    given_up = threading.Event()
    descriptor = _watch(directory)
    waiting = asyncio.create_task(
        asyncio.to_thread(_wait_and_act, descriptor, ending.encode(), act, given_up)
    )
    try:
        done, _ = await asyncio.wait({waiting}, timeout=timeout_s)
        return bool(done) and waiting.result()
    finally:
        given_up.set()
        await asyncio.wait({waiting}, timeout=5 * _LOOK_S)
        os.close(descriptor)


def _watch(directory: Path) -> int:
    if _LIBC is None:
        raise OSError("file notifications need Linux")
    descriptor = int(_LIBC.inotify_init1(_IN_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if _LIBC.inotify_add_watch(descriptor, os.fsencode(directory), _IN_CREATE) < 0:
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "inotify_add_watch", str(directory))
    return descriptor


def _wait_and_act(
    descriptor: int, ending: bytes, act: Callable[[], None], given_up: threading.Event
) -> bool:
    while not given_up.is_set():
        if not select.select([descriptor], [], [], _LOOK_S)[0]:
            continue
        if any(name.endswith(ending) for name in _names(os.read(descriptor, 65_536))):
            act()
            return True
    return False


def _names(events: bytes) -> list[bytes]:
    names, at = [], 0
    while at < len(events):
        *_, length = _HEADER.unpack_from(events, at)
        at += _HEADER.size
        names.append(events[at : at + length].rstrip(b"\0"))
        at += length
    return names
