"""Each private name of pysyncobj that the shell relies on, one by one."""

from __future__ import annotations

from pathlib import Path

import pysyncobj
import pytest
from pysyncobj import syncobj as syncobj_module

from contract.journal_rig import journal_on
from seamfill_chaos.disk import SimulatedDisk
from seamfill_coordinator.machine.outcomes import Applied
from seamfill_coordinator.raft import core as core_module
from seamfill_coordinator.raft.core import (
    PRIVATE_ATTRIBUTES,
    PRIVATE_METHODS,
    PRIVATE_NAMES,
    Core,
    UnsupportedPysyncobj,
    check_pysyncobj,
)
from seamfill_coordinator.raft.messages import Message
from seamfill_coordinator.raft.timing import RaftTiming


class NothingHappens:
    """Hooks of a core that is only built."""

    def apply(self, index: int, command: bytes) -> Applied:
        raise AssertionError(f"nothing was proposed, but {command!r} at {index}")

    def send(self, node_id: str, message: Message) -> None:
        raise AssertionError(f"there is nobody to send {message} to")

    def replicate(self) -> None:
        raise AssertionError("this core does not lead")


@pytest.mark.parametrize("name", PRIVATE_METHODS)
def test_a_start_without_the_method_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_pysyncobj()
    monkeypatch.setattr(pysyncobj.SyncObj, name, None)
    with pytest.raises(UnsupportedPysyncobj, match=name):
        check_pysyncobj()


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_start_without_the_module_name_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(syncobj_module, name)
    with pytest.raises(UnsupportedPysyncobj, match=name):
        check_pysyncobj()


def test_another_version_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "VERSION", "0.3.18")
    with pytest.raises(UnsupportedPysyncobj, match=r"0\.3\.18"):
        check_pysyncobj()


def test_a_built_core_has_every_attribute_and_our_parts_are_only_lent() -> None:
    lent = [getattr(syncobj_module, name) for name in ("createJournal", "createPoller")]
    journal = journal_on(SimulatedDisk(), directory=Path("/n1"), snapshot_index=None)
    core = Core(
        node_id="n1",
        journal=journal,
        applied_index=1,
        timing=RaftTiming(),
        now_ms=lambda: 0,
        hooks=NothingHappens(),
    )
    for name in PRIVATE_ATTRIBUTES:
        assert hasattr(core._core, name), name
    assert core._core._SyncObj__raftLog is journal
    assert lent == [getattr(syncobj_module, name) for name in ("createJournal", "createPoller")]
    kind = type(core._core)
    replicated = [name for name in dir(kind) if getattr(getattr(kind, name), "replicated", 0)]
    assert replicated == [], "entries are bytes, not pickled calls of methods"
