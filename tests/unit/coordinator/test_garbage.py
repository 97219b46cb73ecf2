"""Which of this process's objects a full collection walks, and when."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from seamfill.clock import SystemClock
from seamfill_coordinator.app import run_node
from seamfill_coordinator.config import load_config
from seamfill_coordinator.garbage import GarbageCollection

MUCH = 60_000
FEW = MUCH // 10


class Linked:
    """Something that is cyclic garbage as soon as nobody holds it."""

    def __init__(self) -> None:
        self.itself = self


@dataclass
class Node(SystemClock):
    """What it asks: the time, and whether the node follows."""

    now_ms: int = 0
    is_following: bool = False

    def monotonic_ms(self) -> int:
        return self.now_ms


@pytest.fixture
def node() -> Iterator[Node]:
    """A node that does not follow, where nothing but the test collects."""
    node = Node()
    with _only_when_asked(), GarbageCollection(is_following=lambda: node.is_following, clock=node):
        yield node


@contextmanager
def _only_when_asked() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("node")
def test_much_that_was_alive_in_one_collection_is_not_walked_by_the_next() -> None:
    state: list[list[object]] = [[] for _ in range(MUCH)]
    gc.collect()
    assert len(gc.get_objects()) < FEW
    state.extend([] for _ in range(10))
    assert len(gc.get_objects()) < FEW, "and what has come since is little"


@pytest.mark.usefixtures("node")
def test_what_was_there_at_the_beginning_is_not_walked() -> None:
    assert len(gc.get_objects()) < FEW


@pytest.mark.usefixtures("node")
def test_new_garbage_is_found_beside_what_is_set_apart() -> None:
    gone = weakref.ref(Linked())
    assert gone() is not None
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("node")
def test_little_is_not_set_apart() -> None:
    """Connections that are open now would stay when they end."""
    held = Linked()
    gone = weakref.ref(held)
    gc.collect()
    del held
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("is_following", "waits_ms"),
    [(True, 60_000), (False, 24 * 3_600_000)],
    ids=["follows", "leads"],
)
def test_garbage_that_was_set_apart_waits_for_a_thorough_collection(
    node: Node, is_following: bool, waits_ms: int
) -> None:
    node.is_following = is_following
    for _ in range(2):
        held = Linked()
        state: list[list[object]] = [[] for _ in range(MUCH)]
        gone = weakref.ref(held)
        gc.collect()
        del held
        node.now_ms += waits_ms - 1
        gc.collect()
        assert gone() is not None
        node.now_ms += 1
        gc.collect()
        assert gone() is None
        assert len(state) == MUCH
        assert len(gc.get_objects()) < FEW, "what it found alive is set apart again"


def test_collections_of_the_young_set_nothing_apart(node: Node) -> None:
    node.is_following, node.now_ms = True, 60_000
    before = gc.get_freeze_count()
    young = Linked()
    gc.collect(0)
    gc.collect(1)
    assert gc.get_freeze_count() == before
    assert young.itself is young


def test_nothing_is_set_apart_once_it_is_over() -> None:
    callbacks = list(gc.callbacks)
    with GarbageCollection(is_following=lambda: True, clock=Node()):
        assert gc.get_freeze_count() > FEW
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


async def test_a_node_collects_like_this_while_it_serves(tmp_path: Path) -> None:
    flags = {
        "node-id": "n1",
        "cluster-id": "c1",
        "listen": "127.0.0.1:0",
        "peer-listen": "127.0.0.1:0",
        "data-dir": str(tmp_path),
    }
    before, serving = list(gc.callbacks), list[object]()

    def stop_at_once(_ready: dict[str, object]) -> None:
        serving.extend(gc.callbacks)
        os.kill(os.getpid(), signal.SIGTERM)

    await run_node(load_config(flags, {}), on_ready=stop_at_once)
    assert len(serving) == len(before) + 1
    assert gc.callbacks == before
