"""The configuration of one coordinator node: read once, validated before anything starts.

Owns where each value comes from (flag, then environment, then file, then default) and what is
valid. Must not know what the values are used for. What all nodes must agree on beyond their
cluster's id is replicated state and never comes from here.

Invariant: a ``NodeConfig`` that exists is valid; every refusal is an ``InvalidInput`` whose
``field`` is the flag's name (``peer-listen``), whatever source the value came from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from seamfill.errors import InvalidInput
from seamfill_coordinator.raft.journal import SEGMENT_BYTES

__all__ = ["Address", "NodeConfig", "Profile", "configures_a_node", "load_config", "valid_id"]

DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DEFAULT_PEER_LISTEN: Final = "127.0.0.1:8081"
DEFAULT_SNAPSHOT_EVERY: Final = 20_000
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
MAX_PEERS: Final = 8
"""Nine members: more only make a commit slower."""

_PREFIX: Final = "COORDINATOR_"
_ALIASES: Final = {
    "node-id": "COORDINATOR_ID",
    "listen": "BIND_ADDR",
    "metrics-listen": "PROMETHEUS_PORT",
}
"""Names of the deployment that already exists; the regular name wins."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EVERYWHERE: Final = ("0.0.0.0", "::")
_PORT_MAX: Final = 65_535
_WHOLE_MAX: Final = 1 << 30


class Profile(Enum):
    """How strict a node is about what protects it."""

    DEV = "dev"
    PROD = "prod"
    """Refuses what is made for development."""


_PROFILES: Final = tuple(profile.value for profile in Profile)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, or where somebody listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything one node is told from outside."""

    node_id: str
    cluster_id: str
    listen: Address
    """HTTP for clients and other members; port 0 takes a free one."""
    peer_listen: Address
    peers: Mapping[str, Address]
    """The other members' peer addresses by node id; they may change between starts."""
    data_dir: Path
    profile: Profile
    certs: Path | None
    """Directory with this node's certificate, its key, and the peers' CA. None only without peers,
    or in the dev profile with all of them on loopback. What is in it is checked by
    ``raft/credentials.py``."""
    advertise_url: str | None
    """Where others reach this node's HTTP; None derives it from ``listen``."""
    metrics_listen: Address | None
    """Serves ``/metrics`` alone; None serves it on ``listen`` only."""
    log_level: str
    snapshot_every: int
    """Log entries between two snapshots."""
    journal_segment_bytes: int
    """Reserved on the disk at once."""


def load_config(flags: Mapping[str, object], environment: Mapping[str, str]) -> NodeConfig:
    """Build the configuration from flags that were given, environment and ``config`` file.

    ``flags`` maps a flag's name without dashes in front (``node-id``) to its text, or to a sequence
    of texts for ``peer``; None and empty sequences count as not given.
    Raises ``InvalidInput`` naming the flag.
    """
    return _build(_Sources(flags, environment))


def configures_a_node(variable: str) -> bool:
    """Whether ``load_config`` would read this environment variable."""
    return variable.startswith(_PREFIX) or variable in _ALIASES.values()


