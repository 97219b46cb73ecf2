"""What the demo shows: a story on the left of time, progress and coverage now.

Owns rendering; must not know processes or HTTP. On a terminal it redraws one live block below the
story; otherwise it prints plain lines, the progress every ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seamfill.coverage_strip import LEGEND, coverage_strip
from seamfill.protocol.backfills import CoverageAnswer

__all__ = ["Screen", "SeriesProgress", "progress_of"]

_PLAIN_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesProgress:
    """One symbol's line."""

    symbol: str
    bars_done: int
    bars_wanted: int
    strip: str


def progress_of(answer: CoverageAnswer, interval_ms: int, *, width: int) -> SeriesProgress:
    """Reduce a coverage answer to a line."""
    done_ms = sum(part.end_ms - part.start_ms for part in answer.covered)
    done_ms += sum(part.end_ms - part.start_ms for part in answer.gaps)
    return SeriesProgress(
        symbol=answer.series.symbol,
        bars_done=done_ms // interval_ms,
        bars_wanted=(answer.end_ms - answer.start_ms) // interval_ms,
        strip=coverage_strip(answer, width=width),
    )


class Screen:
    """The demo's terminal. Use as a context manager; ``say`` and ``show`` from one thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._started = time.monotonic()
        self._printed_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def strip_width(self) -> int:
        return max(20, min(60, self._console.width - 50))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def say(self, sentence: str, *, style: str = "") -> None:
        """Add a line to the story."""
        stamp = Text(f"{self.elapsed_s:6.1f} s  ", style="dim")
        self._console.print(Text.assemble(stamp, Text(sentence, style=style)), soft_wrap=True)

    def quote(self, text: str) -> None:
        """Print a command's output, indented."""
        for line in text.rstrip().splitlines():
            self._console.print(Text(f"          {line}"), soft_wrap=True)

    def show(self, series: Mapping[str, SeriesProgress], cluster: str) -> None:
        """Show the state of the fill now."""
        if self._live is not None:
            self._live.update(self._block(series, cluster))
        elif self.elapsed_s - self._printed_s >= _PLAIN_EVERY_S:
            self._printed_s = self.elapsed_s
            for line in series.values():
                share = line.bars_done / max(line.bars_wanted, 1)
                self._console.print(f"          {line.symbol:<10} {share:4.0%} {line.strip}")
            self._console.print(f"          {cluster}")

    def table(self, table: Table) -> None:
        self._console.print(table)

    def _block(self, series: Mapping[str, SeriesProgress], cluster: str) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        for line in series.values():
            share = line.bars_done / max(line.bars_wanted, 1)
            grid.add_row(
                Text(line.symbol, style="bold"),
                ProgressBar(total=max(line.bars_wanted, 1), completed=line.bars_done, width=14),
                f"{share:4.0%}",
                Text(line.strip, style="green"),
            )
        return Group(Text(), grid, Text(LEGEND, style="dim"), Text(cluster, style="cyan"))
