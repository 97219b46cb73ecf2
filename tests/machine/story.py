"""Scenario texts: stories of commands, with the machine's answers written below each.

Owns the little language of ``scenarios/*.txt`` and how outcomes read. Must not judge: a test
compares the text with a fresh telling, and ``--rewrite`` stores the telling for a reviewer.

Every line that begins in the first column is a comment (``#``) or a command; the indented lines
below a command are what the machine answered. Bars are numbered: bar n opens at n × interval.
``[a,b)`` is a half-open range of bars.

Unless a story begins with ``# model: off`` (it uses what the naive model leaves out, such as
limits), each of its commands is also checked against the model.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from machine.builders import DENSE, covered, gap, listing
from machine.pair import Pair
from seamfill.protocol.backfills import BackfillView, Wanted
from seamfill.protocol.values import (
    DatasetSpec,
    GapReason,
    LeaseRef,
    Redo,
    SeriesId,
    SourceOffer,
    Usage,
    WorkerIdentity,
)
from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine import views

RANGE: Final = re.compile(r"\[(\d+),(\d+)\)(?:=(\w+))?")


@dataclass(frozen=True)
class Words:
    """A command line taken apart: a verb, plain words, ranges with labels, ``name=value`` pairs."""

    verb: str
    plain: tuple[str, ...]
    ranges: tuple[tuple[int, int, str | None], ...]
    named: dict[str, str]

    @classmethod
    def parse(cls, line: str) -> Words:
        verb, *words = shlex.split(line)
        plain: list[str] = []
        ranges: list[tuple[int, int, str | None]] = []
        named: dict[str, str] = {}
        for word in words:
            if match := RANGE.fullmatch(word):
                ranges.append((int(match[1]), int(match[2]), match[3]))
            elif re.match(r"^[a-z_]+=", word):
                name, _, value = word.partition("=")
                named[name] = value
            else:
                plain.append(word)
        return cls(verb=verb, plain=tuple(plain), ranges=tuple(ranges), named=named)

    def number(self, name: str, default: int) -> int:
        return int(self.named.get(name, default))

    def seconds(self, name: str, default_ms: int) -> int:
        """Read a time in seconds as milliseconds."""
        return round(float(self.named[name]) * 1000) if name in self.named else default_ms


class Story:
    """Tell one scenario. Each ``_verb_*`` method is a verb of the language."""

    def __init__(self, *, with_model: bool) -> None:
        self.pair = Pair(compare=with_model)
        self.specs: dict[str, DatasetSpec] = {"1m": DENSE}
        self.grants: dict[int, o.Grant] = {}

    @classmethod
    def retell(cls, text: str) -> str:
        """Return the text with every answer replaced by what the machine answers now."""
        return cls._read(text)[0]

    @classmethod
    def log_of(cls, text: str) -> list[bytes]:
        """Return the encoded commands of a story, in order."""
        return cls._read(text)[1]

    @classmethod
    def _read(cls, text: str) -> tuple[str, list[bytes]]:
        story = cls(with_model="# model: off" not in text)
        told: list[str] = []
        for line in text.splitlines():
            if line.startswith((" ", "\t")):
                continue
            told.append(line)
            if line and not line.startswith("#"):
                told.extend(f"  {answer}" for answer in story.tell(line))
        story.pair.check_snapshot()
        story.pair.check_replay()
        return "\n".join(told) + "\n", story.pair.log

    def tell(self, line: str) -> Iterator[str]:
        """Carry out one command line and describe what happened."""
        words = Words.parse(line)
        if words.verb == "as":
            client, sequence, low = (int(number) for number in words.plain[0].split("/"))
            rest = line.split(None, 2)[2]
            yield from self._send(
                self._operation(Words.parse(rest)), client=client, sequence=sequence, low=low
            )
        elif hasattr(self, f"_verb_{words.verb}"):
            verb: Callable[[Words], Iterator[str]] = getattr(self, f"_verb_{words.verb}")
            yield from verb(words)
        else:
            yield from self._send(self._operation(words))

    # ------------------------------------------------------------------ verbs without an operation

    def _verb_dataset(self, words: Words) -> Iterator[str]:
        """``dataset NAME interval=60 source=… store=… dense=yes``: what later submits will say."""
        self.specs[words.plain[0]] = DatasetSpec(
            kind=words.named.get("kind", "ohlcv"),
            interval_ms=words.seconds("interval", DENSE.interval_ms),
            source=words.named.get("source", DENSE.source),
            store=words.named.get("store", DENSE.store),
            dense=words.named.get("dense", "yes") == "yes",
        )
        yield from ()

    def _verb_clock(self, words: Words) -> Iterator[str]:
        """``clock 130.0``: ticks until the lease clock shows this many seconds."""
        target_ms = round(float(words.plain[0]) * 1000)
        assert target_ms >= self.pair.machine.clock_ms, "a story's clock only goes forward"
        self.pair.advance(target_ms - self.pair.machine.clock_ms)
        yield from ()

    def _verb_tick(self, words: Words) -> Iterator[str]:
        """``tick 7.5``: one stamp, this many seconds after the last."""
        self.pair.send(advance_ms=round(float(words.plain[0]) * 1000))
        yield f"clock {self.pair.machine.clock_ms / 1000:.1f}"

    def _verb_stamp(self, words: Words) -> Iterator[str]:
        """``stamp term=2 reign=0.0``: one stamp of any term and time."""
        self.pair.term = words.number("term", self.pair.term)
        self.pair.reign_ms = words.seconds("reign", self.pair.reign_ms)
        self.pair.send()
        yield f"clock {self.pair.machine.clock_ms / 1000:.1f}"

    def _verb_repeat(self, words: Words) -> Iterator[str]:
        """``repeat 40 barrier``: the same command many times; only the last answer is shown."""
        answers: list[str] = []
        for number in range(int(words.plain[0])):
            line = " ".join(words.plain[1:]).replace("#", str(number + 1))
            answers = list(self.tell(line))
        yield from answers[-1:]

    def _verb_show(self, words: Words) -> Iterator[str]:
        """``show coverage|backfill|leases|rev …``: a reader's view."""
        what, *rest = words.plain
        match what:
            case "coverage":
                yield from self._coverage(self._series(rest[0]), words)
            case "backfill":
                yield _backfill(views.backfill(self.pair.machine, rest[0]))
            case "leases":
                yield from self._leases()
            case "rev":
                yield f"rev {self.pair.machine.rev}"
            case _:
                raise AssertionError(f"nothing to show: {what}")

    def _verb_digest(self, words: Words) -> Iterator[str]:
        """``digest``: a restored snapshot and a replayed log are this very state."""
        self.pair.check_snapshot()
        self.pair.check_replay()
        yield "snapshot and replay agree"

    # ------------------------------------------------------------------ operations

    def _send(
        self, operation: c.Operation, *, client: int = 0, sequence: int = 0, low: int = 0
    ) -> Iterator[str]:
        request = c.Request(operations=(operation,), client=client, sequence=sequence, low=low)
        (reply,) = self.pair.send_requests((request,))
        for outcome in reply.outcomes:
            if isinstance(outcome, o.Granted):
                self.grants.update({grant.fence: grant for grant in outcome.grants})
            for line in self._describe(outcome):
                yield f"{line} (repeated)" if reply.repeated else line

    def _operation(self, words: Words) -> c.Operation:
        match words.verb:
            case "barrier":
                return c.Barrier()
            case "session":
                return c.OpenSession()
            case "submit":
                return self._submit(words)
            case "cancel":
                return c.CancelBackfill(backfill_id=words.plain[0])
            case "pause":
                return c.PauseBackfill(backfill_id=words.plain[0])
            case "resume":
                return c.ResumeBackfill(backfill_id=words.plain[0])
            case "pause-source":
                return c.PauseSource(source=words.plain[0])
            case "resume-source":
                return c.ResumeSource(source=words.plain[0])
            case "drain":
                return c.DrainWorker(worker_id=words.plain[0])
            case "acquire":
                return _acquire(words)
            case "claim":
                return c.Claim(key=words.plain[0], lease_ms=words.seconds("ttl", 0))
            case "complete-claim":
                return c.CompleteClaim(key=words.plain[0], token=words.plain[1])
            case "fail-claim":
                return c.FailClaim(key=words.plain[0], token=words.plain[1])
            case "limits":
                return c.SetLimits(
                    limits=c.Limits(**{name: int(value) for name, value in words.named.items()})
                )
            case _:
                return self._lease_operation(words)

    def _submit(self, words: Words) -> c.Submit:
        dataset, symbol = self._series(words.plain[-1])
        interval = self.specs[dataset].interval_ms
        return c.Submit(
            backfill_id=words.plain[0] if len(words.plain) > 1 else "",
            dataset=dataset,
            spec=self.specs[dataset],
            wanted=tuple(
                Wanted(symbol=symbol, start_ms=start * interval, end_ms=end * interval)
                for start, end, _ in words.ranges
            ),
            closed_before_ms=words.seconds("closed_before", 0),
            window_bars=words.number("window", 1800),
            priority=words.number("priority", 0),
            deadline_ms=words.number("deadline", 0) or None,
            redo=Redo(words.named["redo"]) if "redo" in words.named else None,
            dry_run=words.named.get("dry_run") == "yes",
        )

    def _lease_operation(self, words: Words) -> c.Operation:
        fence = int(words.plain[0])
        grant = self.grants[fence]
        ref = LeaseRef(
            series=SeriesId(dataset=grant.dataset, symbol=grant.symbol),
            start_ms=grant.start_ms,
            end_ms=grant.end_ms,
            fence=fence,
        )
        usage: tuple[Usage, ...] = ()
        if "penalty" in words.named:
            usage = (
                Usage(source=grant.spec.source, penalty_ms=words.seconds("penalty", 0), status=429),
            )
        match words.verb:
            case "renew":
                cursor = words.number("cursor", 0) * grant.spec.interval_ms
                return c.Renew(
                    lease=ref,
                    ttl_ms=words.seconds("ttl", 30_000),
                    cursor_ms=cursor or None,
                    usage=usage,
                )
            case "complete":
                return _complete(ref, grant, words)
            case "fail":
                return c.Fail(
                    lease=ref,
                    code=words.plain[1],
                    retryable="for-good" not in words.plain,
                    delay_ms=words.seconds("delay", 0),
                    usage=usage,
                )
            case "release":
                return c.Release(lease=ref, no_write_in_flight="clean" in words.plain)
            case "snooze":
                return c.Snooze(lease=ref, delay_ms=words.seconds("delay", 0), usage=usage)
            case "revoke":
                return c.Revoke(lease=ref)
            case _:
                raise AssertionError(f"no such verb: {words.verb}")

    def _series(self, word: str) -> tuple[str, str]:
        dataset, _, symbol = word.rpartition("|")
        return dataset or "1m", symbol

    # ------------------------------------------------------------------ how answers read

    def _describe(self, outcome: o.Outcome) -> Iterator[str]:
        match outcome:
            case o.Rejected():
                yield _rejected(outcome)
            case o.Accepted():
                yield self._accepted(outcome)
            case o.Granted(grants=grants):
                for grant in grants:
                    yield _grant(grant)
            case o.Nothing(why=why, retry_after_ms=retry_after_ms):
                yield f"nothing: {why}, ask again after {_seconds(retry_after_ms)}"
            case o.Renewed(ttl_ms=ttl_ms, directive=directive):
                yield f"renewed: {directive.value}, ttl {_seconds(ttl_ms)}"
            case o.Completed(coverage_rev=rev, remaining=remaining):
                yield f"completed at rev {rev}" + (", the lease keeps the rest" * remaining)
            case o.Already(coverage_rev=rev):
                yield f"already completed at rev {rev}"
            case o.Requeued(delay_ms=delay_ms, attempts=attempts):
                yield f"requeued for {_seconds(delay_ms)}, attempts {attempts}"
            case o.Violated(reason=reason):
                yield f"violated: {reason}"
            case o.Released(delay_ms=delay_ms):
                yield f"released, due in {_seconds(delay_ms)}"
            case o.Opened(client=client, expires_after_ms=idle_ms):
                yield f"client {client}, ends after {_seconds(idle_ms)} idle"
            case o.Claimed(token=token, ttl_ms=ttl_ms, completion_ratio=ratio):
                yield f"claimed: token {token}, ttl {_seconds(ttl_ms)}, done {_ratio(ratio)}"
            case o.ClaimFinished(completion_ratio=ratio):
                yield f"finished, done {_ratio(ratio)}"
            case o.Done():
                yield "done"

    def _accepted(self, plan: o.Accepted) -> str:
        interval = next(iter(self.specs.values())).interval_ms
        text = (
            f"accepted {plan.backfill_id}: [{plan.start_ms // interval},{plan.end_ms // interval})"
        )
        if (plan.start_ms, plan.end_ms) != (plan.requested_start_ms, plan.requested_end_ms):
            first, last = plan.requested_start_ms // interval, plan.requested_end_ms // interval
            text += f" of [{first},{last})"
        text += f", {plan.bars} bars in {plan.windows} windows"
        already = {
            "covered": plan.already_covered,
            "gap": plan.already_gap,
            "violated": plan.already_violated,
        }
        text += "".join(f", {count} already {what}" for what, count in already.items() if count)
        return text + ", repeated" * plan.repeated + ", dry run" * plan.dry_run

    def _coverage(self, series: tuple[str, str], words: Words) -> Iterator[str]:
        as_of = words.number("as_of", -1)
        answer = views.coverage(
            self.pair.machine,
            SeriesId(dataset=series[0], symbol=series[1]),
            None,
            None,
            as_of=None if as_of < 0 else as_of,
        )
        interval = self.specs[series[0]].interval_ms

        def bars(start_ms: int, end_ms: int) -> str:
            return f"[{start_ms // interval},{end_ms // interval})"

        for each in answer.covered:
            digest = "unaudited" if each.content_digest is None else each.content_digest[:8]
            place = bars(each.start_ms, each.end_ms)
            yield f"covered {place} gen {each.gen}, {each.rows} rows, {digest}"
        for hole in answer.gaps:
            proof = "with its receipt" if hole.receipt is not None else "by the listing date"
            yield f"gap {bars(hole.start_ms, hole.end_ms)} {hole.reason.value} {proof}"
        for bad in answer.violated:
            kind = "redo failed" if bad.redo_failed else "violated"
            yield f"{kind} {bars(bad.start_ms, bad.end_ms)} {bad.reason}"
        for flight in answer.in_flight:
            holder = f" by {flight.holder}" if flight.holder else ""
            yield f"{flight.state} {bars(flight.start_ms, flight.end_ms)}{holder}"
        for start_ms, end_ms in answer.restated:
            yield f"restated {bars(start_ms, end_ms)}: the ledger does not reach back"

    def _leases(self) -> Iterator[str]:
        for lease in views.leases(self.pair.machine).leases:
            left = _seconds(lease.remaining_ms)
            yield f"{lease.fence} {lease.holder or '-'} {lease.state}, {left} left"


