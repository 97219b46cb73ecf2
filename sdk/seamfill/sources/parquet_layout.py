"""Where bars lie in a Parquet store, and which of two overlapping files counts.

Owns names of directories and files, their format version, and the rule of fences. Must not touch a
file. Pure; the reader here and the worker's writer share it.

::

    DIR/seamfill-store.json                          the format of the whole directory
    DIR/<dataset>/<symbol>/g<gen>/<start>-<end>.f<fence>.<take>.parquet

Invariants: two different series never share a path, on case-insensitive file systems neither; no
path leaves ``DIR``. Of overlapping files of one generation, the one with the highest
``(fence, take)`` wins for its whole range: where the winner has no row, there is none.

A *take* counts what one holder wrote over its own earlier windows of other bounds: without it, two
files of one fence would overlap with nothing to say which is newer. It is 0 nearly always.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from seamfill.errors import StoreRefused
from seamfill.protocol.values import SeriesId

__all__ = [
    "FORMAT",
    "MARKER",
    "Piece",
    "WrittenWindow",
    "check_marker",
    "encode_name",
    "gen_directory",
    "marker_bytes",
    "next_take",
    "parse_file_name",
    "resolve",
    "series_directory",
]

FORMAT: Final = 1
"""Version of everything on disk: names, marker, columns and metadata of the files."""

MARKER: Final = "seamfill-store.json"

# Windows reserves these names with any extension; NAME_MAX is 255 on what we care about.
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_MAX_NAME_BYTES: Final = 200
_KEPT: Final = {
    "lower": frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-."),
    "upper": frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."),
}
_FILE_NAME: Final = re.compile(
    r"(?P<start_ms>[0-9]{1,15})-(?P<end_ms>[0-9]{1,15})"
    r"\.f(?P<fence>[0-9]{1,19})\.(?P<take>[0-9]{1,9})\.parquet"
)


class _Marker(msgspec.Struct, frozen=True):
    kind: str
    format: int


def marker_bytes() -> bytes:
    """Return the content of the file that names the directory's format."""
    return msgspec.json.encode(_Marker(kind="parquet", format=FORMAT)) + b"\n"


def check_marker(content: bytes, directory: Path) -> None:
    """Raise ``StoreRefused`` unless this program understands the directory's format."""
    try:
        marker = msgspec.json.decode(content, type=_Marker)
    except msgspec.DecodeError as exc:
        raise StoreRefused(f"{directory / MARKER} is damaged: {exc}") from exc
    if marker.kind != "parquet":
        raise StoreRefused(f"{directory} is a store of kind {marker.kind!r}, not parquet")
    if marker.format > FORMAT:
        raise StoreRefused(
            f"{directory} has the Parquet store format {marker.format}; this program knows up to "
            f"{FORMAT}: upgrade seamfill"
        )


def encode_name(name: str, *, letters: Literal["lower", "upper"]) -> str:
    """Turn any name into one file name, different names into names that differ beyond case.

    Only one case of letters stands for itself, the other is percent-encoded like every other
    character: so no two results differ by case alone, and datasets (lower) and symbols (upper)
    stay readable. Names that would be too long end in ``~`` and a hash.
    """
    kept = _KEPT[letters]
    encoded = "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in name.encode())
    if encoded.startswith(".") or _RESERVED.fullmatch(encoded):
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if encoded.endswith("."):
        encoded = f"{encoded[:-1]}%2E"
    if len(encoded) > _MAX_NAME_BYTES:
        # `~` is never kept, so no short name can look like this one.
        encoded = f"{encoded[:120]}~{sha256(name.encode()).hexdigest()[:32]}"
    return encoded


def series_directory(directory: Path, series: SeriesId) -> Path:
    """Return where all generations of a series lie."""
    dataset = encode_name(series.dataset, letters="lower")
    return directory / dataset / encode_name(series.symbol, letters="upper")


def gen_directory(directory: Path, series: SeriesId, gen: int) -> Path:
    """Return where the files of one generation lie, side by side."""
    return series_directory(directory, series) / f"g{gen}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class WrittenWindow:
    """One file: the half-open range that it answers for, and its rank among overlapping ones."""

    start_ms: int
    end_ms: int
    fence: int
    take: int = 0

    @property
    def file_name(self) -> str:
        return f"{self.start_ms}-{self.end_ms}.f{self.fence}.{self.take}.parquet"

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        return self.start_ms < end_ms and start_ms < self.end_ms


def parse_file_name(name: str) -> WrittenWindow | None:
    """Return what a file's name says, or None for a file that is not a finished window."""
    found = _FILE_NAME.fullmatch(name)
    if found is None:
        return None
    return WrittenWindow(**{part: int(digits) for part, digits in found.groupdict().items()})


def next_take(present: Iterable[WrittenWindow], *, start_ms: int, end_ms: int, fence: int) -> int:
    """Return the take under which a window must be written to win over its holder's earlier ones.

    Repeating a window returns the take it already has (and so replaces that file), unless another
    window of the same fence was written over it since.
    """
    take = 0
    for window in present:
        if window.fence != fence or not window.overlaps(start_ms, end_ms):
            continue
        same = window.start_ms == start_ms and window.end_ms == end_ms
        take = max(take, window.take if same else window.take + 1)
    return take


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a range, and the one window whose rows count there."""

    window: WrittenWindow
    start_ms: int
    end_ms: int


def resolve(windows: Sequence[WrittenWindow], start_ms: int, end_ms: int) -> list[Piece]:
    """Cut ``[start_ms, end_ms)`` into ascending, disjoint pieces, each with its winning window.

    Parts that no window answers for are left out. O(n log n): a sweep over the bounds, with the
    windows that are open at each of them in a heap ordered by rank.
    """
    inside = sorted(window for window in windows if window.overlaps(start_ms, end_ms))
    bounds = sorted(
        {max(window.start_ms, start_ms) for window in inside}
        | {min(window.end_ms, end_ms) for window in inside}
    )
    pieces: list[Piece] = []
    heap: list[tuple[int, int, WrittenWindow]] = []
    upcoming = 0
    for at_ms, next_ms in itertools.pairwise(bounds):
        while upcoming < len(inside) and inside[upcoming].start_ms <= at_ms:
            window = inside[upcoming]
            heapq.heappush(heap, (-window.fence, -window.take, window))
            upcoming += 1
        while heap and heap[0][2].end_ms <= at_ms:
            heapq.heappop(heap)
        if not heap:
            continue
        winner = heap[0][2]
        if pieces and pieces[-1].window == winner and pieces[-1].end_ms == at_ms:
            pieces[-1] = Piece(window=winner, start_ms=pieces[-1].start_ms, end_ms=next_ms)
        else:
            pieces.append(Piece(window=winner, start_ms=at_ms, end_ms=next_ms))
    return pieces
