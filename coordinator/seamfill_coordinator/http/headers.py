"""Names of the headers that only nodes exchange (for clients: ``seamfill.protocol.headers``).

A client may send them too, and gains nothing: a call that says it was proxied is just not sent on.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ABANDONED", "CLUSTER", "PROXIED_BY", "PROXIED_FOR", "PROXIED_URL"]

PROXIED_BY: Final = "Seamfill-Proxied-By"
"""The node that received the call; its presence forbids sending the call on."""
PROXIED_FOR: Final = "Seamfill-Proxied-For"
"""The address of the client of the receiving node."""
PROXIED_URL: Final = "Seamfill-Proxied-Url"
"""Where the receiving node itself is reached: so the leader learns the followers' addresses."""
CLUSTER: Final = "Seamfill-Cluster"
"""The cluster that is meant; a node of another one refuses."""
ABANDONED: Final = "Seamfill-Abandoned"
"""Present when a node gives back a grant that its client never heard of."""
