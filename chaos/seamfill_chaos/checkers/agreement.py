"""Agreement: all members apply one log, and nobody takes back what it said.

Owns what is seen inside the nodes, fed in while the run goes on: commands applied, snapshots
loaded, states digested, terms, leaders, messages sent. The union of what was applied is the
*committed log* that the other checkers read. Must not know what commands mean.

Promises checked:

* one command per index, on every node and in every one of its lives; none skipped, none twice
* terms grow with the index; a snapshot ends in the term that its last index was committed in
* one state digest per index
* one leader per term: one life of one node
* within a life term and commit index never fall
* one vote per term and incarnation, a candidacy being a vote for oneself
* a node that spoke in a term never lives in a lower one again, unless it was wiped
* a node wakes up with every entry that it acknowledged before, unless it had to give it up since:
  what breaks this loses data only when more goes wrong, so that it is looked for by itself
* an entry is thrown away only for one of another term in its place
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from seamfill_chaos.checkers.violation import Checker, Violation
from seamfill_coordinator.raft.messages import Append, Appended, Message, Vote, VoteRequest

__all__ = ["Agreement", "Committed", "Life"]

MAX_VIOLATIONS: Final = 100
"""A cluster that diverged disagrees at every index from there on; the first ones tell the story."""


class Life(Struct, frozen=True, kw_only=True):
    """One process of a node, from its start to its end. ``number`` counts the node's starts."""

    node: str
    incarnation: str
    number: int

    def __str__(self) -> str:
        return f"{self.node} (start {self.number})"


class Committed(Struct, frozen=True, kw_only=True):
    """One command of the committed log, and who applied it first."""

    index: int
    term: int
    command: bytes
    by: Life


@dataclass(slots=True)
class _Track:
    """What one life did so far; -1: nothing yet."""

    applied: int = -1
    term: int = -1
    commit_index: int = -1
    is_awake: bool = False


