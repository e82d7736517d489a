"""Logs as the engine gives them: read in threads, followed by inotify."""

from __future__ import annotations

import asyncio
import os
import time
from types import SimpleNamespace

import pytest

from corten.dockerapi.frames import FrameDecoder
from corten.dockerapi.queries import LogQuery
from corten.engine.logs import log_attributes, log_path, open_logs, validate_log_config
from corten.errors import InvalidParameter, NotFound, NotImplementedYet
from corten.logdriver.options import parse
from corten.logdriver.writers import open_writer


class FakeShim:
    def __init__(self):
        self.flushed = 0

    async def log_flush(self):
        self.flushed += 1


class Container:
    """A container with a log that a test writes itself."""

    def __init__(self, directory, driver="json-file", *, tty=False, **options):
        self.config = {name.replace("_", "-"): value for name, value in options.items()}
        self.path = str(directory / "c.log")
        self.driver = driver
        self.writer = open_writer(driver, self.path, parse(driver, self.config), {}, None)
        container = SimpleNamespace(
            log_path=self.path,
            config=SimpleNamespace(tty=tty),
            host_config=SimpleNamespace(log_config=SimpleNamespace(type=driver, config=self.config)),
        )
        self.live = SimpleNamespace(container=container, shim=None, stopped=None)

    def run(self):
        self.live.stopped = asyncio.get_running_loop().create_future()
        self.live.shim = FakeShim()
        return self

    def write(self, text, stream="stdout"):
        self.writer.write(stream, text.encode(), time.time_ns())

    def end(self):
        self.writer.finish(time.time_ns())
        self.writer.close()
        if self.live.stopped is not None:
            self.live.stopped.set_result(None)

    def open(self, **query):
        return open_logs(self.live, LogQuery(**{"stdout": True, "stderr": True, **query}))


async def everything(stream):
    data = b"".join([chunk async for chunk in stream.chunks])
    return data if stream.tty else [payload for _, payload in FrameDecoder().feed(data)]


def asynchronous(test):
    def run(tmp_path):
        async def main():
            async with asyncio.timeout(30):
                await test(tmp_path)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


def inotify_instances():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify"
        except OSError:
            continue
    return found


@asynchronous
async def test_what_is_there(tmp_path):
    log = Container(tmp_path)
    log.write("one\ntwo\n")
    log.write("bad\n", "stderr")
    assert await everything(log.open()) == [b"one\n", b"two\n", b"bad\n"]
    assert await everything(log.open(stdout=False)) == [b"bad\n"]
    assert await everything(log.open(tail=1)) == [b"bad\n"]
    log.end()


@asynchronous
async def test_a_terminals_log_is_raw(tmp_path):
    log = Container(tmp_path, tty=True)
    log.write("one\r\n")
    stream = log.open()
    assert stream.tty
    assert await everything(stream) == b"one\r\n"
    log.end()


@asynchronous
async def test_a_running_program_is_asked_for_what_it_wrote_last(tmp_path):
    log = Container(tmp_path).run()
    await everything(log.open())
    assert log.live.shim.flushed == 1
    log.end()


@asynchronous
async def test_a_follower_gets_what_comes_and_ends_with_the_program(tmp_path):
    log = Container(tmp_path).run()
    log.write("before\n")
    stream = log.open(follow=True)
    decoder = FrameDecoder()
    chunks = aiter(stream.chunks)
    assert decoder.feed(await anext(chunks)) == [(1, b"before\n")]
    for number in range(3):
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        log.write(f"line {number}\n")
        began = time.monotonic()
        assert decoder.feed(await waiting) == [(1, b"line %d\n" % number)]
        assert time.monotonic() - began < 0.5
    log.write("last words")
    log.end()
    assert decoder.feed(b"".join([chunk async for chunk in chunks])) == [(1, b"last words")]
    assert inotify_instances() == 0


@asynchronous
async def test_following_a_program_that_has_ended_ends(tmp_path):
    log = Container(tmp_path)
    log.write("over\n")
    log.end()
    assert await everything(log.open(follow=True)) == [b"over\n"]


