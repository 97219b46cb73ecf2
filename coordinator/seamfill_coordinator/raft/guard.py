"""What of the peers' messages may reach pysyncobj's Raft core, and in which shape.

Owns the rules that pysyncobj 0.3.17 lacks. Pure: it looks at the core through ``CoreView`` and
returns what to deliver and what to answer. Must not know sockets.

Why it exists (each was seen on real processes):

* the core truncates everything after ``prevLogIdx`` even when it matches, so that late or repeated
  bytes remove acknowledged entries. Here the known prefix is trimmed, and nothing is truncated
  without a conflict of terms.
* acknowledgements carry no term: one that was meant for an earlier reign counts in a later one.
  Here they are tagged, and foreign ones dropped.
* one peer's vote can be counted twice.
* a mismatch is answered one index lower per round trip, and may never end. Here the answer is our
  own commit index, which is always common.
* commands are forwarded from followers, and their callbacks lost. Here forwarding is dropped.

Invariant: what is delivered never removes an entry at or below our commit index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["CoreView", "Guard", "SafetyViolation", "Verdict"]

Message = dict[str, Any]
Entry = tuple[bytes, int, int]
"""(command, index, term)"""

_VOTES_REMEMBERED: Final = 64


class SafetyViolation(Exception):
    """A leader asked to overwrite a committed entry; this node must stop, its log is evidence."""


class CoreView(Protocol):
    """What the guard needs to see of the core."""

    @property
    def term(self) -> int: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def log(self) -> Sequence[Entry]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one incoming message."""

    deliver: Message | None = None
    answer: Message | None = None


_DROP: Final = Verdict()


class Guard:
    """The filter in front of one core."""

    def __init__(self, core: CoreView) -> None:
        self.leader_commit_index: int | None = None
        """What a leader last said to be committed, before it is cut to what is verified here."""
        self._core = core
        self._votes: dict[tuple[int, str], None] = {}

    def outgoing(self, message: Message) -> Message | None:
        """Return the message to send, or None to send nothing."""
        match message["type"]:
            case "next_node_idx":
                return {**message, "ack_term": self._core.term}
            case "apply_command" | "apply_command_response":
                return None
        return message

    def incoming(self, sender: str, message: Message) -> Verdict:
        """Judge one message of a member.

        Raises ``SafetyViolation`` when it would undo what is committed here.
        """
        match message["type"]:
            case "append_entries":
                return self._append(message)
            case "next_node_idx":
                current = self._core.is_leader and message.get("ack_term") == self._core.term
                return Verdict(deliver=message) if current else _DROP
            case "response_vote":
                return self._vote(sender, message)
            case "request_vote":
                return Verdict(deliver=message)
        return _DROP

    def _vote(self, sender: str, message: Message) -> Verdict:
        vote = (message["term"], sender)
        if vote in self._votes:
            return _DROP
        self._votes[vote] = None
        if len(self._votes) > _VOTES_REMEMBERED:
            del self._votes[next(iter(self._votes))]
        return Verdict(deliver=message)

    def _append(self, message: Message) -> Verdict:
        # Snapshots and chunked entries do not occur here: compaction is off, and commands are
        # far smaller than the batch size. Their handling in the core is not to be trusted.
        known_shape = "prevLogIdx" in message and "transmission" not in message
        if not known_shape or message["term"] < self._core.term:
            return _DROP
        self.leader_commit_index = message["commit_index"]
        previous: int | None = message["prevLogIdx"]
        if previous is None or self._term_at(previous) != message["prevLogTerm"]:
            return self._refuse(message)
        fresh = self._without_known_prefix(message["entries"])
        known = len(message["entries"]) - len(fresh)
        if known:
            _, previous, previous_term = message["entries"][known - 1]
        else:
            previous_term = message["prevLogTerm"]
        assert previous is not None
        last = self._core.log[-1][1]
        if not fresh and previous < last:
            # All of it is known and our log goes on: it may end in entries that the leader has not
            # sent yet, and that we acknowledged. Only a conflict of terms may remove them.
            return Verdict(
                deliver=self._heartbeat(message, commit_cap=previous),
                answer=_acknowledge(previous + 1),
            )
        if fresh and previous < min(last, self._core.commit_index):
            raise SafetyViolation(
                f"the leader of term {message['term']} wants to overwrite index {previous + 1}; "
                f"{self._core.commit_index} is committed here"
            )
        return Verdict(
            deliver={
                **message,
                "prevLogIdx": previous,
                "prevLogTerm": previous_term,
                "entries": fresh,
            }
        )

    def _refuse(self, message: Message) -> Verdict:
        return Verdict(
            deliver=self._heartbeat(message, commit_cap=0),
            answer={
                "type": "next_node_idx",
                "next_node_idx": max(self._core.commit_index, 1) + 1,
                "reset": True,
                "success": False,
            },
        )

    def _heartbeat(self, message: Message, *, commit_cap: int) -> Message:
        """The message without entries: it proves a leader, and commits only what is verified."""
        verified = max(self._core.commit_index, commit_cap)
        return {
            "type": "append_entries",
            "term": message["term"],
            "commit_index": min(message["commit_index"], verified),
        }

    def _without_known_prefix(self, entries: Sequence[Entry]) -> list[Entry]:
        for position, (_, index, term) in enumerate(entries):
            if self._term_at(index) != term:
                return list(entries[position:])
        return []

    def _term_at(self, index: int) -> int | None:
        log = self._core.log
        first = log[0][1]
        if first <= index <= log[-1][1]:
            return log[index - first][2]
        return None


def _acknowledge(next_index: int) -> Message:
    return {"type": "next_node_idx", "next_node_idx": next_index, "reset": False, "success": True}
