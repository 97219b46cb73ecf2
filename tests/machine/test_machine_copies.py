"""Codec, snapshot and digest: total, exact, the same everywhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.machine_setup import (
    Bench,
    acquire,
    covered,
    gap,
    listing,
    ref,
    submit,
    whole,
)
from seamfill.protocol.values import GapReason, Redo
from seamfill_coordinator.machine import codec
from seamfill_coordinator.machine.commands import (
    Announce,
    Claim,
    Complete,
    CompleteClaim,
    Fail,
    OpenSession,
    Release,
    Request,
)
from seamfill_coordinator.machine.invariants import check, verify_copies
from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.machine.outcomes import Claimed, Rejected, RejectReason
from seamfill_coordinator.machine.snapshot import SnapshotInvalid


def lived_in() -> Bench:
    """Return a machine with a row in every table."""
    bench = Bench()
    member = Announce(
        member="n1", url="http://127.0.0.1:1", cluster_id="c", version_min=1, version_max=1
    )
    bench.do(member)
    bench.do(OpenSession())
    bench.apply(Request(operations=(submit(0, 1_000, symbols=("A", "B", "C")),), client=1))
    grants = bench.grants(acquire(windows=20))
    bench.do(Complete(lease=ref(grants[0]), covered=whole(grants[0])))
    parts = (covered(0, 40), covered(70, 100))
    bench.do(Complete(lease=ref(grants[1]), covered=parts, gaps=(gap(40, 70),)))
    bench.do(
        Complete(
            lease=ref(grants[2]),
            covered=(),
            gaps=(gap(0, 20, GapReason.NOT_LISTED),),
            final=False,
            listed_from=listing(20, GapReason.NOT_LISTED),
        )
    )
    bench.do(Fail(lease=ref(grants[3]), code="broken", retryable=False))
    bench.do(Fail(lease=ref(grants[4]), code="later", retryable=True))
    bench.do(Release(lease=ref(grants[5])))
    bench.do(submit(0, 100, name="again", symbols=("A",), redo=Redo.RESTATED))
    (restated,) = bench.grants(acquire("w2"))
    bench.do(Complete(lease=ref(restated), covered=whole(restated, 2)))
    claimed = bench.do(Claim(key="n:60:0:60::", lease_ms=0))
    assert isinstance(claimed, Claimed)
    bench.do(CompleteClaim(key="n:60:0:60::", token=claimed.token))
    bench.do(Claim(key="opaque", lease_ms=600_000))
    bench.wait(36_000)
    bench.grants(acquire("w2", windows=3))
    return bench


def test_a_restored_machine_is_equal_and_goes_on_alike() -> None:
    bench = lived_in()
    verify_copies(bench.machine)
    copy = Bench()
    copy.machine = LeaseMachine.restore(bench.machine.snapshot())
    copy.term, copy.reign_ms = bench.term, bench.reign_ms
    for _ in range(30):
        assert bench.do(acquire("w3"), after_ms=700) == copy.do(acquire("w3"), after_ms=700)
    assert bench.machine.state_digest() == copy.machine.state_digest()
    assert bench.machine.snapshot() == copy.machine.snapshot()


def test_no_table_is_empty_in_this_test() -> None:
    """A table that is always empty would prove nothing about copies."""
    state = lived_in().machine.state
    tables = (
        state.datasets, state.series, state.workers, state.sources, state.leases, state.backfills,
        state.sessions, state.namespaces, state.claims, state.members, state.restatements,
        state.completions, state.finished, state.claims_done, state.events,
    )  # fmt: skip
    assert all(tables)
    assert state.waiting_count
    assert state.gap_count


def test_the_digest_does_not_depend_on_when_it_was_asked_for() -> None:
    bench = lived_in()
    often = LeaseMachine()
    for data in bench.log:
        codec.apply_encoded(often, data)
        often.state_digest()
    check(often)
    assert often.state_digest() == bench.machine.state_digest()


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_equal_logs_give_equal_digests_under_any_hash_seed(seed: str) -> None:
    bench = lived_in()
    script = (
        "import sys\n"
        "from seamfill_coordinator.machine import codec\n"
        "from seamfill_coordinator.machine.machine import LeaseMachine\n"
        "machine = LeaseMachine()\n"
        "for line in sys.stdin:\n"
        "    codec.apply_encoded(machine, bytes.fromhex(line))\n"
        "import hashlib\n"
        "print(machine.state_digest(), hashlib.sha256(machine.snapshot()).hexdigest())\n"
    )
    lines = "\n".join(data.hex() for data in bench.log)
    found = subprocess.run(
        [sys.executable, "-c", script],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    digest, _ = found.stdout.split()
    assert digest == bench.machine.state_digest()


def test_every_damage_to_a_snapshot_is_noticed() -> None:
    data = lived_in().machine.snapshot()
    chance = random.Random(5)
    for _ in range(400):
        damaged = bytearray(data)
        at = chance.randrange(len(data))
        damaged[at] ^= 1 << chance.randrange(8)
        with pytest.raises(SnapshotInvalid):
            LeaseMachine.restore(bytes(damaged))
    for cut in range(0, len(data), 97):
        with pytest.raises(SnapshotInvalid):
            LeaseMachine.restore(data[:cut])
    with pytest.raises(SnapshotInvalid, match="follows"):
        LeaseMachine.restore(data + data[8:])


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    machine = LeaseMachine()
    applied = codec.apply_encoded(machine, data)
    assert all(type(reply.outcomes[0]) is Rejected for reply in applied.replies)


@given(st.data())
def test_damaged_commands_never_raise(data: st.DataObject) -> None:
    """Byte flips in real commands reach deep into validation, random bytes hardly do."""
    machine = LeaseMachine()
    for encoded in lived_in_log():
        damaged = bytearray(encoded)
        for at in data.draw(st.lists(st.integers(0, len(encoded) - 1), max_size=2)):
            damaged[at] = data.draw(st.integers(0, 255))
        codec.apply_encoded(machine, bytes(damaged))
    check(machine)


_LOG: list[bytes] = []


def lived_in_log() -> list[bytes]:
    """Return the log of ``lived_in``, made once."""
    if not _LOG:
        _LOG.extend(lived_in().log)
    return _LOG


def test_undecodable_bytes_get_one_refusing_reply() -> None:
    machine = LeaseMachine()
    for data in (b"", b"\xc1", b"\x93\x01", b"\xdd\xff\xff\xff\xff", b"\x91" * 5_000):
        (reply,) = codec.apply_encoded(machine, data).replies
        (refusal,) = reply.outcomes
        assert isinstance(refusal, Rejected)
        assert refusal.reason is RejectReason.UNKNOWN_COMMAND
    assert machine.rev == 0


def test_the_version_can_be_seen_without_decoding_the_rest() -> None:
    data = lived_in_log()[3]
    assert codec.command_version(data) == 1
    assert codec.command_version(data[:1] + b"\xcc\xc8" + data[2:]) == 200
    assert codec.command_version(b"") is None
    assert codec.command_version(b"\xc1abc") is None
