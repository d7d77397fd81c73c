"""What every ChangeSource promises."""

from __future__ import annotations

import asyncio

from tests.changes.streams import Stream, ids, opened, take, take_dead

SOON = 30.0
"""Seconds; a deadline, not an expectation. Joining Kafka's group takes most of it."""


async def test_changes_of_a_recipient_come_in_the_order_of_their_commits(stream: Stream) -> None:
    async with opened(stream) as [source], asyncio.timeout(SOON):
        await stream.listened_to(source)
        stream.append(range(1, 1001))
        taken = await take(source, 1000)

    assert ids(taken) == list(range(1, 1001))


async def test_a_change_that_is_committed_later_comes_too(stream: Stream) -> None:
    async with opened(stream) as [source], asyncio.timeout(SOON):
        await stream.listened_to(source)
        stream.append([1])
        first = await take(source, 1)
        stream.append([2])
        second = await take(source, 1)

    assert ids(first + second) == [1, 2]


async def test_a_record_that_is_no_change_does_not_spoil_its_neighbours(stream: Stream) -> None:
    async with opened(stream) as [source], asyncio.timeout(SOON):
        await stream.listened_to(source)
        stream.append([1])
        reason = stream.append_garbage()
        batch, changes = await take_dead(source)
        stream.append([2])
        changes += await take(source, 2 - len(changes))

    assert sorted(ids(changes)) == [1, 2]
    [record] = batch.dead
    assert reason in record.reason


async def test_what_is_done_does_not_come_again(kept_stream: Stream) -> None:
    kept_stream.append([1, 2, 3])
    async with opened(kept_stream) as [source], asyncio.timeout(SOON):
        await take(source, 3)
    kept_stream.append([4])

    async with opened(kept_stream) as [source], asyncio.timeout(SOON):
        again = await take(source, 1)

    assert ids(again) == [4]


async def test_what_is_not_done_comes_again(kept_stream: Stream) -> None:
    kept_stream.append([1, 2, 3])
    async with opened(kept_stream) as [source], asyncio.timeout(SOON):
        await take(source, 3, done=False)

    async with opened(kept_stream) as [source], asyncio.timeout(SOON):
        again = await take(source, 3)

    assert ids(again) == [1, 2, 3]


async def test_batches_end_when_the_source_is_closed_while_it_waits(stream: Stream) -> None:
    async with opened(stream) as [source], asyncio.timeout(SOON):
        waiting = asyncio.create_task(take(source, 1))
        await asyncio.sleep(0)

        await source.close()

        assert await waiting == []


async def test_a_closed_source_gives_nothing(stream: Stream) -> None:
    stream.append([1])
    async with opened(stream) as [source], asyncio.timeout(SOON):
        await source.close()

        assert await take(source, 1) == []
