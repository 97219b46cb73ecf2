"""Where every console script begins, before anything heavy is loaded.

Owns what Ctrl-C means while a program is still loading: it ends at once, with exit code 130 and one
line. Must not import anything but the standard library, and of that little, because nothing guards
the time until it is loaded. What Ctrl-C means to a command that runs is the command's own
(``terminal.Program``, the servers' stop signals).

Why not ``KeyboardInterrupt``: it can be raised inside any line of any import. Shown to the user it
is a page of traceback; and pysyncobj looks for an optional package under a bare ``except``, which
takes it for "not installed", so that the program goes on as if nobody had asked it to stop. While
we are loading there is nothing to clean up, so the process can simply end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

__all__ = ["INTERRUPTED", "loading", "run_program"]

INTERRUPTED = 130
_STDERR = 2


def run_program(program: str, module: str) -> None:
    """Load ``module`` and run its ``main`` as the console script ``program``."""
    with loading(program):
        main = import_module(module).main
    try:
        main(prog_name=program)
    except KeyboardInterrupt:
        # Before click was in charge, or after: its commands end in their own way (``Program``).
        _end(program)
    finally:
        # All that is left is the interpreter's own end.
        signal.signal(signal.SIGINT, lambda *_: _end(program))


@contextmanager
def loading(program: str) -> Iterator[None]:
    """Let Ctrl-C end the process while the block imports. For the main thread."""
    before = signal.signal(signal.SIGINT, lambda *_: _end(program))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(program: str) -> None:
    with suppress(OSError):  # nobody reads our messages any more
        os.write(_STDERR, f"{program}: interrupted\n".encode())
    os._exit(INTERRUPTED)
