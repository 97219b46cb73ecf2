"""The compatibility leases of the naive model: a list of claims, scanned every time.

Owns claims and the ring of what is done, for a few keys. Must not know native leases. The key's
grammar is the one of http-api.md, written here a second time on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seamfill_coordinator.machine import commands as c
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine.outcomes import Rejected, RejectReason

CLAIM_DEFAULT_MS: Final = 120_000
CLAIM_MIN_MS: Final = 1_000
CLAIM_MAX_MS: Final = 600_000
DONE_REFUSES_MS: Final = 10_000


@dataclass(frozen=True)
class Key:
    """What excludes what: a name, and the bars (as multiples of one second) that it speaks of."""

    name: tuple[object, ...]
    seconds: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read ``node_id:interval:start:end[:world[:as_of]]``, or take the text as opaque."""
        parts = text.split(":")
        for split in range(1, len(parts) - 2):
            numbers = parts[split : split + 3]
            if all(number.isascii() and number.isdigit() for number in numbers):
                interval, start, end = (int(number) for number in numbers)
                if interval > 0 and start <= end:
                    rest = parts[split + 3 :]
                    world, as_of = (rest[0] if rest else ""), ":".join(rest[1:])
                    name = (":".join(parts[:split]), interval, world, as_of)
                    return cls(name, frozenset(range(start, end + interval)))
        return cls((text,), frozenset({0}))

    def overlaps(self, other: Key) -> bool:
        return self.name == other.name and bool(self.seconds & other.seconds)


@dataclass
class NaiveClaim:
    text: str
    key: Key
    token: str
    deadline: int


class NaiveClaims:
    """All claims of the compatibility namespace."""

    def __init__(self) -> None:
        self.live: list[NaiveClaim] = []
        self.done: list[tuple[Key, int]] = []

    def expire(self, clock: int) -> None:
        """Claims have no lock-delay: past its deadline one is gone."""
        self.live = [claim for claim in self.live if clock < claim.deadline]

    def ratio(self, key: Key) -> float:
        done: set[int] = set()
        for other, _ in self.done:
            if other.name == key.name:
                done |= other.seconds
        return len(key.seconds & done) / len(key.seconds)

    def claim(self, claim: c.Claim, clock: int, fence: int) -> o.Outcome:
        if claim.key.startswith("native:"):
            return Rejected(reason=RejectReason.INVALID)
        key = Key.parse(claim.key)
        waits = [other.deadline - clock for other in self.live if other.key.overlaps(key)]
        waits += [
            at + DONE_REFUSES_MS - clock
            for other, at in self.done
            if other.overlaps(key) and clock < at + DONE_REFUSES_MS
        ]
        if waits:
            return Rejected(reason=RejectReason.HELD)
        ttl = CLAIM_DEFAULT_MS
        if claim.lease_ms != 0:
            ttl = min(CLAIM_MAX_MS, max(CLAIM_MIN_MS, claim.lease_ms))
        self.live.append(NaiveClaim(claim.key, key, str(fence), clock + ttl))
        return o.Claimed(token=str(fence), ttl_ms=ttl, completion_ratio=self.ratio(key))

    def complete(self, complete: c.CompleteClaim, clock: int) -> o.Outcome:
        found = self._find(complete.key, complete.token)
        if isinstance(found, Rejected):
            return found
        self.live.remove(found)
        self.done.append((found.key, clock))
        return o.ClaimFinished(completion_ratio=self.ratio(found.key))

    def fail(self, fail: c.FailClaim, clock: int) -> o.Outcome:
        found = self._find(fail.key, fail.token)
        if isinstance(found, Rejected):
            return found
        self.live.remove(found)
        return o.ClaimFinished(completion_ratio=self.ratio(found.key))

    def _find(self, text: str, token: str) -> NaiveClaim | Rejected:
        """Find the live claim of this key; one with another token means that ours is stale."""
        live = [claim for claim in self.live if claim.text == text]
        if not live:
            return Rejected(reason=RejectReason.NOT_FOUND)
        if live[0].token != token:
            return Rejected(reason=RejectReason.STALE_FENCE)
        return live[0]