def _acquire(words: Words) -> c.Acquire:
    worker, _, boot = words.plain[0].partition("@")
    return c.Acquire(
        worker=WorkerIdentity(id=worker, boot=boot or "boot"),
        offers=tuple(
            SourceOffer(source=source)
            for source in words.named.get("sources", DENSE.source).split(",")
        ),
        stores=tuple(words.named.get("stores", DENSE.store).split(",")),
        max_windows=words.number("max", 1),
        ttl_ms=words.seconds("ttl", 30_000),
    )


def _complete(ref: LeaseRef, grant: o.Grant, words: Words) -> c.Complete:
    interval = grant.spec.interval_ms
    flavour = words.named.get("content", f"gen {grant.gen}")
    rows = words.number("rows", -1)
    listed, delisted = words.number("listed_from", -1), words.number("delisted_at", -1)
    return c.Complete(
        lease=ref,
        covered=tuple(
            covered(grant.symbol, start * interval, end * interval, grant.spec, flavour, rows)
            for start, end, reason in words.ranges
            if reason is None
        ),
        gaps=tuple(
            gap(start * interval, end * interval, GapReason(reason))
            for start, end, reason in words.ranges
            if reason is not None
        ),
        final="keep" not in words.plain,
        listed_from=listing(listed * interval, GapReason.NOT_LISTED) if listed >= 0 else None,
        delisted_at=listing(delisted * interval, GapReason.DELISTED) if delisted >= 0 else None,
    )


