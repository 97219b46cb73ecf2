"""What a leader sends its members, and how much at once.

Owns the appends: from where, how large, how many bytes on their way to a slow member. Must not know
elections or the disk; a member whose next entry lies in the snapshot is handed to ``shipping.py``.

Invariants: no append is larger than ``APPEND_BYTES`` unless a single entry is; not more than
``IN_FLIGHT_BYTES`` are on their way to a member that has not acknowledged them; while a member's
log is not known to match, only one append is; entries on their way are not sent once more because a
member refuses what left before them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.journal_format import Entry
from seamfill_coordinator.raft.messages import Append, Appended

__all__ = ["APPEND_BYTES", "IN_FLIGHT_BYTES", "Feeder"]

APPEND_BYTES: Final = 1 << 20
IN_FLIGHT_BYTES: Final = 8 << 20
_ENTRY_OVERHEAD_BYTES: Final = 24
_ENTRIES_PER_APPEND: Final = 4_096


@dataclass(slots=True)
class _Progress:
    """What is under way to one member."""

    sent: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(first index, last index, bytes) of each append with entries not acknowledged yet."""
    in_flight_bytes: int = 0
    unanswered: int = 0
    """Appends, heartbeats among them, without an answer yet: each has one, in order."""
    older: int = 0
    """How many of those left before the first one of ``sent``."""
    is_matching: bool = False
    """Whether the member has said in this reign that its log matches ours so far."""

    def is_bringing(self, index: int) -> bool:
        """Whether a refusal that asks for entries from ``index`` on is older than those."""
        return bool(self.sent) and self.older > 0 and self.sent[0][0] == index

    def count_answer(self) -> None:
        self.unanswered = max(0, self.unanswered - 1)
        self.older = max(0, self.older - 1)

    def forget(self, end: int | None = None) -> None:
        """Forget the appends that end before ``end``; None means all."""
        while self.sent and (end is None or self.sent[0][1] < end):
            self.in_flight_bytes -= self.sent.popleft()[2]


class Feeder:
    """The appends of one leader."""

    def __init__(
        self,
        core: Core,
        *,
        send: Callable[[str, Append], None],
        ship: Callable[[str], None],
    ) -> None:
        """``ship`` is asked to bring a snapshot to a member, each time it could go on."""
        self._core = core
        self._send = send
        self._ship = ship
        self._progress: dict[str, _Progress] = {}
        self._last: Append | None = None

    def feed(self, members: Sequence[str], *, heartbeat: bool) -> bool:
        """Send every connected member what it lacks; with ``heartbeat`` at least a word.

        Return whether every one of them was sent something.
        """
        spoken_to = [self._feed(node_id, heartbeat=heartbeat) for node_id in members]
        return all(spoken_to)

    def answered(self, node_id: str, message: Appended) -> None:
        """Tell the core of an answer, and note what it says of what is on its way."""
        progress = self._of(node_id)
        is_refusal = message.reset or not message.success
        if is_refusal and progress.is_bringing(message.next_index):
            # A new leader's heartbeats are refused one by one. A slow link would be sent the same
            # entries once for each.
            self._core.heard(node_id)
        else:
            self._core.deliver_appended(node_id, message)
            progress.is_matching = not is_refusal
            progress.forget(None if is_refusal else message.next_index)
        progress.count_answer()

    def lost(self, node_id: str) -> None:
        """Note that the connection or the membership is gone, and with it what was on its way."""
        self._progress.pop(node_id, None)
        # Of a member that never answered this leader nothing is known. Guessing the beginning of
        # the log would mean that it needs a snapshot; if it does, it will say so itself.
        first_index = self._core.first_index
        self._core.set_next_index(node_id, max(self._core.match_index(node_id), first_index) + 1)

    def reign_changed(self) -> None:
        """Forget what an earlier reign had under way."""
        self._progress.clear()
        self._last = None

    def _of(self, node_id: str) -> _Progress:
        progress = self._progress.get(node_id)
        if progress is None:
            progress = self._progress[node_id] = _Progress()
        return progress

    def _feed(self, node_id: str, *, heartbeat: bool) -> bool:
        core = self._core
        was_spoken_to = heartbeat
        progress = self._of(node_id)
        first, last = core.log[0][1], core.log[-1][1]
        start = core.next_index(node_id)
        if start <= first:
            # It answers the heartbeat with what it has; the snapshot brings it up to our log.
            if heartbeat:
                self._append(node_id, progress, first, ())
            self._ship(node_id)
            return was_spoken_to
        while start <= last and _may_send(progress):
            entries = _entries_from(core.log, start - first)
            self._append(node_id, progress, start - 1, entries)
            start += len(entries)
            core.set_next_index(node_id, start)
            was_spoken_to, heartbeat = True, False
        if heartbeat:
            self._append(node_id, progress, start - 1, ())
        return was_spoken_to

    def _append(
        self, node_id: str, progress: _Progress, previous_index: int, entries: tuple[Entry, ...]
    ) -> None:
        core = self._core
        last = self._last
        # Members that are equally far get the same object, which is encoded once.
        if (
            last is None
            or last.previous_index != previous_index
            or last.commit_index != core.commit_index
            or len(last.entries) != len(entries)
            or last.term != core.term
        ):
            last = Append(
                term=core.term,
                previous_index=previous_index,
                previous_term=core.log[previous_index - core.first_index][2],
                commit_index=core.commit_index,
                entries=entries,
            )
            self._last = last
        if entries:
            size = sum(len(entry[0]) + _ENTRY_OVERHEAD_BYTES for entry in entries)
            if not progress.sent:
                progress.older = progress.unanswered
            progress.sent.append((entries[0][1], entries[-1][1], size))
            progress.in_flight_bytes += size
        progress.unanswered += 1
        self._send(node_id, last)


def _may_send(progress: _Progress) -> bool:
    if not progress.is_matching:
        return not progress.sent
    return progress.in_flight_bytes < IN_FLIGHT_BYTES


def _entries_from(log: Sequence[Entry], position: int) -> tuple[Entry, ...]:
    """Return as many entries as one append carries, at least one."""
    size = 0
    end = position
    last = min(len(log), position + _ENTRIES_PER_APPEND)
    while end < last:
        size += len(log[end][0]) + _ENTRY_OVERHEAD_BYTES
        if size > APPEND_BYTES and end > position:
            break
        end += 1
    return tuple(log[position:end])
