"""What the sender does about a server that is away, without a server."""

from __future__ import annotations

import pytest

from seamfill.errors import StoreUnavailable
from seamfill.sources.questdb_address import HttpAddress
from seamfill.testing.store_contract import make_window
from seamfill_coordinator.ports import free_ports
from seamfill_worker.stores.questdb_sender import QuestDBSender


async def test_connecting_anew_after_each_failure_is_no_reason_to_warn() -> None:
    # The client warns of a burst of connections, and warnings are errors here.
    (port,) = free_ports(1)
    address = HttpAddress(host="127.0.0.1", port=port)
    sender = QuestDBSender(address, "bars")
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="did not acknowledge rows for bars"):
            await sender.send([make_window(bars=1)])
    await sender.aclose()
