"""Requests share commands; every caller hears exactly one kind of answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from seamfill.errors import InvalidInput
from seamfill_coordinator.machine.codec import decode_command
from seamfill_coordinator.machine.commands import Claim, Command, Request, Stamp
from seamfill_coordinator.machine.outcomes import Applied, Done, Reply
from seamfill_coordinator.raft.aggregator import Aggregator, AggregatorLimits
from seamfill_coordinator.replication import NotLeader, Overloaded, ProposalOutcomeUnknown

FIRST = Request(operations=(Claim(key="first", lease_ms=1),))
SOON_MS = 10_000
DUE_MS = 0


class Log:
    """Collects what is launched, until the test says what became of it."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.landings: list[Callable[[Applied | None], None]] = []
        self.leads = True
        self.rev = 0

    def launch(self, command: bytes, done: Callable[[Applied | None], None]) -> None:
        if not self.leads:
            raise NotLeader("n9")
        decoded = decode_command(command)
        assert isinstance(decoded, Command)
        self.commands.append(decoded)
        self.landings.append(done)

    def land(self, position: int) -> None:
        """Apply one launched command."""
        replies = []
        for _ in self.commands[position].requests:
            self.rev += 1
            replies.append(Reply(outcomes=(Done(),), rev=self.rev))
        self.landings[position](Applied(replies=tuple(replies)))

    @property
    def keys(self) -> list[list[str]]:
        """The claimed keys, command by command."""
        return [
            [o.key for r in command.requests for o in r.operations if isinstance(o, Claim)]
            for command in self.commands
        ]


@pytest.fixture
def log() -> Log:
    return Log()


def build(log: Log, limits: AggregatorLimits | None = None) -> Aggregator:
    return Aggregator(
        launch=log.launch,
        stamp=lambda: Stamp(term=7, reign_ms=1, wall_ms=2),
        machine_version=lambda: 1,
        leader_id=lambda: "n2",
        limits=limits,
    )


def opened(log: Log, limits: AggregatorLimits | None = None) -> Aggregator:
    """An aggregator whose reign has begun, with its first command applied."""
    aggregator = build(log, limits)
    aggregator.open(FIRST, lambda _reply: None)
    log.land(0)
    return aggregator


def claim(key: str) -> Request:
    return Request(operations=(Claim(key=key, lease_ms=1),))


async def submit(
    aggregator: Aggregator, *requests: Request | None, timeout_ms: int = SOON_MS
) -> list[asyncio.Task[Reply | None]]:
    """Hand the requests in, in one turn of the loop, and let the pump run."""
    tasks = [
        asyncio.create_task(aggregator.submit(request, timeout_ms=timeout_ms))
        for request in requests
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_requests_of_one_turn_share_a_command(log: Log) -> None:
    aggregator = opened(log)
    tasks = await submit(aggregator, claim("a"), claim("b"), claim("c"))
    assert log.keys[1:] == [["a", "b", "c"]]
    assert log.commands[1].stamp.term == 7
    log.land(1)
    replies = [await task for task in tasks]
    assert [reply.rev for reply in replies if reply is not None] == [2, 3, 4]


async def test_what_arrives_while_commands_are_in_flight_leaves_together(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=2))
    await submit(aggregator, claim("a"))
    await submit(aggregator, claim("b"))
    await submit(aggregator, claim("c"))
    last = await submit(aggregator, claim("d"))
    assert log.keys[1:] == [["a"], ["b"]]
    log.land(1)
    await asyncio.sleep(0)
    assert log.keys[1:] == [["a"], ["b"], ["c", "d"]]
    log.land(3)
    assert await last[0] is not None


async def test_a_barrier_waits_for_a_command_launched_after_it(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=1))
    await submit(aggregator, claim("a"))
    (barrier, other) = await submit(aggregator, None, None)
    log.land(1)
    await asyncio.sleep(0)
    assert not barrier.done(), "the command before may be older than what the caller knows of"
    log.land(2)
    assert await barrier is None
    assert await other is None
    assert log.keys == [["first"], ["a"], []]


async def test_before_a_reign_everything_is_refused(log: Log) -> None:
    with pytest.raises(NotLeader) as refusal:
        await build(log).submit(claim("a"), timeout_ms=SOON_MS)
    assert refusal.value.leader_id == "n2"
    assert log.commands == []


async def test_the_end_of_a_reign_parts_the_unknown_from_the_refused(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=1))
    (launched,) = await submit(aggregator, claim("a"))
    (queued,) = await submit(aggregator, claim("b"))
    aggregator.close()
    with pytest.raises(ProposalOutcomeUnknown):
        await launched
    with pytest.raises(NotLeader):
        await queued
    log.land(1)  # too late to be believed by anybody, and harmless
    assert aggregator.is_idle


