"""Configuration as replicated state: members, limits, machine version, paused sources.

Owns the few rows that operators and leaders set. Must not know who is allowed to.
"""

from __future__ import annotations

from typing import Final

from seamfill_coordinator.machine.commands import (
    Announce,
    Limits,
    PauseSource,
    ResumeSource,
    SetLimits,
    SetVersion,
)
from seamfill_coordinator.machine.model import Member, SourceRow, State
from seamfill_coordinator.machine.outcomes import Done, Outcome, RejectReason
from seamfill_coordinator.machine.tables import emit, invalid, is_name, refused, touch

__all__ = [
    "NEWEST_VERSION",
    "announce",
    "pause_source",
    "resume_source",
    "set_limits",
    "set_version",
]

NEWEST_VERSION: Final = 1
"""The highest machine version this code can apply; a node that meets a higher one stops."""
MAX_MEMBERS: Final = 64
MAX_URL: Final = 500
MAX_LIMIT: Final = 1 << 40


def announce(state: State, op: Announce) -> Outcome:
    """Keep a member's address and the versions it supports; the first one names the cluster."""
    if not is_name(op.member):
        return invalid("member", "must be 1-200 characters, no control characters or '|'")
    if not 1 <= len(op.url) <= MAX_URL:
        return invalid("url", f"must be 1-{MAX_URL} characters")
    if not is_name(op.cluster_id):
        return invalid("cluster_id", "must be 1-200 characters, no control characters or '|'")
    if not 1 <= op.version_min <= op.version_max < MAX_LIMIT:
        return invalid("version_min", "must be 1 or more and not above version_max")
    if state.cluster_id and state.cluster_id != op.cluster_id:
        return refused(RejectReason.WRONG_STATE, f"this is cluster {state.cluster_id!r}")
    if not op.version_min <= state.version <= op.version_max:
        return refused(RejectReason.WRONG_STATE, f"the machine version is {state.version}")
    member = state.members.get(op.member)
    if member is None:
        if len(state.members) >= MAX_MEMBERS:
            return refused(RejectReason.LIMIT_EXCEEDED, f"{MAX_MEMBERS} members are known")
        member = Member(name=op.member, url="", version_min=1, version_max=1)
        state.members[op.member] = member
    state.cluster_id = op.cluster_id
    member.url, member.version_min, member.version_max = op.url, op.version_min, op.version_max
    touch(state, member)
    return Done()


def pause_source(state: State, op: PauseSource) -> Outcome:
    """Grant nothing of this source until it is resumed."""
    return _set_paused(state, op.source, is_paused=True)


def resume_source(state: State, op: ResumeSource) -> Outcome:
    """Let a paused source go on."""
    return _set_paused(state, op.source, is_paused=False)


def set_limits(state: State, op: SetLimits) -> Outcome:
    """Replace all caps. A table above its new cap keeps its rows and takes no more."""
    for name in Limits.__struct_fields__:
        value = getattr(op.limits, name)
        if not 1 <= value <= MAX_LIMIT:
            return invalid(f"limits.{name}", f"must be 1 to {MAX_LIMIT}")
    state.limits = op.limits
    return Done()


def set_version(state: State, op: SetVersion) -> Outcome:
    """Raise the machine version, when every announced member supports the new one."""
    if op.version < state.version:
        return refused(RejectReason.WRONG_STATE, f"the machine version is {state.version} already")
    for member in state.members.values():
        if not member.version_min <= op.version <= member.version_max:
            return refused(
                RejectReason.WRONG_STATE,
                f"member {member.name!r} supports {member.version_min} to {member.version_max}",
            )
    if op.version > NEWEST_VERSION:
        return refused(RejectReason.WRONG_STATE, f"version {op.version} does not exist")
    state.version = op.version
    return Done()


def _set_paused(state: State, source: str, *, is_paused: bool) -> Outcome:
    row = state.sources.get(source)
    if row is None:
        if not is_name(source):
            return invalid("source", "must be 1-200 characters, no control characters or '|'")
        if len(state.sources) >= state.limits.sources:
            return refused(RejectReason.LIMIT_EXCEEDED, "too many sources are known")
        row = SourceRow(name=source)
        state.sources[source] = row
    row.is_paused = is_paused
    touch(state, row)
    emit(state, "source.paused" if is_paused else "source.resumed", ("source", source))
    return Done()
