"""Bringing a snapshot to a member whose next entry lies in it.

Owns both ends: which part of which file is on its way, and what has arrived. Must not know what a
snapshot contains (``snapshot_store.py`` does), or when to send one (``feeding.py`` does).

Parts travel in order, a few at a time, between the appends: a member that is being brought up keeps
hearing heartbeats, and the others keep being served. The receiver says how far it is, so that a
broken connection costs the parts that were on their way, and a leader that has a newer snapshot
begins anew by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from seamfill_coordinator.machine.machine import LeaseMachine
from seamfill_coordinator.raft.messages import SnapshotPart, SnapshotTaken
from seamfill_coordinator.raft.snapshot_store import (
    SnapshotInfo,
    SnapshotReader,
    SnapshotReceiver,
    SnapshotStore,
    SnapshotUnusable,
)

__all__ = ["SNAPSHOT_PART_BYTES", "Receipt", "Receiving", "Shipping"]

SNAPSHOT_PART_BYTES: Final = 256 << 10
_WINDOW_BYTES: Final = 4 * SNAPSHOT_PART_BYTES


@dataclass(slots=True)
class _Shipment:
    info: SnapshotInfo
    reader: SnapshotReader
    sent: int = 0
    taken: int = 0


class Shipping:
    """The snapshots that a leader is sending."""

    def __init__(self, store: SnapshotStore, *, send: Callable[[str, SnapshotPart], None]) -> None:
        self._store = store
        self._send = send
        self._shipments: dict[str, _Shipment] = {}

    @property
    def oldest_index(self) -> int | None:
        """Last index of the oldest snapshot on its way; the log behind it is still needed."""
        return min((s.info.last_index for s in self._shipments.values()), default=None)

    def go_on(self, node_id: str, term: int) -> None:
        """Send what the window allows, of the newest snapshot if none is on its way."""
        shipment = self._shipments.get(node_id)
        if shipment is None:
            info = self._store.newest()
            # A log that does not begin at 1 has its beginning in a snapshot.
            assert info is not None
            shipment = self._shipments[node_id] = _Shipment(info, self._store.open(info))
        info = shipment.info
        while shipment.sent < min(info.size, shipment.taken + _WINDOW_BYTES):
            data = shipment.reader.read(shipment.sent, SNAPSHOT_PART_BYTES)
            self._send(
                node_id,
                SnapshotPart(
                    term=term,
                    last_index=info.last_index,
                    last_term=info.last_term,
                    size=info.size,
                    offset=shipment.sent,
                    data=data,
                ),
            )
            shipment.sent += len(data)

    def taken(self, node_id: str, message: SnapshotTaken, term: int) -> None:
        """Note how much has arrived, and send the next parts."""
        shipment = self._shipments.get(node_id)
        if shipment is None or shipment.info.last_index != message.last_index:
            return
        if message.offset < shipment.taken or message.offset > shipment.sent:
            shipment.sent = message.offset
        shipment.taken = message.offset
        self.go_on(node_id, term)

    def stop(self, node_id: str) -> None:
        """Forget the shipment: it has arrived, or the connection is gone. Safe to repeat."""
        shipment = self._shipments.pop(node_id, None)
        if shipment is not None:
            shipment.reader.close()

    def stop_all(self) -> None:
        for node_id in list(self._shipments):
            self.stop(node_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a part."""

    answer: SnapshotTaken
    installed: tuple[SnapshotInfo, LeaseMachine] | None = None
    """Set when the part was the last one and the whole is sound and durable."""
    damage: str | None = None
    """Why the whole was thrown away."""


class Receiving:
    """The snapshot that a follower is getting; at most one."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._receiver: SnapshotReceiver | None = None
        self._place: tuple[int, int, int] = (0, 0, 0)

    def take(self, part: SnapshotPart) -> Receipt:
        """Take a part if it is the next one, and say how far the file is."""
        receiver = self._receiver_for(part)
        if receiver is not None:
            receiver.add(part.offset, part.data)
            if receiver.offset == part.size:
                return self._finish(part, receiver)
        return Receipt(answer=_taken(part, 0 if receiver is None else receiver.offset))

    def abandon(self) -> None:
        """Throw away what has arrived. Safe to repeat."""
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None

    def _receiver_for(self, part: SnapshotPart) -> SnapshotReceiver | None:
        place = (part.last_index, part.last_term, part.size)
        if self._receiver is None or self._place != place:
            if part.offset:
                return None
            self.abandon()
            self._place = place
            self._receiver = self._store.receive(
                last_index=part.last_index, last_term=part.last_term, size=part.size
            )
        return self._receiver

    def _finish(self, part: SnapshotPart, receiver: SnapshotReceiver) -> Receipt:
        self._receiver = None
        try:
            installed = receiver.finish()
        except SnapshotUnusable as exc:
            return Receipt(answer=_taken(part, 0), damage=str(exc))
        return Receipt(answer=_taken(part, part.size), installed=installed)


def _taken(part: SnapshotPart, offset: int) -> SnapshotTaken:
    return SnapshotTaken(term=part.term, last_index=part.last_index, offset=offset)