async def test_the_end_of_a_reign_tells_callers_in_the_order_of_their_requests(log: Log) -> None:
    """Every process must do it in the same order, or no simulated run could be repeated."""
    aggregator = opened(log, AggregatorLimits(in_flight=32))
    told: list[int] = []

    async def ask(number: int) -> None:
        with pytest.raises(ProposalOutcomeUnknown):
            await aggregator.submit(claim(str(number)), timeout_ms=SOON_MS)
        told.append(number)

    tasks = []
    for number in range(32):
        tasks.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    aggregator.close()
    await asyncio.gather(*tasks)
    assert told == list(range(32))


async def test_a_deadline_parts_them_as_well(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=1))
    with pytest.raises(ProposalOutcomeUnknown):
        (launched,) = await submit(aggregator, claim("a"), timeout_ms=5)
        await launched
    (queued,) = await submit(aggregator, claim("b"), timeout_ms=DUE_MS)
    with pytest.raises(Overloaded):
        await queued
    log.land(1)
    await asyncio.sleep(0)
    assert log.keys == [["first"], ["a"]], "what was refused must not be proposed later"


async def test_a_failed_command_is_unknown(log: Log) -> None:
    aggregator = opened(log)
    (task,) = await submit(aggregator, claim("a"))
    log.landings[1](None)
    with pytest.raises(ProposalOutcomeUnknown):
        await task


async def test_leadership_lost_before_the_launch_is_a_refusal(log: Log) -> None:
    aggregator = opened(log)
    log.leads = False
    (task,) = await submit(aggregator, claim("a"))
    with pytest.raises(NotLeader) as refusal:
        await task
    assert refusal.value.leader_id == "n9"


async def test_a_full_queue_is_overloaded(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=1, queued=2))
    await submit(aggregator, claim("in flight"))
    *waiting, refused = await submit(aggregator, claim("a"), claim("b"), claim("c"))
    with pytest.raises(Overloaded):
        await refused
    aggregator.close()
    for task in waiting:
        with pytest.raises(NotLeader):
            await task


async def test_a_command_carries_at_most_so_many_requests(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(requests_per_command=2, in_flight=9))
    await submit(aggregator, *(claim(key) for key in "abcde"))
    assert log.keys[1:] == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_command_that_would_be_too_large_is_split_in_order(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(command_bytes=300, in_flight=99))
    keys = [letter * 100 for letter in "abcde"]
    tasks = await submit(aggregator, *(claim(key) for key in keys))
    assert [key for command in log.keys[1:] for key in command] == keys
    assert all(len(command) <= 2 for command in log.keys)
    for position in range(1, len(log.commands)):
        log.land(position)
    assert [reply.rev for task in tasks if (reply := await task)] == [2, 3, 4, 5, 6]


async def test_a_request_that_fits_no_command_is_refused_alone(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(command_bytes=300))
    small, large = await submit(aggregator, claim("a"), claim("b" * 400))
    with pytest.raises(InvalidInput, match="at most 300"):
        await large
    log.land(1)
    assert await small is not None
    assert log.keys[1:] == [["a"]]


async def test_a_caller_that_left_before_the_launch_is_not_proposed(log: Log) -> None:
    aggregator = opened(log, AggregatorLimits(in_flight=1))
    await submit(aggregator, claim("in flight"))
    gone, stays = await submit(aggregator, claim("gone"), claim("stays"))
    gone.cancel()
    await asyncio.sleep(0)
    log.land(1)
    await asyncio.sleep(0)
    assert log.keys[-1] == ["stays"]
    log.land(2)
    assert await stays is not None


async def test_a_tick_is_launched_only_in_silence(log: Log) -> None:
    aggregator = opened(log)
    aggregator.tick()
    assert log.keys == [["first"], []]
    aggregator.tick()
    assert len(log.commands) == 2, "one is on its way already"
    log.land(1)
    aggregator.close()
    aggregator.tick()
    assert len(log.commands) == 2


async def test_the_first_request_of_a_reign_goes_before_all_others(log: Log) -> None:
    aggregator = build(log)
    heard: list[Reply] = []
    aggregator.open(FIRST, heard.append)
    await submit(aggregator, claim("a"))
    assert log.keys == [["first"], ["a"]]
    log.land(0)
    await asyncio.sleep(0)
    assert [reply.rev for reply in heard] == [1]
    aggregator.close()
