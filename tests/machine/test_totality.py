"""``apply`` raises for no bytes at all (S8), and a refused command leaves no trace.

Three kinds of junk: bytes, damaged commands, and commands that are well-formed msgpack of the wrong
or an extreme shape. The last kind comes furthest in, so most of the effort goes there.
"""

from __future__ import annotations

from functools import cache

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from machine import replay
from seamfill_coordinator.machine import codec, invariants
from seamfill_coordinator.machine import outcomes as o
from seamfill_coordinator.machine.machine import LeaseMachine

MANY = settings(max_examples=settings().max_examples * 5)
"""These examples cost a millisecond each, the state machine's a hundred."""

EXTREMES: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 59_999, 60_000, 1 << 31, 1 << 53, (1 << 62) - 1, 1 << 62,
    (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 0.5, float("nan"), float("inf"), "", "x", "\x00",
    "|", "native:", ":::::", "a:0:1:2:", "a:1:2:1::", "a:1:0:999999999999999::", "é" * 300,
    "\ud7ff", "f" * 32, "G" * 32, b"", b"\xff", [], [[]], {}, {"a": 1}, [1] * 20,
)  # fmt: skip


@cache
def _seed_commands() -> list[bytes]:
    """Commands of the golden logs: between them they use every operation."""
    return [data for path in sorted(replay.GOLDEN.glob("*.log")) for data, _ in replay.read(path)]


@cache
def _lived_in_snapshot() -> bytes:
    """A machine in the middle of its life, so that junk meets leases, claims and sessions."""
    machine = LeaseMachine()
    pairs = replay.read(replay.GOLDEN / "random_commands.log")
    for data, _ in pairs[: len(pairs) // 2]:
        codec.apply_encoded(machine, data)
    return machine.snapshot()


def _lived_in() -> LeaseMachine:
    return LeaseMachine.restore(_lived_in_snapshot())


def _feed(machine: LeaseMachine, data: bytes) -> o.Applied:
    """Apply, and check what holds for any bytes."""
    watch = invariants.Watch()
    watch.check(machine)
    before = machine.state_digest()
    applied = codec.apply_encoded(machine, data)
    watch.check(machine)
    if _is_refused_whole(applied):
        assert machine.state_digest() == before, (
            "a command that could not be read changed the state"
        )
    return applied


def _is_refused_whole(applied: o.Applied) -> bool:
    if len(applied.replies) != 1 or len(applied.replies[0].outcomes) != 1:
        return False
    outcome = applied.replies[0].outcomes[0]
    return isinstance(outcome, o.Rejected) and outcome.reason is o.RejectReason.UNKNOWN_COMMAND


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    _feed(_lived_in(), data)


@MANY
@given(
    which=st.integers(0, 10_000),
    damage=st.lists(
        st.tuples(st.sampled_from("xid"), st.integers(0, 400), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_commands_are_answered(which: int, damage: list[tuple[str, int, int]]) -> None:
    """Bytes flipped, inserted and deleted."""
    seeds = _seed_commands()
    data = bytearray(seeds[which % len(seeds)])
    for kind, place, byte in damage:
        if not data:
            break
        at = place % len(data)
        if kind == "x":
            data[at] ^= byte or 1
        elif kind == "i":
            data.insert(at, byte)
        else:
            del data[at]
    _feed(_lived_in(), bytes(data))


@MANY
@given(
    which=st.integers(0, 10_000),
    changes=st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, len(EXTREMES) - 1)), min_size=1, max_size=3
    ),
)
def test_extreme_values_are_answered(which: int, changes: list[tuple[int, int]]) -> None:
    """Well-formed commands in which a few leaves became something extreme."""
    seeds = _seed_commands()
    data = seeds[which % len(seeds)]
    for place, extreme in changes:
        data = _with_leaf_replaced(data, place, EXTREMES[extreme])
    _feed(_lived_in(), data)


def _with_leaf_replaced(data: bytes, place: int, value: object) -> bytes:
    tree = msgspec.msgpack.decode(data)
    leaves = list(_leaves(tree))
    if leaves:
        parent, key = leaves[place % len(leaves)]
        parent[key] = value  # type: ignore[index]
    return msgspec.msgpack.encode(tree)


def _leaves(node: object) -> list[tuple[object, object]]:
    """Every place in a tree of lists and dicts, as (container, key)."""
    places: list[tuple[object, object]] = []
    if isinstance(node, list):
        items: list[tuple[object, object]] = list(enumerate(node))
    elif isinstance(node, dict):
        items = list(node.items())
    else:
        return []
    for key, child in items:
        places.append((node, key))
        places.extend(_leaves(child))
    return places
