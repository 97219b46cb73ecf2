"""What a process that reads has been told: one frozen value, built once and validated.

Owns the environment names of the SDK and their precedence (argument, then environment, then
default). Must not connect to anything or read presets.

Every ``QMTL_*`` name of an existing deployment has a ``SEAMFILL_*`` twin; where both are set and
differ, the ``SEAMFILL_*`` one wins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from seamfill.coordinator_link import parse_urls
from seamfill.errors import InvalidInput

__all__ = ["Profile", "SeamlessConfig"]

URL_NAMES: Final = ("SEAMFILL_COORDINATOR_URL", "QMTL_SEAMLESS_COORDINATOR_URL")
MAX_SECRET_BYTES: Final = 64 << 10


class Profile(StrEnum):
    """How forgiving the start is."""

    DEV = "dev"
    PROD = "prod"
    """Without a healthy coordinator nothing starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamlessConfig:
    """Settings of a ``SeamlessDataProvider``.

    ``coordinator_urls``: any nodes of one cluster. ``store``: replaces the preset's storage
    (``parquet:DIR``, ``questdb:TABLE``). ``presets_file`` and ``venues_file``: replace the packaged
    ones.
    """

    coordinator_urls: tuple[str, ...] = ()
    profile: Profile = Profile.DEV
    token: str | None = None
    ca_file: Path | None = None
    presets_file: Path | None = None
    venues_file: Path | None = None
    store: str | None = None
    request_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.request_timeout_s <= 0:
            raise InvalidInput("request_timeout_s", f"{self.request_timeout_s} must be positive")
        if self.coordinator_urls:
            object.__setattr__(self, "coordinator_urls", parse_urls(self.coordinator_urls))

    def __repr__(self) -> str:
        # The token must not reach logs and tracebacks.
        return (
            f"SeamlessConfig(coordinator_urls={self.coordinator_urls!r},"
            f" profile={self.profile.value!r}, store={self.store!r})"
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> SeamlessConfig:
        """Read the environment; raise ``InvalidInput`` naming the variable that is wrong."""
        env = os.environ if environ is None else environ
        return cls(
            coordinator_urls=_urls(env),
            profile=_profile(env),
            token=_secret(env, "SEAMFILL_TOKEN"),
            ca_file=_path(env, "SEAMFILL_CA_FILE"),
            presets_file=_path(env, "SEAMFILL_PRESETS_FILE"),
            venues_file=_path(env, "SEAMFILL_EXCHANGES_FILE"),
        )


def _urls(env: Mapping[str, str]) -> tuple[str, ...]:
    for name in URL_NAMES:
        if env.get(name, "").strip():
            return parse_urls(env[name], field=name)
    return ()


def _profile(env: Mapping[str, str]) -> Profile:
    text = env.get("SEAMFILL_PROFILE", "").strip() or Profile.DEV.value
    try:
        return Profile(text)
    except ValueError:
        raise InvalidInput("SEAMFILL_PROFILE", f"{text!r} must be prod or dev") from None


def _path(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name, "").strip()
    return Path(text) if text else None


def _secret(env: Mapping[str, str], name: str) -> str | None:
    """Read a secret from its variable or from the file that ``<name>_FILE`` names."""
    if env.get(name):
        return env[name].strip()
    path = _path(env, f"{name}_FILE")
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{name}_FILE", f"can not read {path}: {exc}") from exc
