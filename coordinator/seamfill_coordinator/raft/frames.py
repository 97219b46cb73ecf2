"""Messages as frames of a byte stream: four bytes of length, then so many bytes.

Owns where a frame ends and how long one may be. Pure; must not know connections or messages.

Invariant: a length is judged as soon as its four bytes are there, before anything of the frame is
waited for. So what is kept is never more than one allowed frame and what one read brought.
A frame of length 0 says nothing but that the sender lives.
"""

from __future__ import annotations

from typing import Final

__all__ = ["KEEPALIVE", "FrameReader", "FrameTooLong", "frame_of"]

_HEADER_BYTES: Final = 4
KEEPALIVE: Final = bytes(_HEADER_BYTES)


class FrameTooLong(Exception):
    """The sender announced a frame that is longer than allowed here and now."""


def frame_of(payload: bytes) -> bytes:
    """Return the frame that carries ``payload``."""
    return len(payload).to_bytes(_HEADER_BYTES, "big") + payload


class FrameReader:
    """Cuts what was read into payloads, in order. ``limit`` may be changed between frames."""

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self._buffer: bytes | bytearray = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take what was read. ``next`` is to be called until it returns None before more comes."""
        # Mostly one read is one frame, and is cut where it lies.
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = data

    def next(self) -> bytes | None:
        """Return the next payload, None when it is not complete. Raises ``FrameTooLong``."""
        buffer, start = self._buffer, self._at + _HEADER_BYTES
        if len(buffer) >= start:
            length = int.from_bytes(buffer[self._at : start], "big")
            if length > self.limit:
                raise FrameTooLong(f"{length} bytes, at most {self.limit}")
            end = start + length
            if len(buffer) >= end:
                self._at = end
                return bytes(buffer[start:end])
        self._drop_returned()
        return None

    def _drop_returned(self) -> None:
        """Forget what was returned already: once a read, not once a frame."""
        buffer = self._buffer
        if self._at == len(buffer):
            self._buffer = b""
        elif isinstance(buffer, bytearray):
            # It gives its front away without copying the rest, which may grow to a long frame.
            del buffer[: self._at]
        else:
            self._buffer = bytearray(buffer[self._at :])
        self._at = 0