class _Sources:
    """Looks one name up in flags, environment and file, in this order."""

    def __init__(self, flags: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self._flags = flags
        self._environment = environment
        self._file: Mapping[str, object] = {}
        path = self.text("config")
        if path is not None:
            self._file = _read_file(Path(path))

    def text(self, name: str) -> str | None:
        """Return the value of a name that has one."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | Path):
            raise InvalidInput(name, f"{value!r} is not a text")
        return str(value)

    def texts(self, name: str) -> Sequence[str]:
        """Return the values of a name that may have several; commas part them in a text."""
        value = self._value(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
            return [str(part) for part in value]
        raise InvalidInput(name, f"{value!r} is not a list of texts")

    def _value(self, name: str) -> object:
        flag = self._flags.get(name)
        if flag is not None and flag != ():
            return flag
        for variable in (_PREFIX + name.upper().replace("-", "_"), _ALIASES.get(name)):
            if variable is not None and self._environment.get(variable):
                return self._environment[variable]
        return self._file.get(name)


_NAMES: Final = frozenset(
    {
        "node-id",
        "cluster-id",
        "listen",
        "peer-listen",
        "peer",
        "data-dir",
        "profile",
        "certs",
        "advertise-url",
        "metrics-listen",
        "log-level",
        "snapshot-every",
        "journal-segment-bytes",
    }
)


def _read_file(path: Path) -> Mapping[str, object]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput("config", f"{path} can not be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput("config", f"{path} is not TOML: {exc}") from exc
    named = {name.replace("_", "-"): value for name, value in document.items()}
    unknown = sorted(named.keys() - _NAMES)
    if unknown:
        raise InvalidInput("config", f"{path} has an unknown name: {unknown[0]}")
    return named


def _build(sources: _Sources) -> NodeConfig:
    node_id = _identifier(sources, "node-id")
    cluster_id = _identifier(sources, "cluster-id")
    listen = _address("listen", sources.text("listen") or DEFAULT_LISTEN)
    peers = _peers(sources.texts("peer"), node_id)
    peer_listen = _address("peer-listen", sources.text("peer-listen") or DEFAULT_PEER_LISTEN)
    if peers and peer_listen.port == 0:
        raise InvalidInput("peer-listen", "needs a fixed port, because the peers have to know it")
    if listen.port and str(peer_listen) == str(listen):
        raise InvalidInput("peer-listen", f"{peer_listen} is the client's address already")
    data_dir = sources.text("data-dir")
    if data_dir is None:
        raise InvalidInput("data-dir", "is missing; the log must survive this process")
    profile = Profile(_one_of("profile", sources.text("profile") or "dev", _PROFILES))
    may_lack_certs = profile is Profile.DEV and all(
        _is_loopback(address) for address in (peer_listen, *peers.values())
    )
    return NodeConfig(
        node_id=node_id,
        cluster_id=cluster_id,
        listen=listen,
        peer_listen=peer_listen,
        peers=peers,
        data_dir=Path(data_dir),
        profile=profile,
        certs=_certs(sources.text("certs"), [node_id, *peers], may_lack=may_lack_certs),
        advertise_url=_advertised(sources.text("advertise-url"), listen, alone=not peers),
        metrics_listen=_metrics(sources.text("metrics-listen"), listen),
        log_level=_one_of("log-level", sources.text("log-level") or "info", LOG_LEVELS),
        snapshot_every=_whole(sources, "snapshot-every", DEFAULT_SNAPSHOT_EVERY, low=10),
        journal_segment_bytes=_whole(sources, "journal-segment-bytes", SEGMENT_BYTES, low=64 << 10),
    )


def _identifier(sources: _Sources, name: str) -> str:
    value = sources.text(name)
    if value is None:
        raise InvalidInput(name, "is missing")
    return valid_id(name, value)


def valid_id(name: str, value: str) -> str:
    """Return an id of a node or cluster. Raises ``InvalidInput`` naming ``name``."""
    if _ID.fullmatch(value) is None:
        raise InvalidInput(
            name, f"{value!r} is not 1 to 63 letters, digits, dots, dashes and underscores"
        )
    return value


def _address(name: str, text: str) -> Address:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise InvalidInput(name, f"{text!r} is not HOST:PORT")
    if int(port) > _PORT_MAX:
        raise InvalidInput(name, f"{port} is not a port")
    return Address(host, int(port))


def _peers(texts: Sequence[str], node_id: str) -> dict[str, Address]:
    peers: dict[str, Address] = {}
    for text in texts:
        peer_id, equals, address = text.partition("=")
        if not equals:
            raise InvalidInput("peer", f"{text!r} is not ID=HOST:PORT")
        valid_id("peer", peer_id)
        if peer_id == node_id:
            raise InvalidInput("peer", f"{peer_id} is this node itself")
        if peer_id in peers:
            raise InvalidInput("peer", f"{peer_id} is given twice")
        peers[peer_id] = _address("peer", address)
        if peers[peer_id].port == 0:
            raise InvalidInput("peer", f"{peer_id} has port 0, where nobody listens")
    if len(peers) > MAX_PEERS:
        raise InvalidInput("peer", f"{len(peers)} peers; at most {MAX_PEERS}")
    return peers


def _is_loopback(address: Address) -> bool:
    if address.host == "localhost":
        return True
    try:
        return ip_address(address.host).is_loopback
    except ValueError:
        return False


def _certs(text: str | None, members: Sequence[str], *, may_lack: bool) -> Path | None:
    if text is None and len(members) > 1 and not may_lack:
        nodes = " ".join(f"--node {member}" for member in sorted(members))
        raise InvalidInput(
            "certs",
            "is needed: peers talk over mutual TLS only, and only nodes on loopback in the dev "
            "profile make certificates by themselves. For development make certificates with "
            f"`coordinator certs init --dir DIR {nodes}`, then start each node with --certs DIR",
        )
    return None if text is None else Path(text)


def _advertised(text: str | None, listen: Address, *, alone: bool) -> str | None:
    if text is None:
        if listen.host in _EVERYWHERE and not alone:
            raise InvalidInput(
                "advertise-url",
                f"is needed: members can not reach this node at {listen.host}",
            )
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InvalidInput("advertise-url", f"{text!r} is not like http://10.0.0.1:8080")
    return text.rstrip("/")


def _metrics(text: str | None, listen: Address) -> Address | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        # The existing deployment's PROMETHEUS_PORT is a bare port.
        text = f"{listen.host}:{text}"
    return _address("metrics-listen", text)


def _whole(sources: _Sources, name: str, default: int, *, low: int) -> int:
    text = sources.text(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= _WHOLE_MAX:
        raise InvalidInput(name, f"{text!r} is not a whole number from {low} to {_WHOLE_MAX}")
    return int(text)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    folded: Callable[[str], str] = str.lower
    if folded(value) not in allowed:
        raise InvalidInput(name, f"{value!r} is not one of {', '.join(allowed)}")
    return folded(value)
