"""Names of the headers that requests and answers carry beside their bodies. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["IDEMPOTENCY_KEY", "LEADER", "RECOVERY", "REV", "TERM"]

REV: Final = "Seamfill-Rev"
"""In an answer: the rev it was read or written at. In a request: the floor below which the client
must not be answered."""
RECOVERY: Final = "Seamfill-Recovery"
"""The cluster's recovery number. A floor of another recovery number means nothing."""
TERM: Final = "Seamfill-Term"
LEADER: Final = "Seamfill-Leader"
"""The leader's client URL, when the answering node knows it."""
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
"""``<client>:<sequence>:<low>`` on a mutation; see ``POST /v1/sessions``."""