class Agreement:
    """Feed it what the nodes do, in real order; read ``violations`` and ``committed``."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.committed: dict[int, Committed] = {}
        self.digests: dict[int, str] = {}
        """Index → state digest, as the first node had it."""
        self.snapshots_loaded = 0
        self._tracks: dict[Life, _Track] = {}
        self._skipped: dict[int, Life] = {}
        self._digested_by: dict[int, Life] = {}
        self._leaders: dict[int, Life] = {}
        self._votes: dict[tuple[str, str, int], str] = {}
        self._spoken: dict[tuple[str, str], int] = {}
        self._acknowledged: dict[tuple[str, str], int] = {}

    @property
    def leaders(self) -> dict[int, Life]:
        """Term → who led it."""
        return dict(self._leaders)

    @property
    def highest_term(self) -> int:
        """The highest term that any node was seen in."""
        return max((track.term for track in self._tracks.values()), default=0)

    @property
    def commands(self) -> dict[int, bytes]:
        """Index → command, of all that any node applied."""
        return {index: entry.command for index, entry in self.committed.items()}

    @property
    def terms(self) -> dict[int, int]:
        """Index → term, of the same."""
        return {index: entry.term for index, entry in self.committed.items()}

    def applied(self, life: Life, index: int, term: int, command: bytes) -> None:
        """A machine command was applied. Entries that the machine does not see are not told."""
        track = self._track(life)
        if index <= track.applied:
            self._found(f"{life} applied index {index} after index {track.applied}", index)
        self._note_skipped(life, track.applied, index)
        track.applied = max(track.applied, index)
        first = self.committed.get(index)
        if first is None:
            self._commit(Committed(index=index, term=term, command=command, by=life))
        elif (first.term, first.command) != (term, command):
            self._found(
                f"{life} applied another command than {first.by} at index {index}: "
                f"{_brief(term, command)} instead of {_brief(first.term, first.command)}",
                index,
            )

    def loaded(self, life: Life, last_index: int, last_term: int) -> None:
        """A snapshot was put in place of the machine, at start or from the leader."""
        track = self._track(life)
        self.snapshots_loaded += 1
        if last_index < track.applied:
            self._found(
                f"{life} went back to a snapshot of index {last_index} after it had applied "
                f"index {track.applied}",
                last_index,
            )
        track.applied = max(track.applied, last_index)
        if track.is_awake:
            # A snapshot of the leader's may replace a longer log that contradicts it.
            self._gave_up(life, last_index + 1)
        committed = self.committed.get(last_index)
        if committed is not None and committed.term != last_term:
            self._found(
                f"{life} loaded a snapshot that ends in term {last_term}; index {last_index} was "
                f"committed in term {committed.term}",
                last_index,
            )

    def digested(self, life: Life, index: int, state_digest: str) -> None:
        """A node's state after exactly ``index`` has this digest."""
        first = self.digests.setdefault(index, state_digest)
        by = self._digested_by.setdefault(index, life)
        if first != state_digest:
            self._found(
                f"after index {index} the state of {life} is {state_digest[:16]}, "
                f"that of {by} is {first[:16]}",
                index,
            )

    def observed(self, life: Life, *, term: int, commit_index: int, is_leader: bool) -> None:
        """What a node says of itself at some moment."""
        track = self._track(life)
        if track.term == -1:
            self._check_remembers(life, term)
        if term < track.term:
            self._found(f"{life} fell from term {track.term} to term {term}")
        if commit_index < track.commit_index:
            self._found(
                f"{life} took back its commit index: {track.commit_index} became {commit_index}",
                commit_index,
            )
        track.term, track.commit_index = (
            max(track.term, term),
            max(track.commit_index, commit_index),
        )
        if is_leader:
            first = self._leaders.setdefault(term, life)
            if first != life:
                self._found(f"{life} leads term {term}, which {first} led")

    def woke(self, life: Life, *, term: int, last_index: int) -> None:
        """A node has read its disk and has heard nobody yet."""
        self._track(life).is_awake = True
        self._check_remembers(life, term)
        acknowledged = self._acknowledged.get((life.node, life.incarnation), 0)
        if last_index < acknowledged:
            self._found(
                f"{life} woke up with a log up to index {last_index}; before that it acknowledged "
                f"index {acknowledged}",
                last_index + 1,
            )

    def truncated(self, life: Life, index: int, term: int, *, for_term: int | None) -> None:
        """A node throws its log away from ``index`` on, where it had an entry of ``term``, for one
        of ``for_term``; None when nothing takes its place."""
        if for_term is None or for_term == term:
            self._found(
                f"{life} threw away index {index} of term {term}, which its leader has as well",
                index,
            )
        self._gave_up(life, index)

    def sent(self, life: Life, target: str, message: Message) -> None:
        """A message left a node: what it said must be durable there."""
        match message:
            case Append(term=term):
                self._spoke(life, term)
            case Appended(term=term, next_index=next_index, success=success):
                self._spoke(life, term)
                if success:
                    key = (life.node, life.incarnation)
                    self._acknowledged[key] = max(self._acknowledged.get(key, 0), next_index - 1)
            case Vote(term=term):
                self._voted(life, term, target)
            case VoteRequest(term=term):
                self._voted(life, term, life.node)

    # Rules

    def _commit(self, entry: Committed) -> None:
        skipped_by = self._skipped.get(entry.index)
        if skipped_by is not None:
            self._found(
                f"{skipped_by} went past index {entry.index}, where {entry.by} applied "
                f"{_brief(entry.term, entry.command)}",
                entry.index,
            )
        self.committed[entry.index] = entry
        for neighbour in (entry.index - 1, entry.index + 1):
            other = self.committed.get(neighbour)
            if other is not None and (other.term - entry.term) * (neighbour - entry.index) < 0:
                self._found(
                    f"index {entry.index} has term {entry.term}, index {neighbour} has term "
                    f"{other.term}",
                    entry.index,
                    neighbour,
                )

    def _note_skipped(self, life: Life, before: int, index: int) -> None:
        # What lies before a life's first command was applied by an earlier one, or is no command.
        if before < 0:
            return
        for missing in range(before + 1, index):
            if missing in self.committed:
                self._found(
                    f"{life} went from index {before} to {index} without the command at {missing}",
                    missing,
                )
            else:
                self._skipped.setdefault(missing, life)

    def _check_remembers(self, life: Life, term: int) -> None:
        spoken = self._spoken.get((life.node, life.incarnation), -1)
        if term < spoken:
            self._found(f"{life} woke up in term {term}; before that it spoke in term {spoken}")

    def _gave_up(self, life: Life, index: int) -> None:
        """From ``index`` on this node has rightly forgotten what it acknowledged."""
        key = (life.node, life.incarnation)
        self._acknowledged[key] = min(self._acknowledged.get(key, 0), index - 1)

    def _voted(self, life: Life, term: int, candidate: str) -> None:
        vote = (life.node, life.incarnation, term)
        first = self._votes.setdefault(vote, candidate)
        if first != candidate:
            self._found(f"{life} voted for {candidate} in term {term}, having voted for {first}")
        self._spoke(life, term)

    def _spoke(self, life: Life, term: int) -> None:
        key = (life.node, life.incarnation)
        self._spoken[key] = max(self._spoken.get(key, -1), term)

    def _track(self, life: Life) -> _Track:
        track = self._tracks.get(life)
        if track is None:
            track = self._tracks[life] = _Track()
        return track

    def _found(self, explanation: str, *indexes: int) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(
                Violation(checker=Checker.AGREEMENT, explanation=explanation, indexes=indexes)
            )


def _brief(term: int, command: bytes) -> str:
    shown = command.hex() if len(command) <= 16 else f"{command[:16].hex()}… ({len(command)} bytes)"
    return f"term {term}, {shown}"
