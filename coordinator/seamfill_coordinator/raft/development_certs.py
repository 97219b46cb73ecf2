"""Certificates for nodes that are started by hand on one machine, without anybody making any.

Owns where this user's development certificates lie, one directory and CA a cluster. Must not know
who may use them: ``config.py`` allows it on loopback and in the dev profile only.

Peers never talk without mutual TLS, not even here: there is one way to speak, and the line of the
documentation that starts a node by hand still starts one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from seamfill.errors import InvalidInput
from seamfill_coordinator.data_dir import DataDirInUse
from seamfill_coordinator.raft.certs import init_certificates

__all__ = ["development_certificates"]

_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.05


def development_certificates(
    environment: Mapping[str, str], *, cluster_id: str, node_id: str, now: datetime
) -> Path:
    """Return a directory with this node's certificate, made if there is none yet.

    It lies under ``XDG_STATE_HOME`` (``~/.local/state``), so that all nodes of a cluster that this
    user starts find the same CA. Raises ``InvalidInput`` (``certs``).
    """
    state = environment.get("XDG_STATE_HOME")
    home = Path(state) if state else Path.home() / ".local" / "state"
    directory = home / "seamfill" / "development-certs" / cluster_id
    patience_ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            init_certificates(directory, [node_id], now=now)
        except DataDirInUse as exc:
            # The other nodes of the cluster are started in the same moment.
            if time.monotonic() > patience_ends:
                raise InvalidInput("certs", f"{directory} stays locked: {exc.message}") from exc
            time.sleep(_PAUSE_S)
        except InvalidInput as exc:
            text = f"development certificates can not be made: {exc.message}; give --certs DIR"
            raise InvalidInput("certs", text) from exc
        else:
            return directory
