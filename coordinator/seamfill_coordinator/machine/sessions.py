"""Sessions: each (client, sequence) takes effect at most once.

Owns the outcomes that were promised to be found again. Must not know what they say. A session keeps
replies for sequences [low, low + 256); the client moves ``low`` itself, by what it has heard. At
the caps a new session is refused; a live one is never evicted, since a client that lost its session
can not tell whether its request took effect.
"""

from __future__ import annotations

from typing import Final

import msgspec

from seamfill_coordinator.machine.commands import OpenSession, Request
from seamfill_coordinator.machine.model import Session, State
from seamfill_coordinator.machine.outcomes import (
    Opened,
    Outcome,
    Rejected,
    RejectReason,
    Reply,
)
from seamfill_coordinator.machine.tables import forget, invalid, refused, touch

__all__ = ["IDLE_MS", "WINDOW", "expire_sessions", "look_up", "open_session", "store"]

WINDOW: Final = 256
IDLE_MS: Final = 600_000
MAX_EXPIRED_PER_COMMAND: Final = 1_000
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Reply)


def open_session(state: State, op: OpenSession) -> Outcome:
    """Give out a client id that was never used before."""
    if len(state.sessions) >= state.limits.sessions:
        return refused(RejectReason.LIMIT_EXCEEDED, "too many sessions are open")
    if state.session_bytes >= state.limits.session_bytes:
        return refused(RejectReason.LIMIT_EXCEEDED, "open sessions hold too many bytes")
    state.clients_issued += 1
    session = Session(client=state.clients_issued, used_ms=state.clock_ms)
    state.sessions[session.client] = session
    touch(state, session)
    return Opened(client=session.client, expires_after_ms=IDLE_MS)


def look_up(state: State, request: Request) -> Reply | Rejected | None:
    """Return the stored reply of a repetition, a refusal, or None when it is to be applied."""
    session = state.sessions.get(request.client)
    if session is None:
        return refused(RejectReason.SESSION_UNKNOWN, "this session does not exist any more")
    _advance(state, session, request.low)
    if request.sequence < session.low:
        return refused(RejectReason.SESSION_UNKNOWN, "this sequence was given up before")
    if request.sequence >= session.low + WINDOW:
        return invalid("sequence", f"must be below low + {WINDOW}")
    stored = session.replies.get(request.sequence)
    if stored is None:
        return None
    return msgspec.structs.replace(_DECODER.decode(stored), repeated=True)


def store(state: State, request: Request, reply: Reply) -> None:
    """Keep a reply until the client says that it has heard it."""
    session = state.sessions.get(request.client)
    if session is None:
        return
    encoded = _ENCODER.encode(reply)
    session.replies[request.sequence] = encoded
    state.session_bytes += len(encoded)


def expire_sessions(state: State) -> None:
    """End up to 1,000 sessions that were idle for ten minutes of lease clock."""
    limit_ms = state.clock_ms - IDLE_MS
    if limit_ms < 0:
        return
    for _ in range(MAX_EXPIRED_PER_COMMAND):
        session = next(iter(state.sessions.values()), None)
        if session is None or session.used_ms > limit_ms:
            return
        del state.sessions[session.client]
        state.session_bytes -= sum(map(len, session.replies.values()))
        forget(state, session)


def _advance(state: State, session: Session, low: int) -> None:
    if session.used_ms != state.clock_ms:
        session.used_ms = state.clock_ms
        state.sessions.move_to_end(session.client)
    if low > session.low:
        heard = [sequence for sequence in session.replies if sequence < low]
        for sequence in heard:
            state.session_bytes -= len(session.replies.pop(sequence))
        session.low = low
    touch(state, session)
