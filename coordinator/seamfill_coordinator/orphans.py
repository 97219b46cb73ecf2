"""Children that do not outlive their parent, whatever ends the parent.

Owns one system call. Must not know what is started. Only Linux has it; elsewhere children end with
an orderly parent alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["die_with"]

_PR_SET_PDEATHSIG: Final = 1
# Loaded at import, because little is safe to do between fork and exec.
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent: int) -> None:
    """Have the kernel SIGKILL this process when ``parent`` dies. Call it between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)
