"""Bodies as files, generators as streams."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from corten.engine import streams
from corten.engine.streams import feed_thread, iterate_in_thread, progress_in_thread, run_blocking
from corten.errors import InvalidParameter


async def body_of(*chunks, error=None):
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk
    if error is not None:
        raise error


def test_a_body_is_read_as_a_file():
    def work(file):
        parts = [file.read(3), file.read(100)]
        buffer = bytearray(2)
        assert file.readinto(buffer) == 2
        return [*parts, bytes(buffer), file.read(), file.read(1), file.read()]

    found = asyncio.run(feed_thread(body_of(b"abcdef", b"", b"ghij", b"kl"), work))
    assert found == [b"abc", b"def", b"gh", b"ijkl", b"", b""]


def test_large_bodies_are_bounded_and_whole():
    chunk = bytes(range(256)) * 1024
    held = []

    async def counted():
        for _ in range(200):
            yield chunk

    def work(file):
        count = 0
        while data := file.read(100_000):
            held.append(file._held)
            count += len(data)
        return count

    assert asyncio.run(feed_thread(counted(), work)) == 200 * len(chunk)
    assert max(held) <= streams._BOUND + len(chunk)


def test_a_body_that_is_cut_short_is_an_error_and_no_end():
    with pytest.raises(OSError, match="cut short: reset"):
        asyncio.run(feed_thread(body_of(b"abc", error=ConnectionError("reset")), lambda file: file.read()))


def test_a_bodys_own_error_comes_through():
    with pytest.raises(InvalidParameter, match="bad chunk"):
        asyncio.run(feed_thread(body_of(b"abc", error=InvalidParameter("bad chunk")), lambda file: file.read()))


def test_the_works_error_ends_the_feeding():
    async def endless():
        while True:
            yield b"x" * 65536

    def work(file):
        file.read(10)
        raise InvalidParameter("enough")

    with pytest.raises(InvalidParameter, match="enough"):
        asyncio.run(asyncio.wait_for(feed_thread(endless(), work), 5))


def test_work_that_wants_only_a_part_leaves_the_rest():
    async def endless():
        while True:
            yield b"x" * 65536

    assert asyncio.run(asyncio.wait_for(feed_thread(endless(), lambda file: file.read(4)), 5)) == b"xxxx"


def test_cancelling_stops_the_thread():
    ended = threading.Event()

    def work(file):
        try:
            while file.read(10):
                pass
        finally:
            ended.set()

    async def scenario():
        async def silent():
            yield b"x"
            await asyncio.sleep(3600)

        running = asyncio.ensure_future(feed_thread(silent(), work))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended.is_set()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_generator_is_read_from_a_thread_in_order():
    names = set()

    def numbers():
        for number in range(10_000):
            names.add(threading.current_thread().name)
            yield b"%d" % number

    async def scenario():
        return [chunk async for chunk in iterate_in_thread(numbers)]

    assert asyncio.run(scenario()) == [b"%d" % number for number in range(10_000)]
    assert threading.main_thread().name not in names


def test_a_generators_error_comes_after_what_it_gave():
    def broken():
        yield b"a"
        yield b"b"
        raise InvalidParameter("broken")

    async def scenario():
        chunks = iterate_in_thread(broken)
        found = [await anext(chunks), await anext(chunks)]
        with pytest.raises(InvalidParameter, match="broken"):
            await anext(chunks)
        return found

    assert asyncio.run(scenario()) == [b"a", b"b"]


def test_an_error_while_making_the_generator_comes_through():
    def refused():
        raise InvalidParameter("no")

    async def scenario():
        async for _ in iterate_in_thread(refused):
            pass

    with pytest.raises(InvalidParameter, match="no"):
        asyncio.run(scenario())


def test_a_slow_reader_holds_the_generator_back():
    made = 0

    def endless():
        nonlocal made
        while True:
            made += 1
            yield b"x" * 65536

    async def scenario():
        async with contextlib.aclosing(iterate_in_thread(endless)) as chunks:
            await anext(chunks)
            await asyncio.sleep(0.2)
            first = made
            await asyncio.sleep(0.1)
            assert made == first
            # what was taken and what is queued
            assert made <= 2 * streams._BOUND // 65536 + 2

    asyncio.run(scenario())


def test_a_reader_that_stops_closes_the_generator():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async def scenario():
        async with contextlib.aclosing(iterate_in_thread(endless)) as chunks:
            async for _ in chunks:
                break
        assert closed.is_set()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_slow_clients_do_not_hold_up_short_work():
    def endless():
        while True:
            yield b"x" * (1 << 20)

    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(40):
                stream = await stack.enter_async_context(contextlib.aclosing(iterate_in_thread(endless)))
                await anext(stream)
            return await asyncio.wait_for(run_blocking(lambda: "done"), 5)

    assert asyncio.run(scenario()) == "done"


def test_progress_comes_as_it_happens_and_ends_with_the_result():
    def work(file, report):
        while data := file.read(1):
            report({"status": data.decode()})
        report({"loaded": True})

    async def scenario():
        return [document async for document in progress_in_thread(body_of(b"ab", b"c"), work)]

    assert asyncio.run(scenario()) == [{"status": "a"}, {"status": "b"}, {"status": "c"}, {"loaded": True}]


def test_reporting_never_waits_for_a_client_that_does_not_read():
    reported = threading.Event()

    def work(file, report):
        for number in range(10_000):
            report({"progressDetail": {"current": number}})
        report({"stream": "Loaded image: x"})
        reported.set()

    async def scenario():
        documents = progress_in_thread(body_of(b"x"), work)
        first = await anext(documents)
        await asyncio.to_thread(reported.wait, 5)
        rest = [document async for document in documents]
        return [first, *rest]

    found = asyncio.run(scenario())
    assert found[-1] == {"stream": "Loaded image: x"}
    assert len(found) < 2 * streams._REPORTS


def test_an_error_after_progress_comes_last():
    def work(file, report):
        report({"status": "a"})
        raise InvalidParameter("broken")

    async def scenario():
        documents = progress_in_thread(body_of(b"x"), work)
        found = [await anext(documents)]
        with pytest.raises(InvalidParameter, match="broken"):
            await anext(documents)
        return found

    assert asyncio.run(scenario()) == [{"status": "a"}]


def test_progress_that_nobody_reads_any_more_stops_the_work():
    ended = threading.Event()

    def work(file, report):
        report({"status": "a"})
        try:
            while file.read(10):
                pass
        finally:
            ended.set()

    async def scenario():
        async def silent():
            yield b"x"
            await asyncio.sleep(3600)

        async with contextlib.aclosing(progress_in_thread(silent(), work)) as documents:
            await anext(documents)
        assert ended.is_set()

    asyncio.run(asyncio.wait_for(scenario(), 5))
