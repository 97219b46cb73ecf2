"""Segments and mark: puts groups on the disk where ``replay`` will find them.

Owns the order of writes, syncs and renames in one directory, and the room they need. Must not know
why a group is written, nor what to do when the disk fails: every ``OSError`` passes through, and
after one the writer must not be used again.

Invariants:

* a group is written only after the one before it was durable, and the mark only after its own;
* what a write needs was reserved when its segment was created. A full disk is met there, by an
  exception, never in the middle of a group, and never as SIGBUS: nothing is mapped;
* a segment has its name only when its header and first group are durable;
* a segment is removed only after a durable group has made its entries unneeded, oldest first.
"""

from __future__ import annotations

import logging
from pathlib import Path

from seamfill.logs import log_event
from seamfill_coordinator.raft.journal_files import File, Files
from seamfill_coordinator.raft.journal_format import (
    MARK_BYTES,
    Group,
    Mark,
    SegmentHeader,
    encode_group,
    encode_header,
    encode_mark,
)
from seamfill_coordinator.raft.journal_replay import (
    MARK_NAME,
    PARTIAL_SUFFIX,
    Contents,
    SegmentSummary,
    segment_name,
)

__all__ = ["SegmentWriter"]

_log = logging.getLogger(__name__)


class SegmentWriter:
    """The writing side of one journal; its methods raise ``OSError``."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        contents: Contents | None,
        *,
        cluster_id: str,
        incarnation: str,
        segment_bytes: int,
    ) -> None:
        """Begin a new journal, or go on behind what ``replay`` found."""
        self._directory = directory
        self._files = files
        self._cluster_id = cluster_id
        self._incarnation = incarnation
        self._segment_bytes = segment_bytes
        self._segments: list[SegmentSummary] = []
        self._end = self._size = self._crc = 0
        self._file: File | None = None
        self.is_closed = False
        self._remove_partial_files()
        if contents is None:
            files.make_directory(directory)
            self._mark = self._create_mark()
        else:
            self._mark = files.open(directory / MARK_NAME)
            self._resume(contents)

    @property
    def size(self) -> int:
        """Bytes of the journal's files, reserved ones included."""
        return MARK_BYTES + sum(segment.size for segment in self._segments)

    def write(self, group: Group) -> int:
        """Make ``group`` durable, move the mark, drop what it made old; return its size.

        Raises ``BadBytes`` when it is larger than a group may be.
        """
        data, crc = encode_group(group, self._crc)
        if self._file is None or self._end + len(data) > self._size:
            self._begin_segment(group)
        else:
            self._file.write(self._end, data)
            self._file.sync_data()
            self._end += len(data)
            self._crc = crc
            self._put_mark()
        self._drop_segments_before(group.first)
        return len(data)

    def close(self) -> None:
        self.is_closed = True
        for file in (self._file, self._mark):
            if file is not None:
                file.close()

    def _begin_segment(self, group: Group) -> None:
        """Create the next segment with ``group`` in it; it appears whole or not at all.

        Its bytes are durable before it gets its name, and its name before the mark moves there.
        """
        segment = self._segments[-1].segment + 1 if self._segments else 1
        header, header_crc = encode_header(
            SegmentHeader(
                cluster_id=self._cluster_id,
                incarnation=self._incarnation,
                segment=segment,
                previous_end=self._end,
                previous_crc=self._crc,
            )
        )
        data, crc = encode_group(group, header_crc)
        size = max(self._segment_bytes, len(header) + len(data))
        file = self._create(segment_name(segment), header + data, reserve=size)
        if self._file is not None:
            self._file.close()
        self._file, self._size, self._crc = file, size, crc
        self._end = len(header) + len(data)
        self._segments.append(
            SegmentSummary(segment=segment, size=size, lowest=group.start, end=self._end)
        )
        self._put_mark()
        # Not left to chance as it is elsewhere: the segments before this one may go now, and a mark
        # in one that is gone would look like a loss.
        self._mark.sync()

    def _create(self, name: str, data: bytes, *, reserve: int) -> File:
        partial = self._directory / (name + PARTIAL_SUFFIX)
        file = self._files.create(partial, reserve=reserve)
        try:
            file.write(0, data)
            file.sync()
            self._files.rename(partial, self._directory / name)
            self._files.sync_directory(self._directory)
        except OSError:
            file.close()
            raise
        return file

    def _create_mark(self) -> File:
        # Before the first segment, so that a segment without a mark is always a loss.
        mark = encode_mark(Mark(segment=0, end=0, crc=0))
        file = self._create(MARK_NAME, mark, reserve=MARK_BYTES)
        self._files.sync_directory(self._directory.parent)  # where the directory may be new
        return file

    def _put_mark(self) -> None:
        mark = Mark(segment=self._segments[-1].segment, end=self._end, crc=self._crc)
        self._mark.write(0, encode_mark(mark))

    def _drop_segments_before(self, first: int) -> None:
        while len(self._segments) > 1 and self._segments[1].lowest <= first:
            dropped = self._segments.pop(0)
            self._files.remove(self._directory / segment_name(dropped.segment))
            # One by one: were the removals reordered, a hole between segments would remain.
            self._files.sync_directory(self._directory)

    def _resume(self, contents: Contents) -> None:
        last = contents.segments[-1]
        self._segments = contents.segments
        self._end, self._size, self._crc = last.end, last.size, contents.crc
        self._file = self._files.open(self._directory / segment_name(last.segment))
        if contents.torn is not None:
            log_event(
                _log,
                "journal.torn_group_cut",
                level=logging.WARNING,
                file=contents.torn.file,
                offset=contents.torn.offset,
                reason=contents.torn.reason,
            )
            self._file.cut(last.end, reserve=last.size)
        # What was read behind the mark may be known to the kernel alone: its process was killed
        # before the fdatasync, or died of a failed one, after which the pages count as clean though
        # they are on no disk. The core will act on it, so it is written again and then synced.
        self._file.write(contents.unmarked_from, contents.unmarked)
        self._file.sync()
        self._put_mark()
        self._mark.sync()
        self._drop_segments_before(contents.first)

    def _remove_partial_files(self) -> None:
        for name in self._files.names(self._directory):
            if name.endswith(PARTIAL_SUFFIX):
                self._files.remove(self._directory / name)
