"""The way to a coordinator cluster: which node to ask, when to ask again, what a "no" means.

Owns connections, node choice, retries, the idempotent session and the rev floor. Must not know
what is asked: ``client`` does.

Invariants:

- Three kinds of "no" are never merged. ``RequestRefused``: a coordinator said no, nothing was done.
  ``CoordinatorUnavailable``: every attempt is known not to have been carried out.
  ``OutcomeUnknown``: at least one attempt may have been.
- An attempt that may have been carried out is only followed by another one when repeating is
  harmless: it is a read, or it carries the same ``Idempotency-Key``.
- A rev floor is never sent with another recovery number than the one it was seen under.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import msgspec
from yarl import URL

from seamfill.clock import Clock, SystemClock
from seamfill.coordinator_answers import (
    InDoubt,
    NotDone,
    SessionLost,
    event_data,
    read_capped,
    refusal,
)
from seamfill.errors import (
    CoordinatorUnavailable,
    InvalidInput,
    OutcomeUnknown,
    SeamfillError,
)
from seamfill.protocol import headers
from seamfill.protocol.cluster import SessionAnswer

__all__ = ["CoordinatorLink", "Reply", "Retry", "parse_urls"]

MAX_URLS: Final = 16
CONNECT_TIMEOUT_S: Final = 1.0
# A node answers within 2 s even without a quorum (http-api.md); one that takes longer is frozen or
# cut off, and another one should be asked.
ATTEMPT_TIMEOUT_MS: Final = 3_000
FIRST_BACKOFF_MS: Final = 50
MAX_BACKOFF_MS: Final = 1_000
# The cluster keeps outcomes for 256 sequences from the lowest unanswered one on; staying well
# below leaves room for requests that were sent but not yet counted here.
MAX_SPREAD: Final = 200
MAX_SESSIONS: Final = 3
# An attempt that begins in the last moments would only turn "not done" into "unknown".
LEAST_ATTEMPT_MS: Final = 50


class Retry(Enum):
    """When a request may be sent again although it may have been carried out before."""

    READ = auto()
    """Always: it changes nothing."""
    SESSION = auto()
    """Always, under the same idempotency key."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A 2xx answer."""

    body: bytes
    url: str


@dataclass(slots=True)
class _Session:
    """A client id of the cluster and the sequences that are still unanswered."""

    client: str
    next_sequence: int = 1
    pending: set[int] = field(default_factory=set)


def parse_urls(urls: str | Sequence[str], *, field: str = "coordinator_url") -> tuple[str, ...]:
    """Return base URLs without a trailing slash, in order, without repetitions.

    A string may hold several, separated by commas. Raises ``InvalidInput`` naming ``field``.
    """
    parts = urls.split(",") if isinstance(urls, str) else list(urls)
    found: dict[str, None] = {}
    for part in parts:
        text = part.strip()
        if not text:
            continue
        try:
            url = URL(text)
            port = url.port
        except ValueError as exc:
            raise InvalidInput(field, f"{text!r} is not a URL: {exc}") from exc
        if url.scheme not in ("http", "https") or not url.host or not port:
            raise InvalidInput(field, f"{text!r} must look like http://host:port")
        if url.path not in ("", "/") or url.query_string or url.fragment or url.user:
            raise InvalidInput(field, f"{text!r} must be only scheme, host and port")
        found[str(url.origin())] = None
    if not found:
        raise InvalidInput(field, "no coordinator URL was given")
    if len(found) > MAX_URLS:
        raise InvalidInput(field, f"{len(found)} URLs were given, at most {MAX_URLS} are used")
    return tuple(found)