@asynchronous
async def test_followers_share_one_inotify_instance(tmp_path):
    directories = [tmp_path / str(number) for number in range(5)]
    for directory in directories:
        directory.mkdir()
    logs = [Container(directory).run() for directory in directories]
    readers = [asyncio.ensure_future(everything(log.open(follow=True))) for log in logs for _ in range(3)]
    await asyncio.sleep(0.1)
    assert inotify_instances() == 1
    for log in logs:
        log.write("x\n")
        log.end()
    assert await asyncio.gather(*readers) == [[b"x\n"]] * 15
    assert inotify_instances() == 0


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_slow_follower_of_a_fast_writer_loses_nothing_by_rotation(tmp_path, driver):
    async def main():
        log = Container(tmp_path, driver, max_size="10k", max_file="2", compress="true").run()
        reader = asyncio.ensure_future(slow(log.open(follow=True)))
        await asyncio.sleep(0.05)
        for number in range(3000):
            log.write(f"line {number}\n")
            if number % 50 == 0:
                await asyncio.sleep(0)  # the daemon's loop runs: it takes hold of new files
        log.end()
        assert await reader == b"".join(b"line %d\n" % number for number in range(3000))

    async def slow(stream):
        received = b""
        decoder = FrameDecoder()
        async for chunk in stream.chunks:
            received += b"".join(payload for _, payload in decoder.feed(chunk))
            await asyncio.sleep(0.05)
        return received

    asyncio.run(asyncio.wait_for(main(), 30))


@asynchronous
async def test_following_a_container_that_never_ran_ends(tmp_path):
    log = Container(tmp_path, "none")
    log.live.container.host_config.log_config.type = "local"
    log.live.container.log_path = str(tmp_path / "absent" / "container.log")
    assert await everything(log.open(follow=True)) == []


@asynchronous
async def test_without_inotify_a_follower_looks_every_second(tmp_path):
    log = Container(tmp_path).run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corten.linux.inotify.Inotify.__init__", refuse)
        reader = asyncio.ensure_future(everything(log.open(follow=True)))
        await asyncio.sleep(0.05)
        log.write("late\n")
        log.end()
        assert await reader == [b"late\n"]


def refuse(self):
    self._descriptor = -1
    raise OSError(24, "Too many open files")


@asynchronous
async def test_until_ends_a_follower_in_time(tmp_path):
    log = Container(tmp_path).run()
    log.write("early\n")
    began = time.monotonic()
    assert await everything(log.open(follow=True, until=time.time_ns() + 300_000_000)) == [b"early\n"]
    assert 0.25 < time.monotonic() - began < 2
    log.end()


@asynchronous
async def test_a_client_that_leaves_gives_everything_back(tmp_path):
    log = Container(tmp_path).run()
    log.write("x" * 100 + "\n")
    before = set(os.listdir("/proc/self/fd"))
    for follow in (False, True):
        stream = log.open(follow=follow)
        await anext(stream.chunks)
        await stream.chunks.aclose()
    reading = asyncio.ensure_future(everything(log.open(follow=True)))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.sleep(0.05)
    assert set(os.listdir("/proc/self/fd")) == before
    log.end()


@asynchronous
async def test_what_cannot_be_asked(tmp_path):
    log = Container(tmp_path, "none")
    with pytest.raises(NotImplementedYet, match="configured logging driver does not support reading"):
        log.open()
    other = Container(tmp_path)
    with pytest.raises(InvalidParameter, match="you must choose at least one stream"):
        other.open(stdout=False, stderr=False)
    other.end()


def test_paths(tmp_path):
    assert log_path("json-file", tmp_path, "abc") == f"{tmp_path}/abc-json.log"
    assert log_path("local", tmp_path, "abc") == f"{tmp_path}/local-logs/container.log"
    assert log_path("none", tmp_path, "abc") == ""


def test_options_are_checked_before_a_container_is_made():
    validate_log_config("json-file", {"max-size": "10m", "tag": "{{.Name}}"})
    with pytest.raises(InvalidParameter, match="unknown log opt 'x' for json-file log driver"):
        validate_log_config("json-file", {"x": "1"})
    with pytest.raises(InvalidParameter, match="log-tag"):
        validate_log_config("local", {"tag": "{{.Nothing}}"})
    with pytest.raises(NotFound, match="no log driver named 'syslog' is registered"):
        validate_log_config("syslog", {})


def test_attributes_come_from_the_container():
    def container(config):
        return SimpleNamespace(
            id="a" * 64,
            name="web",
            image_id="sha256:" + "b" * 64,
            command=["run"],
            config=SimpleNamespace(image="nginx", env=["A=1"], labels={"l": "2"}),
            host_config=SimpleNamespace(log_config=SimpleNamespace(type="json-file", config=config)),
        )

    assert log_attributes(container({"max-size": "1m"})) == {}
    found = log_attributes(container({"labels": "l", "env": "A", "tag": "{{.Name}} {{.ImageName}}"}))
    assert found == {"l": "2", "A": "1", "tag": "web nginx"}
