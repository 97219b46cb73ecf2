"""Gets real parts from Maven: fetched once, checked against a pinned sha256, kept for all runs.

Owns the folder of parts. Must not know what a part is for. Invariants: a file in the folder is
complete and has the right checksum, because it is renamed there only after the check; processes
that need the same part at once download it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seamfill.errors import SeamfillError

__all__ = ["MavenArtifact", "PartMissing", "fetch", "parts_directory"]

_DOWNLOAD_TIMEOUT_S: Final = 300.0
_LOCK_POLL_S: Final = 0.2


class PartMissing(SeamfillError):
    """A real part can not be had on this machine; the message names the ways out."""

    code = "part_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class MavenArtifact:
    """One file of a Maven repository, pinned by its content."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"


def parts_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where parts are kept: ``$SEAMFILL_PARTS``, or ``.parts`` of the checkout.

    Installed from a wheel, there is no checkout; then it is the user's cache directory.
    """
    chosen = environment.get("SEAMFILL_PARTS")
    if chosen:
        return Path(chosen).absolute()
    for folder in Path(__file__).resolve().parents:
        if (folder / "pyproject.toml").is_file() and (folder / "chaos").is_dir():
            return folder / ".parts"
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "seamfill" / "parts"


async def fetch(artifact: MavenArtifact, directory: Path) -> Path:
    """Return the artifact's file in ``directory``, downloading it when it is not there yet.

    Raises ``PartMissing`` when Maven is absent, fails, or delivers something else.
    """
    kept = directory / artifact.file_name
    if await asyncio.to_thread(_matches, kept, artifact.sha256):
        return kept
    maven = shutil.which("mvn")
    if maven is None:
        raise PartMissing(f"Maven (mvn), which fetches {artifact.file_name}, is not installed")
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    async with _only_one(directory / f"{artifact.file_name}.lock"):
        if await asyncio.to_thread(_matches, kept, artifact.sha256):
            return kept  # somebody else fetched it while we waited
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as place:
            await _download(maven, artifact, Path(place))
            fetched = Path(place) / artifact.file_name
            if not await asyncio.to_thread(_matches, fetched, artifact.sha256):
                raise PartMissing(
                    f"what Maven delivered as {artifact.coordinates} has not the sha256 "
                    f"{artifact.sha256}; it was thrown away"
                )
            fetched.replace(kept)
    return kept


async def _download(maven: str, artifact: MavenArtifact, place: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(maven, "-q", "-B", "dependency:copy"),
        f"-Dartifact={artifact.coordinates}",
        f"-DoutputDirectory={place}",
        cwd=place,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_DOWNLOAD_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as exc:
        raise PartMissing(
            f"Maven did not deliver {artifact.coordinates} within {_DOWNLOAD_TIMEOUT_S:.0f} s"
        ) from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        reason = next((line for line in output.decode(errors="replace").splitlines() if line), "?")
        raise PartMissing(f"Maven could not fetch {artifact.coordinates}: {reason}")


def _matches(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


@contextlib.asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold a lock that the kernel takes back when we die; wait for it without blocking the loop."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try_lock(descriptor):  # noqa: ASYNC110  another process has it: no event to wait for
            await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