def _rejected(refusal: o.Rejected) -> str:
    facts = {
        "field": refusal.field,
        "covered": refusal.covered,
        "holder": refusal.holder,
        "retry_after": None if refusal.retry_after_ms is None else _seconds(refusal.retry_after_ms),
        "done": None if refusal.completion_ratio is None else _ratio(refusal.completion_ratio),
    }
    told = "".join(f", {name} {value}" for name, value in facts.items() if value is not None)
    return f"refused: {refusal.reason.value}{told}"


def _grant(grant: o.Grant) -> str:
    interval = grant.spec.interval_ms
    place = f"[{grant.start_ms // interval},{grant.end_ms // interval})"
    text = f"granted {grant.fence}: {grant.symbol} {place} gen {grant.gen}"
    text += f", ttl {_seconds(grant.ttl_ms)}"
    if grant.attempts:
        text += f", attempts {grant.attempts}"
    if grant.cursor_ms is not None:
        text += f", cursor {grant.cursor_ms // interval}"
    if grant.listed_from_ms is not None:
        text += f", listed from {grant.listed_from_ms // interval}"
    if grant.delisted_at_ms is not None:
        text += f", delisted at {grant.delisted_at_ms // interval}"
    return text


def _backfill(view: BackfillView | None) -> str:
    if view is None:
        return "not known"
    return (
        f"{view.id} {view.state}: {view.bars_verified} covered + {view.bars_gap} gap"
        f" + {view.bars_violated} violated of {view.bars_wanted}, {view.bars_leased} leased,"
        f" ratio {view.ratio:.3f}"
    )


def _seconds(ms: int) -> str:
    return f"{ms / 1000:g} s"


def _ratio(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.2f}"
