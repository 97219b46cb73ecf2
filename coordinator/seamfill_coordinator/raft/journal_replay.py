"""What a journal's bytes say, and whether they may be believed.

Owns reading: from segments and mark to log, term and vote, with the one decision that matters here:
is what can not be read a *torn group* or *corruption*? Pure but for the ``read`` it is handed. Must
not repair anything.

The rule. A group is written only after the one before it was durable, and the mark only after its
own group was. So everything before the mark, every segment but the last, and the group a segment
was created with were durable once: bad or missing bytes there are corruption, and a node that
carried on would have forgotten what it acknowledged or voted. Behind that point only the one group
that was being written can be bad: nobody was told of it, it may be cut.

Invariants: the answer is either the state after some group at or behind the mark, or a refusal that
names file and offset; nothing is skipped to go on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from seamfill.errors import SeamfillError
from seamfill_coordinator.raft.journal_format import (
    BadBytes,
    Entry,
    Group,
    Mark,
    SegmentHeader,
    UnknownVersion,
    decode_group,
    decode_header,
    decode_mark,
)

__all__ = [
    "MARK_NAME",
    "PARTIAL_SUFFIX",
    "Contents",
    "JournalCorrupt",
    "JournalVersionUnknown",
    "SegmentSummary",
    "TornTail",
    "replay",
    "segment_name",
    "segment_number",
]

MARK_NAME: Final = "mark"
PARTIAL_SUFFIX: Final = ".partial"
_SEGMENT_SUFFIX: Final = ".segment"
_DIGITS: Final = 16
_ZEROS: Final = bytes(4096)


class JournalCorrupt(SeamfillError):
    """The journal is damaged: move the data directory away, let the node fetch all from its peers.

    ``file`` and ``offset`` say where. Do not do that on a second node before the first has caught
    up: what a majority has lost is lost.
    """

    code: ClassVar[str] = "journal_corrupt"

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"{file}, offset {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class JournalVersionUnknown(SeamfillError):
    """A newer version wrote this journal; start that version, or a newer one."""

    code: ClassVar[str] = "journal_version_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """What remains of a group whose write did not finish."""

    file: str
    offset: int
    reason: str


@dataclass(slots=True, kw_only=True)
class SegmentSummary:
    """One segment, as far as it was read."""

    segment: int
    size: int
    """Of the file, reserve included."""
    lowest: int
    """Index at which its first group went on: entries from there on are in no older segment.

    A later truncation may lower that; then an older segment is kept longer than it had to be.
    """
    end: int = 0
    groups: int = 0
    entries: int = 0


@dataclass(slots=True, kw_only=True)
class Contents:
    """A journal's state after its last group. Mutable: ``replay`` builds it group by group."""

    header: SegmentHeader
    segments: list[SegmentSummary] = field(default_factory=list)
    term: int = 0
    vote: str | None = None
    commit: int = 1
    first: int = 1
    entries: list[Entry] = field(default_factory=list)
    crc: int = 0
    """Of the last group: where the chain goes on."""
    mark: Mark
    torn: TornTail | None = None
    unmarked_from: int = 0
    """Offset in the last segment from which durability is not certain."""
    unmarked: bytes = b""
    """The good groups from there on."""
    _base: int = 1
    """Index of ``entries[0]``, or of the entry to come; above ``first`` while older ones miss."""

    @property
    def last(self) -> int:
        """Index of the last entry; ``first - 1`` when there is none."""
        return self._base + len(self.entries) - 1

    def take(self, group: Group, summary: SegmentSummary) -> None:
        """Advance by one group. Raises ``BadBytes`` when it does not fit what came before."""
        start = group.start
        if start < self._base:
            # Also the first group of the oldest segment that is left: of the entries it keeps, none
            # is here. They must have been dropped by a later group, which is checked at the end.
            self.entries.clear()
            self._base = start
        elif group.keep < group.first:
            self.entries.clear()
            self._base = start
        else:
            if start > self.last + 1:
                raise BadBytes(f"a group goes on at index {start}, the log ends at {self.last}")
            del self.entries[start - self._base :]
        self.entries.extend(group.entries)
        if group.first > self._base:
            del self.entries[: group.first - self._base]
            self._base = group.first
        self.term, self.vote, self.commit = group.term, group.vote, group.commit
        self.first = group.first
        summary.groups += 1
        summary.entries += len(group.entries)

    @property
    def is_complete(self) -> bool:
        """Whether the log begins at its first entry."""
        return self._base == self.first

    def start_log_at(self, index: int) -> None:
        """Say that nothing before ``index`` can be here: the oldest segment begins there."""
        self._base = index


def segment_name(segment: int) -> str:
    """Return the file name of a segment; names sort as their numbers do."""
    return f"{segment:0{_DIGITS}d}{_SEGMENT_SUFFIX}"


