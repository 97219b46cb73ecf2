"""Who the node is connected to, who of them counts, and how a cluster begins.

Owns the greetings of the peers, the configuration in force and its entries in the log, and the
founding. Must not know elections or replication: it tells the core whom to count.

*Founding.* A cluster begins once: the member with the smallest id, when it sees all the others at
the same time and each says that it knows of no cluster, writes down who they are. They learn of it
from the founder, or from whoever learnt it, and from nobody else, so that what they said before can
not have become untrue meanwhile. A node that lost its disk finds others that do know a cluster, in
which its new incarnation is not named, and waits to be taken in.

Invariants: a node that no configuration names is no voter; an answer is counted only from a node
whose id *and* incarnation the configuration in force names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from seamfill.logs import log_event
from seamfill_coordinator.raft.core import Core
from seamfill_coordinator.raft.journal import DurableJournal
from seamfill_coordinator.raft.journal_format import Entry
from seamfill_coordinator.raft.membership import (
    Configuration,
    ConfigurationLog,
    Member,
    membership_entry,
)
from seamfill_coordinator.raft.messages import PROTOCOL_VERSION, Founded, Hello, Message

__all__ = ["Identity", "Members", "MembershipRefused"]

_log = logging.getLogger("seamfill.coordinator.raft")


class MembershipRefused(Exception):
    """The configuration can not be changed so, or not now; nothing was done."""


class Identity(Protocol):
    """Who the node is, and with whom it was told to be."""

    @property
    def cluster_id(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def incarnation(self) -> str: ...
    @property
    def peer_ids(self) -> Sequence[str]:
        """The others that founded, or are to found, the cluster."""
        ...


class Members:
    """The peers and the configuration of one node."""

    def __init__(
        self,
        identity: Identity,
        *,
        core: Core,
        journal: DurableJournal,
        base: Configuration | None,
        say: Callable[[str, Message], None],
        on_left: Callable[[str], None],
    ) -> None:
        """``base``: in force before the log's first entry. ``on_left`` is told the node id of a
        member that is none any more, also when the id means another incarnation from now on."""
        self._identity = identity
        self._me = Member(identity.node_id, identity.incarnation)
        self._core = core
        self._journal = journal
        self._say = say
        self._on_left = on_left
        self._peers: dict[str, Hello] = {}
        self._connected: list[str] = []
        self.log = ConfigurationLog(base)
        self.log.appended(journal.entries)
        self._put_in_force(None)
        self._found_if_possible()

    # What is known

    @property
    def configuration(self) -> Configuration | None:
        """In force here; None while the cluster is not founded, or this node not part of it."""
        return self.log.in_force

    @property
    def voters(self) -> tuple[Member, ...]:
        return () if self.configuration is None else self.configuration.voters

    @property
    def peers(self) -> Mapping[str, Hello]:
        """The nodes that a connection stands to, whoever they are."""
        return self._peers

    @property
    def hello(self) -> Hello:
        """What this node says of itself on a new connection."""
        identity = self._identity
        return Hello(
            protocol=PROTOCOL_VERSION,
            cluster_id=identity.cluster_id,
            node_id=identity.node_id,
            incarnation=identity.incarnation,
            configuration=self.configuration,
            peer_ids=tuple(sorted((identity.node_id, *identity.peer_ids))),
        )

    def is_voter(self, node_id: str) -> bool:
        """Whether the node at the other end of this name's connection is a voter."""
        configuration, hello = self.configuration, self._peers.get(node_id)
        return (
            configuration is not None
            and hello is not None
            and configuration.is_voter(node_id, hello.incarnation)
        )

    @property
    def connected(self) -> Sequence[str]:
        """The members, voters or learners, that can be talked to, sorted."""
        return self._connected

    # Connections

    def greeted(self, hello: Hello) -> None:
        """Note a new connection and what its other end said."""
        self._peers[hello.node_id] = hello
        self._find_connected()
        if hello.configuration is not None:
            self.adopt(hello.configuration)
        self._found_if_possible()

    def gone(self, node_id: str) -> bool:
        """Note that the connection has gone; return whether there was one."""
        if self._peers.pop(node_id, None) is None:
            return False
        self._find_connected()
        return True

    # Configurations of the log

    def appended(self, entries: Sequence[Entry], *, from_index: int | None) -> None:
        """Note entries that a leader sent; the old ones from ``from_index`` on gave way to them."""
        before = self.configuration
        changed = from_index is not None and self.log.truncated(from_index)
        if self.log.appended(entries) or changed:
            self._put_in_force(before)

    def replaced(self, configuration: Configuration | None) -> None:
        """Note that a snapshot took the place of the log."""
        before = self.configuration
        self.log.replaced(configuration)
        self._put_in_force(before)

    def change(self, configuration: Configuration) -> int:
        """Append a configuration, which is in force at once; return its index.

        Only for a leader that has committed in its term; at most one voter may come or go, and the
        change before must be committed (Ongaro's thesis, 4.1). Raises ``MembershipRefused``.
        """
        self._check_change(configuration)
        before, core = self.configuration, self._core
        entry = membership_entry(configuration)
        index = core.append(entry)
        self.log.appended([(entry, index, core.term)])
        self._put_in_force(before)
        return index

    def _check_change(self, configuration: Configuration) -> None:
        core = self._core
        if not core.is_leader:
            raise MembershipRefused("this node does not lead")
        if core.term_at(core.commit_index) != core.term:
            raise MembershipRefused("nothing of this term is committed yet")
        if self.log.newest_index > core.commit_index:
            raise MembershipRefused("the change before is not committed yet")
        if len(set(self.voters) ^ set(configuration.voters)) > 1:
            raise MembershipRefused("more than one voter would change at once")
        if self._me not in configuration.voters:
            raise MembershipRefused("a leader can not remove itself; transfer the leadership")
        ids = [m.node_id for m in (*configuration.voters, *configuration.learners)]
        if len(ids) != len(set(ids)):
            raise MembershipRefused("a node id may be named once")

    def _put_in_force(self, before: Configuration | None) -> None:
        """Tell the core whom to count from now on, instead of those in ``before``."""
        configuration = self.configuration
        if configuration is None:
            self._find_connected()
            return
        old = set() if before is None else {*before.voters, *before.learners}
        members = {*configuration.voters, *configuration.learners}
        # Neither another incarnation nor the same one, taken in again, inherits what is known of
        # it, or what is on its way to it: its answers count for nothing until then.
        for member in sorted(old - members):
            self._on_left(member.node_id)
            self._core.forget_member(member.node_id)
        self._core.set_members(
            voters=_ids(configuration.voters, without=self._me.node_id),
            learners=_ids(configuration.learners, without=self._me.node_id),
            is_voter=self._me in configuration.voters,
        )
        self._find_connected()
        log_event(
            _log,
            "replica.members",
            voters=_ids(configuration.voters),
            learners=_ids(configuration.learners),
            is_voter=self._me in configuration.voters,
        )

    def _find_connected(self) -> None:
        """Find out anew, when peers or configuration have changed, who can be talked to."""
        configuration = self.configuration
        self._connected = [
            node_id
            for node_id, hello in sorted(self._peers.items())
            if configuration is not None and configuration.is_member(node_id, hello.incarnation)
        ]
        self._core.set_connected(self._connected)

    # The beginning of a cluster

    def adopt(self, configuration: Configuration) -> None:
        """Begin with the members that others know, if this very life is one of them."""
        if self.configuration is not None:
            return
        if self._me in configuration.voters:
            self._begin_with(configuration)
            return
        log_event(
            _log,
            "replica.not_a_member",
            level=logging.WARNING,
            node=self._me.node_id,
            incarnation=self._me.incarnation,
        )

    def _found_if_possible(self) -> None:
        hello, peers = self.hello, self._peers
        # A log with nothing but the empty entry that every new log begins with.
        is_untouched = self._core.last_index == 1 and self._core.term == 0
        if (
            hello.configuration is not None
            or not is_untouched
            or hello.node_id != hello.peer_ids[0]
            or set(peers) != set(hello.peer_ids[1:])
            or any(peer.configuration is not None for peer in peers.values())
        ):
            return
        strangers = {n: p.peer_ids for n, p in peers.items() if p.peer_ids != hello.peer_ids}
        if strangers:
            log_event(
                _log,
                "replica.peers_differ",
                level=logging.ERROR,
                mine=hello.peer_ids,
                theirs=strangers,
            )
            return
        members = [Member(name, peer.incarnation) for name, peer in peers.items()]
        configuration = Configuration(voters=tuple(sorted([self._me, *members])))
        log_event(_log, "replica.founded", voters=_ids(configuration.voters))
        self._begin_with(configuration)

    def _begin_with(self, configuration: Configuration) -> None:
        """Put the first configuration this node knows in force, and tell the others."""
        journal = self._journal
        if self._core.first_index == 1:
            # The log's first entry is never sent. It may have later ones already: a leader was
            # quicker than the founder's word.
            log = [(membership_entry(configuration), 1, 0), *journal.entries[1:]]
            journal.clear()
            for entry in log:
                journal.add(*entry)
        self.log.replaced(configuration)
        self._put_in_force(None)
        for node_id in self._peers:
            self._say(node_id, Founded(configuration=configuration))


def _ids(members: tuple[Member, ...], without: str = "") -> list[str]:
    return [member.node_id for member in members if member.node_id != without]
