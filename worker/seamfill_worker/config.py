"""What one worker process was told: flags and environment as one frozen value.

Owns the parsing of composite flags and the checks that need no I/O. Must not build anything.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from seamfill.errors import InvalidInput
from seamfill.protocol.values import WorkerIdentity

__all__ = ["WorkerConfig", "parse_ccxt_urls", "parse_host_port", "parse_urls"]

TTL_MS_MIN: Final = 10_000
TTL_MS_MAX: Final = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker's settings. ``environment`` is where stores find their addresses."""

    coordinators: tuple[str, ...]
    worker_id: str
    boot: str
    store: str | None
    ccxt_urls: Mapping[str, str]
    presets_file: Path | None
    venues_file: Path | None
    metrics_listen: tuple[str, int] | None
    leases_max: int
    flush_windows: int
    ttl_ms: int
    environment: Mapping[str, str]

    @property
    def identity(self) -> WorkerIdentity:
        return WorkerIdentity(id=self.worker_id, boot=self.boot)


def default_worker_id() -> str:
    """Return a name that no other process of this machine has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def parse_urls(texts: Sequence[str]) -> tuple[str, ...]:
    """Return base URLs; an environment variable holds several, with commas."""
    urls = [url.strip() for text in texts for url in text.split(",") if url.strip()]
    if not urls:
        raise InvalidInput("coordinator", "give at least one --coordinator URL")
    return tuple(_http_url("coordinator", url) for url in urls)


def parse_ccxt_urls(texts: Sequence[str]) -> dict[str, str]:
    """Return base URLs by exchange from ``binance=http://127.0.0.1:9000``."""
    urls: dict[str, str] = {}
    for text in (part for whole in texts for part in whole.split(",") if part):
        exchange, equals, url = text.partition("=")
        if not (exchange and equals and url):
            raise InvalidInput("ccxt-url", f"{text!r} is not EXCHANGE=URL")
        urls[exchange] = _http_url("ccxt-url", url)
    return urls


def parse_host_port(field: str, text: str) -> tuple[str, int]:
    """Return host and port of ``127.0.0.1:9102``; port 0 takes a free one."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) <= 65_535):
        raise InvalidInput(field, f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _http_url(field: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(field, f"{url!r} is not an http(s) URL")
    return url.rstrip("/")