class CoordinatorLink:
    """Sends requests to whichever coordinator answers. Opened by ``async with``; one event loop."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        ca_file: Path | None = None,
        timeout_ms: int = 10_000,
        clock: Clock | None = None,
    ) -> None:
        self._configured = parse_urls(urls)
        self._urls = list(self._configured)
        self._token = token
        self._ca_file = ca_file
        self._timeout_ms = timeout_ms
        self._clock = clock or SystemClock()
        self._http: aiohttp.ClientSession | None = None
        self._session: _Session | None = None
        self._session_lock = asyncio.Lock()
        self._answered = asyncio.Condition()
        self._floor = 0
        self._recovery: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the configured URLs, in the order given."""
        return self._configured

    @property
    def rev(self) -> int:
        """Return the highest rev seen; later reads are not older than that."""
        return self._floor

    async def __aenter__(self) -> Self:
        context: ssl.SSLContext | bool = True
        if self._ca_file is not None:
            try:
                context = ssl.create_default_context(cafile=str(self._ca_file))
            except (OSError, ssl.SSLError) as exc:
                raise InvalidInput("ca_file", f"can not use {self._ca_file}: {exc}") from exc
        auth = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._http = aiohttp.ClientSession(
            headers=auth,
            connector=aiohttp.TCPConnector(limit=100, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- requests -------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        retry: Retry,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        extra_wait_ms: int = 0,
    ) -> Reply:
        """Send until there is an answer, within the link's timeout plus ``extra_wait_ms``.

        ``extra_wait_ms`` is how long the request itself asks the coordinator to wait (long polls).
        Raises ``RequestRefused``, ``CoordinatorUnavailable`` or ``OutcomeUnknown``.
        """
        sent = _Sent(method, path, dict(params or {}), body, ATTEMPT_TIMEOUT_MS + extra_wait_ms)
        deadline_ms = self._clock.monotonic_ms() + self._timeout_ms + extra_wait_ms
        if retry is Retry.READ:
            return await self._until(sent, deadline_ms, {})
        for _ in range(MAX_SESSIONS):
            async with self._sequence(deadline_ms) as (session, key):
                try:
                    return await self._until(sent, deadline_ms, {headers.IDEMPOTENCY_KEY: key})
                except SessionLost:
                    # Only reached when no earlier attempt is in doubt: a sequence of a session
                    # that the cluster has forgotten was not carried out by this first attempt.
                    if self._session is session:
                        self._session = None
        raise CoordinatorUnavailable(
            f"{method} {path}: the cluster forgot {MAX_SESSIONS} sessions in a row;"
            " nothing was done"
        )

    async def ask_node(self, url: str, path: str, *, accept: frozenset[int] = frozenset()) -> Reply:
        """Read from exactly this node, once; raise ``CoordinatorUnavailable`` when it is silent.

        ``accept``: statuses besides 2xx whose body is an answer (a probe that says no).
        """
        sent = _Sent("GET", path, {}, None, ATTEMPT_TIMEOUT_MS, accept)
        try:
            return await self._attempt(url, sent, {}, False)
        except (NotDone, InDoubt) as exc:
            raise CoordinatorUnavailable(f"{url} did not answer {path}: {exc.why}") from exc

    async def _until(self, sent: _Sent, deadline_ms: int, extra: Mapping[str, str]) -> Reply:
        """Try node after node until one answers or the time is up."""
        doubts: list[str] = []
        backoff_ms = FIRST_BACKOFF_MS
        why = "the time was up before the first attempt"
        while (left_ms := deadline_ms - self._clock.monotonic_ms()) >= LEAST_ATTEMPT_MS:
            # One round over all nodes, then a pause; a node's own hint may move it to the front.
            for url in tuple(self._urls):
                left_ms = deadline_ms - self._clock.monotonic_ms()
                if left_ms < LEAST_ATTEMPT_MS:
                    break
                pause_ms: int | None = None
                try:
                    attempt = sent.within(left_ms)
                    return await self._attempt(url, attempt, extra, bool(doubts))
                except NotDone as no:
                    why, pause_ms = f"{url}: {no.why}", no.retry_after_ms
                except InDoubt as doubt:
                    why = f"{url}: {doubt.why}"
                    doubts.append(why)
                self._demote(url)
                if pause_ms is not None:
                    backoff_ms = max(backoff_ms, min(pause_ms, MAX_BACKOFF_MS))
            left_ms = deadline_ms - self._clock.monotonic_ms()
            await self._clock.sleep_ms(max(0, min(backoff_ms, left_ms)))
            backoff_ms = min(backoff_ms * 2, MAX_BACKOFF_MS)
        what = f"{sent.method} {sent.path}"
        if doubts and sent.method != "GET":
            raise OutcomeUnknown(
                f"{what}: no coordinator confirmed it, and it may have been carried out"
                f" (last: {why}). Look at `coordinator status` before doing it again."
            )
        raise CoordinatorUnavailable(
            f"{what}: no coordinator took the request within {self._timeout_ms} ms, nothing was"
            f" done (last: {why}). Asked: {', '.join(self._urls)}. See `coordinator status`."
        )

    async def _attempt(
        self, url: str, sent: _Sent, extra: Mapping[str, str], was_in_doubt: bool
    ) -> Reply:
        """Ask one node once, and sort its answer into yes, no, not done and in doubt."""
        try:
            async with self._opened().request(
                sent.method,
                url + sent.path,
                params=sent.params,
                data=sent.body,
                headers=self._headers(sent, extra),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=sent.timeout_ms / 1000, sock_connect=CONNECT_TIMEOUT_S
                ),
            ) as response:
                hinted = self._note(response)
                body = await read_capped(response)
                status, kind = response.status, response.content_type
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotDone(_describe(exc)) from exc
        except TimeoutError as exc:
            raise InDoubt(f"no answer within {sent.timeout_ms} ms") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise InDoubt(_describe(exc)) from exc
        if 200 <= status < 300 or status in sent.accept:
            if not hinted:
                self._promote(url)
            return Reply(body, url)
        raise refusal(status, kind, body, was_in_doubt)

    def _headers(self, sent: _Sent, extra: Mapping[str, str]) -> dict[str, str]:
        built = {"Accept": "application/json", **extra}
        if sent.body is not None:
            built["Content-Type"] = "application/json"
        if self._floor:
            built[headers.REV] = str(self._floor)
            if self._recovery is not None:
                built[headers.RECOVERY] = self._recovery
        return built

    def _note(self, response: aiohttp.ClientResponse) -> bool:
        """Raise the rev floor; follow a hint where the leader is and tell whether there was one."""
        recovery = response.headers.get(headers.RECOVERY)
        if recovery is not None and recovery != self._recovery:
            self._recovery, self._floor = recovery, 0
        rev = response.headers.get(headers.REV, "")
        if rev.isascii() and rev.isdigit() and len(rev) < 20:
            self._floor = max(self._floor, int(rev))
        hint = response.headers.get(headers.LEADER)
        return bool(hint) and self._follow(str(hint))

    def _follow(self, hint: str) -> bool:
        """Put the leader first. A URL nobody configured is used too, but never given the token."""
        try:
            (url,) = parse_urls([hint])
        except InvalidInput:
            return False
        if url in self._urls:
            self._promote(url)
        elif self._token is None and len(self._urls) < MAX_URLS:
            self._urls.insert(0, url)
        return url in self._urls

    def _promote(self, url: str) -> None:
        if url in self._urls and self._urls[0] != url:
            self._urls.remove(url)
            self._urls.insert(0, url)

    def _demote(self, url: str) -> None:
        if url not in self._urls:
            return
        self._urls.remove(url)
        # A learnt URL that fails is forgotten; the operator vouches for the configured ones.
        if url in self._configured:
            self._urls.append(url)

    def _opened(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise SeamfillError("the coordinator client is not open; use `async with`")
        return self._http

    # --- the session ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _sequence(self, deadline_ms: int) -> AsyncIterator[tuple[_Session, str]]:
        """Hold one sequence of the session, opening the session first when there is none.

        Abandoning a sequence (error, cancellation) lets ``low`` pass it, after which a copy still
        under way is answered SESSION_UNKNOWN instead of being carried out late.
        """
        session = await self._open_session(deadline_ms)
        pending = session.pending
        async with self._answered:
            # Bounded: every pending request has a deadline of its own.
            while pending and session.next_sequence - min(pending) >= MAX_SPREAD:
                await self._answered.wait()
            sequence = session.next_sequence
            session.next_sequence += 1
            pending.add(sequence)
        try:
            yield session, f"{session.client}:{sequence}:{min(pending)}"
        finally:
            pending.discard(sequence)
            async with self._answered:
                self._answered.notify_all()

    async def _open_session(self, deadline_ms: int) -> _Session:
        if self._session is not None:
            return self._session
        async with self._session_lock:
            if self._session is None:
                # A session that was opened but never heard of costs the cluster one idle row.
                opening = _Sent("POST", "/v1/sessions", {}, b"{}", ATTEMPT_TIMEOUT_MS)
                try:
                    reply = await self._until(opening, deadline_ms, {})
                except OutcomeUnknown as exc:
                    raise CoordinatorUnavailable(exc.message) from exc
                answer = msgspec.json.decode(reply.body, type=SessionAnswer)
                self._session = _Session(answer.client)
            return self._session

    # --- server-sent events ---------------------------------------------------------------------

    async def events(self, path: str, *, idle_ms: int) -> AsyncIterator[bytes]:
        """Yield the data of server-sent events from one connection, until it ends.

        Ends without an error when the connection breaks or is silent for ``idle_ms``: the caller
        decides whether to come back. Raises ``CoordinatorUnavailable`` when no node could be
        connected, ``RequestRefused`` on a definite no.
        """
        why = "no node was asked"
        for url in tuple(self._urls):
            try:
                async for data in self._events_of(url, path, idle_ms):
                    yield data
                return
            except (NotDone, InDoubt) as no:
                why = f"{url}: {no.why}"
                self._demote(url)
        raise CoordinatorUnavailable(f"GET {path}: no coordinator serves events (last: {why})")

    async def _events_of(self, url: str, path: str, idle_ms: int) -> AsyncIterator[bytes]:
        try:
            async with self._opened().get(
                url + path,
                headers={"Accept": "text/event-stream"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_ms / 1000
                ),
            ) as response:
                self._note(response)
                if response.status != 200:
                    body = await read_capped(response)
                    raise refusal(response.status, response.content_type, body, False)
                async for data in event_data(response.content):
                    yield data
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotDone(_describe(exc)) from exc
        except (TimeoutError, aiohttp.ClientError, OSError):
            return


@dataclass(frozen=True, slots=True)
class _Sent:
    """One request, the same for every attempt but for the time left."""

    method: str
    path: str
    params: dict[str, str]
    body: bytes | None
    timeout_ms: int
    accept: frozenset[int] = frozenset()

    def within(self, left_ms: int) -> _Sent:
        return replace(self, timeout_ms=min(self.timeout_ms, left_ms))


def _describe(exc: BaseException) -> str:
    # The stock text repeats the address twice and speaks of TLS where there is none. asyncio puts
    # the address into strerror as well, so what went wrong is read from errno where it has one.
    if isinstance(exc, aiohttp.ClientConnectorError):
        cause = exc.os_error
        if isinstance(cause, ConnectionError | TimeoutError) and cause.errno:
            return f"can not connect: {os.strerror(cause.errno)}"
        return f"can not connect: {cause.strerror or cause}"
    return str(exc) or type(exc).__name__
