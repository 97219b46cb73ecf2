"""Commands as bytes: what stands in the Raft log.

Owns encoding and total decoding. Must not know what operations do. msgpack arrays; the first
element is the machine version, so that a node can tell a newer log from a broken one before it
decodes the rest.
"""

from __future__ import annotations

from typing import Final

import msgspec

from seamfill_coordinator.machine.commands import Command
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Applied, Rejected, RejectReason, Reply

__all__ = ["apply_encoded", "command_version", "decode_command", "encode_command"]

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Return the bytes of a command."""
    return _ENCODER.encode(command)


def decode_command(data: bytes) -> Command | Rejected:
    """Return the command that ``data`` holds, or a refusal; raises for no bytes at all."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        return Rejected(reason=RejectReason.UNKNOWN_COMMAND, detail=str(exc)[:200])


def apply_encoded(machine: LeaseMachine, data: bytes) -> Applied:
    """Decode and apply; undecodable bytes change nothing and get one refusing reply."""
    command = decode_command(data)
    if type(command) is Rejected:
        return Applied(replies=(Reply(outcomes=(command,), rev=machine.rev),))
    assert type(command) is Command
    return machine.apply(command)


def command_version(data: bytes) -> int | None:
    """Return the machine version a command was made for, or None when there is none to see.

    A node that meets a higher one than it supports must stop before applying it.
    """
    # A msgpack array header (fixarray or array16), then a small positive integer.
    at = 1 if data[:1] and 0x90 <= data[0] <= 0x9F else 3 if data[:1] == b"\xdc" else 0
    if not at or len(data) <= at:
        return None
    first = data[at]
    if first < 0x80:
        return first
    if first == 0xCC and len(data) > at + 1:
        return data[at + 1]
    return None
