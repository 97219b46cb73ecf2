"""A real QuestDB server of one's own: got from Maven, on free loopback ports, in a given folder.

Owns its process and configuration. Must not know stores or workers. Invariants: the server listens
on loopback only; it ends with its parent, whatever ends the parent; a killed server restarts on the
same folder and ports; its native libraries stay in its own folder, where they go with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from seamfill_chaos.parts.maven import MavenArtifact, PartMissing, fetch, parts_directory
from seamfill_coordinator.orphans import die_with

__all__ = ["QUESTDB", "Ports", "QuestDBServer", "fetch_questdb", "running", "start"]

QUESTDB: Final = MavenArtifact(
    group="org.questdb",
    name="questdb",
    version="9.3.4",
    sha256="939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062",
)
WAYS_OUT: Final = (
    "install Maven and Java 17, or give the address of a running server by QUESTDB_DSN and "
    "QUESTDB_HTTP"
)

_READY_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05
_PORT_ATTEMPTS: Final = 3

_SERVER_CONF: Final = """\
http.bind.to=127.0.0.1:{http}
pg.net.bind.to=127.0.0.1:{pg}
http.min.net.bind.to=127.0.0.1:{health}
line.tcp.enabled=false
line.auto.create.new.tables=false
telemetry.enabled=false
shared.worker.count=2
cairo.commit.mode=sync
"""
# The default logs every query; over a long run that is more bytes than the data.
_LOG_CONF: Final = """\
writers=stdout
w.stdout.class=io.questdb.log.LogConsoleWriter
w.stdout.level=ERROR,CRITICAL,ADVISORY
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where one server listens."""

    http: int
    pg: int
    health: int


class QuestDBServer:
    """One server process on one folder; may be killed, paused and started again at will."""

    def __init__(
        self,
        directory: Path,
        *,
        jar: Path,
        java: str,
        ports: Ports,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.ports = ports
        self._jar = jar
        self._java = java
        self._settings = dict(settings or {})
        # A plain Popen: it belongs to no event loop, so one server can outlive the loops of many
        # tests.
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id; 0 when it does not run."""
        return self._process.pid if self._process is not None and self.running else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def dsn(self) -> str:
        """Return the address of the PG wire."""
        return f"postgresql://admin:quest@127.0.0.1:{self.ports.pg}/qdb"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the variables that lead workers and readers here."""
        return {"QUESTDB_DSN": self.dsn, "QUESTDB_HTTP": self.http_url}

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    async def start(self) -> None:
        """Start the process, and return when it answers on all its ports.

        Raises ``PartMissing`` with the end of its log when it ends instead, or stays silent.
        """
        assert not self.running
        self._write_configuration()
        self._process = self._launch()
        try:
            await self._ready()
        except BaseException:
            self.kill()
            raise

    async def stop(self) -> None:
        """End the process by SIGTERM, or by SIGKILL when that takes too long."""
        if self._process is None:
            return
        self.resume()
        self._signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STOP_TIMEOUT_S
        while self.running and loop.time() < deadline:  # noqa: ASYNC110  a process has no event
            await asyncio.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the process and collect it; a later ``start`` continues on folder and ports."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, from when this returns on."""
        if self._process is None or not self.running:
            return
        self._signal(signal.SIGSTOP)
        # A signal is only sent so far: on a busy machine its threads may go on for a while.
        # WNOWAIT leaves an exit for Popen to collect.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 5) -> str:
        """Return the end of the log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    self._java,
                    "-Xmx512m",
                    f"-Djava.io.tmpdir={self.directory / 'tmp'}",
                    *("-p", str(self._jar)),
                    *("-m", "io.questdb/io.questdb.ServerMain"),
                    *("-d", str(self.directory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop it in order
                # One system call, resolved beforehand: nothing there can wait for another thread.
                preexec_fn=functools.partial(die_with, os.getpid()),  # noqa: PLW1509
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def _write_configuration(self) -> None:
        conf = self.directory / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        (self.directory / "tmp").mkdir(exist_ok=True)
        (conf / "log.conf").write_text(_LOG_CONF)
        ports = self.ports
        lines = _SERVER_CONF.format(http=ports.http, pg=ports.pg, health=ports.health)
        more = "".join(f"{name}={value}\n" for name, value in self._settings.items())
        (conf / "server.conf").write_text(lines + more)

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S), aiohttp.ClientSession() as session:
                while not await self._answers(session):
                    if not self.running:
                        raise PartMissing(f"QuestDB ended while starting: {self.tail()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as exc:
            raise PartMissing(
                f"QuestDB was not ready within {_READY_TIMEOUT_S:.0f} s: {self.tail()}"
            ) from exc

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"http://127.0.0.1:{self.ports.health}/status") as status:
                if status.status != 200:
                    return False
            async with session.get(f"{self.http_url}/ping") as ping:
                if ping.status >= 400:
                    return False
            _, writer = await asyncio.open_connection("127.0.0.1", self.ports.pg)
            writer.close()
            await writer.wait_closed()
        except (OSError, aiohttp.ClientError):
            return False
        return True


async def fetch_questdb(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the server's jar, fetched and checked; raises ``PartMissing`` with the ways out."""
    try:
        return await fetch(QUESTDB, parts_directory(environment))
    except PartMissing as missing:
        raise PartMissing(f"no QuestDB here: {missing.message}; {WAYS_OUT}") from missing


async def start(directory: Path, *, settings: Mapping[str, str] | None = None) -> QuestDBServer:
    """Start a server on ``directory`` and free ports, and return it when it is ready.

    ``settings`` are further lines of its configuration. The caller stops it. Raises
    ``PartMissing`` when it can not be had, in one line that names the ways out.
    """
    java = shutil.which("java")
    if java is None:
        raise PartMissing(f"no QuestDB here: Java is not installed; {WAYS_OUT}")
    jar = await fetch_questdb()
    for attempts_left in reversed(range(_PORT_ATTEMPTS)):
        server = QuestDBServer(
            directory, jar=jar, java=java, ports=_free_ports(), settings=settings
        )
        try:
            await server.start()
        except PartMissing as missing:
            # Somebody may have taken a port between our asking and the server's binding.
            if attempts_left and "bind" in missing.message.lower():
                continue
            last = missing.message.splitlines()[-1]
            raise PartMissing(f"{last} (log: {server.log}); {WAYS_OUT}") from missing
        return server
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[QuestDBServer]:
    """Run a server for the length of a block."""
    server = await start(directory)
    try:
        yield server
    finally:
        await asyncio.shield(server.stop())


def _free_ports() -> Ports:
    with contextlib.ExitStack() as held:
        numbers = []
        for _ in range(3):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            numbers.append(listener.getsockname()[1])
    http, pg, health = numbers
    return Ports(http=http, pg=pg, health=health)
