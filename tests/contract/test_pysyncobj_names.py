"""Each private name of pysyncobj that the shell relies on, one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pysyncobj import syncobj as syncobj_module

from contract.cluster_rig import free_port
from seamfill_coordinator.raft import core as core_module
from seamfill_coordinator.raft.core import (
    PRIVATE_ATTRIBUTES,
    PRIVATE_NAMES,
    Core,
    CoreSettings,
    UnsupportedPysyncobj,
    check_pysyncobj,
)
from seamfill_coordinator.raft.poller import LoopPoller
from seamfill_coordinator.raft.timing import RaftTiming

pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*journal\.meta:pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_the_method_exists(owner: type, name: str) -> None:
    assert callable(getattr(owner, name))


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_a_start_without_the_method_is_refused_by_name(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, None)
    with pytest.raises(UnsupportedPysyncobj, match=name):
        check_pysyncobj()


def test_another_version_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "VERSION", "0.3.18")
    with pytest.raises(UnsupportedPysyncobj, match=r"0\.3\.18"):
        check_pysyncobj()


async def test_a_built_core_has_every_attribute_and_the_poller_is_only_lent(
    tmp_path: Path,
) -> None:
    original = syncobj_module.createPoller
    poller = LoopPoller(
        asyncio.get_running_loop(), after_event=lambda: None, on_error=lambda exc: None
    )
    core = Core(
        CoreSettings(
            cluster_id="c",
            node_id="n1",
            listen=f"127.0.0.1:{free_port()}",
            peers={},
            journal=tmp_path / "journal",
            dump=tmp_path / "dump",
            timing=RaftTiming(),
        ),
        apply=lambda command: pytest.fail("nothing was proposed"),
        poller=poller,
        on_peer_connected=lambda: None,
        on_peer_lost=lambda node_id: None,
    )
    try:
        for name in PRIVATE_ATTRIBUTES:
            assert hasattr(core._core, name), name
        assert core._core._poller is poller
        assert syncobj_module.createPoller is original
        replicated = [
            m for m in dir(core._core) if getattr(getattr(core._core, m), "replicated", 0)
        ]
        assert set(replicated) == {"apply", "apply_v0"}, "one replicated method, in its one version"
    finally:
        core.close()
