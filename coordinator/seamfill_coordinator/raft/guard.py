"""What of a leader's appends may reach pysyncobj's Raft core, and in which shape.

Owns the rules that pysyncobj 0.3.17 lacks. Pure: it looks at the log through ``CoreView`` and
returns what to deliver and what to answer. Must not know links, or who the sender is.

Why it exists (each was seen on real processes):

* the core truncates everything after ``prevLogIdx`` even when it matches, so that late or repeated
  bytes remove acknowledged entries. Here the known prefix is trimmed, and nothing is truncated
  without a conflict of terms.
* a message without entries advances the core's commit over its own unverified tail. Here the commit
  index is cut to what this very message has verified.
* a mismatch is answered one index lower per round trip, and may never end. Here the answer is our
  own commit index, which is always common.
* acknowledgements carry no term, and one peer's vote can be counted twice: ``node.py`` tags and
  filters those, because it knows who speaks.

Invariant: what is delivered never removes an entry at or below our commit index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from seamfill_coordinator.raft.journal_format import KINDS, Entry, term_at
from seamfill_coordinator.raft.messages import Append, Appended

__all__ = ["CoreView", "Guard", "Heartbeat", "SafetyViolation", "Verdict"]


class SafetyViolation(Exception):
    """A leader asked to overwrite a committed entry; this node must stop, its log is evidence."""


class CoreView(Protocol):
    """What the guard needs to see of the core."""

    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def log(self) -> Sequence[Entry]: ...


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A leader's word without entries: it proves the leader, and commits only what is verified."""

    term: int
    commit_index: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one append."""

    deliver: Append | Heartbeat | None = None
    answer: Appended | None = None
    malformed: bool = False
    """No honest leader sends this; nothing of it was taken."""


_STALE: Final = Verdict()
_MALFORMED: Final = Verdict(malformed=True)


class Guard:
    """The filter in front of one core."""

    def __init__(self, core: CoreView) -> None:
        self._core = core

    def judge(self, message: Append) -> Verdict:
        """Judge an append of this or a higher term.

        Raises ``SafetyViolation`` when it would undo what is committed here.
        """
        core = self._core
        if message.term < core.term:
            return _STALE
        if not _is_well_formed(message):
            return _MALFORMED
        if term_at(self._core.log, message.previous_index) == message.previous_term:
            return self._matching(message)
        first = core.log[0][1]
        if message.previous_index < first and message.entries:
            # Its beginning lies in our snapshot, hence is committed here as well as there.
            known = first - message.previous_index
            if len(message.entries) >= known and message.entries[known - 1][2] == core.log[0][2]:
                return self._matching(_without(message, known))
        return self._refusal(message)

    def _matching(self, message: Append) -> Verdict:
        """The entry before the first one is in our log, in the same term."""
        core = self._core
        if message.entries:
            message = _without(message, self._known(message.entries))
        last = core.log[-1][1]
        if message.entries:
            if message.previous_index < min(last, core.commit_index):
                raise SafetyViolation(
                    f"the leader of term {message.term} wants to overwrite index "
                    f"{message.previous_index + 1}; {core.commit_index} is committed here"
                )
            return Verdict(deliver=message)
        if message.previous_index == last:
            return Verdict(deliver=message)
        # All of it is known and our log goes on: it may end in entries that the leader has not
        # sent yet, and that we acknowledged. Only a conflict of terms may remove them.
        verified = max(core.commit_index, message.previous_index)
        return Verdict(
            deliver=Heartbeat(term=message.term, commit_index=min(message.commit_index, verified)),
            answer=Appended(
                term=message.term,
                next_index=message.previous_index + 1,
                success=True,
                reset=False,
            ),
        )

    def _refusal(self, message: Append) -> Verdict:
        committed = max(self._core.commit_index, 1)
        return Verdict(
            deliver=Heartbeat(
                term=message.term,
                commit_index=min(message.commit_index, self._core.commit_index),
            ),
            answer=Appended(term=message.term, next_index=committed + 1, success=False, reset=True),
        )

    def _known(self, entries: Sequence[Entry]) -> int:
        """Return how many of the entries, from the first one on, are in our log."""
        log = self._core.log
        for position, (_, index, term) in enumerate(entries):
            if term_at(log, index) != term:
                return position
        return len(entries)


def _without(message: Append, known: int) -> Append:
    """Return the message without its first ``known`` entries."""
    if not known:
        return message
    _, previous_index, previous_term = message.entries[known - 1]
    return Append(
        term=message.term,
        previous_index=previous_index,
        previous_term=previous_term,
        commit_index=message.commit_index,
        entries=message.entries[known:],
    )


def _is_well_formed(message: Append) -> bool:
    expected, term = message.previous_index, message.previous_term
    if expected < 1 or term > message.term:
        return False
    for command, index, entry_term in message.entries:
        expected += 1
        if index != expected or not term <= entry_term <= message.term:
            return False
        if not command or command[0] not in KINDS:
            return False
        term = entry_term
    return True
