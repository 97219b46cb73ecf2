"""Names of the headers that clients and nodes exchange. Part of the public API."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ABANDONED",
    "CLUSTER",
    "IDEMPOTENCY_KEY",
    "LEADER",
    "PROXIED_BY",
    "PROXIED_FOR",
    "RECOVERY",
    "REV",
    "TERM",
]

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
"""``<client>:<sequence>:<low>`` on a mutation."""
REV: Final = "Seamfill-Rev"
"""On an answer: the state it speaks of. On a request: never answer from an older one."""
TERM: Final = "Seamfill-Term"
LEADER: Final = "Seamfill-Leader"
RECOVERY: Final = "Seamfill-Recovery"

# Between nodes only. A client may send them too, and gains nothing: a call that says it was
# proxied is just not sent on.
PROXIED_BY: Final = "Seamfill-Proxied-By"
PROXIED_FOR: Final = "Seamfill-Proxied-For"
CLUSTER: Final = "Seamfill-Cluster"
ABANDONED: Final = "Seamfill-Abandoned"
