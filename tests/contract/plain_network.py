"""Members' connections over plain TCP, for tests: nobody proves anything, everybody is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from seamfill_coordinator.raft.network import Listener, split_address


@dataclass(slots=True)
class PlainNetwork:
    """Satisfies ``Network``. ``impostors`` are members whose proof fails."""

    impostors: set[str] = field(default_factory=set)

    async def listen(self, address: str, accept: Callable[[], asyncio.Protocol]) -> Listener:
        host, port = split_address(address)
        return await asyncio.get_running_loop().create_server(accept, host, port)

    async def dial(
        self, node_id: str, address: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        host, port = split_address(address)
        await asyncio.get_running_loop().create_connection(protocol, host, port)

    def proves(self, transport: asyncio.BaseTransport, node_id: str) -> bool:
        return node_id not in self.impostors