def segment_number(name: str) -> int | None:
    """Return the number in a segment's file name; None for any other name."""
    digits = name.removesuffix(_SEGMENT_SUFFIX)
    if name == digits or len(digits) != _DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def replay(
    names: Sequence[str],
    read: Callable[[str], bytes],
    *,
    where: str = "",
) -> Contents | None:
    """Return what the journal holds; None when nothing was ever durable in it.

    ``names``: all file names of the directory; ``read`` returns a file's bytes; ``where`` goes
    before file names in messages. Raises ``JournalCorrupt``, ``JournalVersionUnknown``.
    """
    segments = sorted(n for n in map(segment_number, names) if n is not None)
    if not segments and MARK_NAME not in names:
        return None
    mark = _read_mark(names, read, where)
    if not segments and mark.segment == 0:
        return None
    _check_segments_are_all_there(segments, mark, where)
    contents: Contents | None = None
    for segment in segments:
        reader = _SegmentReader(
            file=where + segment_name(segment), segment=segment, data=read(segment_name(segment))
        )
        header = reader.header()
        if contents is None:
            contents = Contents(header=header, mark=mark)
        else:
            reader.check_continues(contents)
            contents.header = header
        reader.take_groups(contents, mark)
    assert contents is not None, "there is at least one segment"
    if not contents.is_complete:
        raise JournalCorrupt(
            where + segment_name(segments[0] - 1), 0, f"missing; the log begins at {contents.first}"
        )
    return contents


def _read_mark(names: Sequence[str], read: Callable[[str], bytes], where: str) -> Mark:
    if MARK_NAME not in names:
        raise JournalCorrupt(where + MARK_NAME, 0, "missing")
    try:
        return decode_mark(read(MARK_NAME))
    except BadBytes as exc:
        raise JournalCorrupt(where + MARK_NAME, 0, str(exc)) from exc


def _check_segments_are_all_there(segments: list[int], mark: Mark, where: str) -> None:
    # Without any, the mark's is the one to name.
    known = segments or [mark.segment + 1]
    for expected, segment in enumerate(known, known[0]):
        if segment != expected:
            raise JournalCorrupt(where + segment_name(expected), 0, "missing")
    # The mark is synced whenever a segment begins, before an older one goes; it names segment 0
    # until then.
    is_new = mark.segment == 0 and known[0] == 1
    if not (known[0] <= mark.segment <= known[-1] or is_new):
        raise JournalCorrupt(where + segment_name(mark.segment), 0, "missing; the mark is in it")


@dataclass(slots=True, kw_only=True)
class _SegmentReader:
    """Reads one segment; every refusal names its file."""

    file: str
    segment: int
    data: bytes
    _header: SegmentHeader | None = None
    _crc: int = 0
    _offset: int = 0

    def header(self) -> SegmentHeader:
        try:
            self._header, self._crc, self._offset = decode_header(self.data)
        except BadBytes as exc:
            raise self._corrupt(0, str(exc)) from exc
        except UnknownVersion as exc:
            raise JournalVersionUnknown(f"{self.file} has {exc}") from exc
        if self._header.segment != self.segment:
            raise self._corrupt(0, f"this is segment {self._header.segment} under another name")
        return self._header

    def check_continues(self, contents: Contents) -> None:
        """Check that this segment follows the one that was read last."""
        assert self._header is not None
        previous, mine = contents.header, self._header
        before = contents.segments[-1]
        if contents.torn is not None:
            raise JournalCorrupt(contents.torn.file, contents.torn.offset, contents.torn.reason)
        if before.end < mine.previous_end:
            file = self.file.removesuffix(segment_name(self.segment)) + segment_name(before.segment)
            raise JournalCorrupt(file, before.end, f"nothing up to {mine.previous_end}")
        if (mine.previous_end, mine.previous_crc) != (before.end, contents.crc):
            raise self._corrupt(0, "does not continue the segment before it")
        if (mine.cluster_id, mine.incarnation) != (previous.cluster_id, previous.incarnation):
            raise self._corrupt(0, "belongs to another journal")

    def take_groups(self, contents: Contents, mark: Mark) -> None:
        """Read groups up to the end of the segment's durable part, or behind it to its end."""
        summary = SegmentSummary(segment=self.segment, size=len(self.data), lowest=0)
        marked_end = mark.end if mark.segment == self.segment else 0
        is_marked_group_met = marked_end == 0
        offset, crc, first_end = self._offset, self._crc, 0
        while True:
            is_durable = summary.groups == 0 or offset < marked_end
            if not is_durable and self._only_reserve_from(offset):
                break
            try:
                group, crc_after, end = decode_group(self.data, offset, crc)
                if summary.groups == 0:
                    self._begin(contents, summary, group)
                contents.take(group, summary)
            except BadBytes as exc:
                if is_durable:
                    raise self._corrupt(offset, str(exc)) from exc
                # If another segment follows, it was durable after all: ``check_continues``.
                contents.torn = TornTail(file=self.file, offset=offset, reason=str(exc))
                break
            offset, crc = end, crc_after
            first_end = first_end or end
            is_marked_group_met |= (end, crc) == (marked_end, mark.crc)
        if not is_marked_group_met:
            raise self._corrupt(marked_end, "no group ends at the mark as the mark says")
        summary.end, contents.crc = offset, crc
        contents.unmarked_from = max(marked_end, first_end)
        contents.unmarked = self.data[contents.unmarked_from : offset]

    def _only_reserve_from(self, offset: int) -> bool:
        # Compared in place: the reserve is long, and a copy of it, or a look at each byte, slow.
        whole_end = offset + (len(self.data) - offset) // len(_ZEROS) * len(_ZEROS)
        for at in range(offset, whole_end, len(_ZEROS)):
            if not self.data.startswith(_ZEROS, at):
                return False
        return not self.data[whole_end:].strip(b"\0")

    @staticmethod
    def _begin(contents: Contents, summary: SegmentSummary, group: Group) -> None:
        summary.lowest = group.start
        if not contents.segments:
            contents.start_log_at(group.start)
        contents.segments.append(summary)

    def _corrupt(self, offset: int, reason: str) -> JournalCorrupt:
        return JournalCorrupt(self.file, offset, reason)
