"""Spawner and shims with real containers, seen from the daemon's side."""

# these tests wait for real processes: what blocks the loop for a moment harms nobody
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shim_support import NAMESPACES, PARENT, Stream, World, end, is_alive, private_kib, process, shim_pid, wait_for

from corten.engine.shims import ExitStatus, Shim, Shims
from corten.engine.spawner import interpreter
from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, NotFound, NotModified, SystemFailure
from corten.logdriver.reader import open_reader
from corten.logdriver.reading import ReadRequest
from corten.runtime.newborn import is_worthwhile

pytestmark = pytest.mark.needs("busybox")


@pytest.fixture
def world(tmp_path, busybox_rootfs):
    directory = tmp_path / "w"
    directory.mkdir()
    made = World(directory, busybox_rootfs)
    yield made
    made.close()


def engine(test):
    """Run an asynchronous test with the shims of its world."""

    @functools.wraps(test)
    def run(world, **arguments):
        async def main():
            async with asyncio.timeout(60), world.shims() as shims:
                await test(world, shims, **arguments)

        asyncio.run(main())

    # the wrapper's own parameters are what pytest gives
    del run.__wrapped__
    import inspect

    names = [name for name in inspect.signature(test).parameters if name != "shims"]
    run.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return run


def logged(bundle, driver="json-file"):
    reader = open_reader(driver, bundle.log_path, ReadRequest(framed=False))
    text = b"".join(reader.chunks())
    reader.close()
    return text


# -- start and end ----------------------------------------------------------------------------------------------------


@engine
async def test_a_program_runs_and_its_end_is_told(world, shims):
    bundle = world.bundle()
    before = time.time_ns()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "echo out; echo err >&2; exit 7")))
    assert before <= shim.started_ns <= time.time_ns()
    status = await shim.exited
    assert status.code == 7
    assert shim.started_ns <= status.at_ns <= time.time_ns()
    assert not status.oom_killed
    assert not bundle.is_mounted()
    assert not bundle.cgroups()
    await shim.close()
    await shims.forget(bundle.id)
    assert world.is_clean(bundle)
    assert sorted(logged(bundle).splitlines()) == [b"err", b"out"]


@engine
async def test_a_signal_counts_128(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    assert is_alive(shim.pid)
    await shim.kill(signal.SIGKILL)
    assert (await end(shims, shim)).code == 137
    with pytest.raises(NotModified, match="is not running"):
        await shim.kill(signal.SIGTERM)


@engine
async def test_signals_reach_the_program(world, shims):
    bundle = world.bundle()
    spec = bundle.spec("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    stream = Stream()
    shim = await shims.start(bundle.start(spec, attach=[stream.request()]))
    await stream.until(b"ready\n")
    await shim.kill(signal.SIGTERM)
    assert (await end(shims, shim)).code == 3
    stream.close()


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        (["nosuch"], CommandNotFound, 'exec: "nosuch": executable file not found in $PATH'),
        (["/nope/x"], CommandNotFound, "no such file or directory"),
        (["/etc/passwd"], CommandNotExecutable, "permission denied"),
    ],
)
@engine
async def test_a_start_that_fails_leaves_nothing(world, shims, command, kind, words):
    bundle = world.bundle()
    stream = Stream()
    with pytest.raises(kind) as caught:
        await shims.start(bundle.start(bundle.spec(*command), attach=[stream.request()]))
    assert words in str(caught.value)
    assert str(caught.value).startswith("failed to create task for container")
    assert await stream.all() == b""
    await wait_for(lambda: world.is_clean(bundle))
    stream.close()
    # the same container can be started after the mistake has been mended
    shim = await shims.start(bundle.start(bundle.spec("true")))
    assert (await end(shims, shim)).code == 0


@engine
async def test_a_root_that_cannot_be_mounted_is_told_by_its_step(world, shims):
    bundle = world.bundle()
    bundle.rootfs["lower"] = ["/nonexistent/lower"]
    with pytest.raises(SystemFailure) as caught:
        await shims.start(bundle.start(bundle.spec("true")))
    assert "cannot mount the container's root" in str(caught.value)
    assert caught.value.step == "mount root"
    assert caught.value.errno == errno.ENOENT
    await wait_for(lambda: world.is_clean(bundle))


@engine
async def test_a_log_that_cannot_be_opened_is_an_error(world, shims):
    bundle = world.bundle()
    os.mkdir(bundle.log_path)
    with pytest.raises(SystemFailure, match="failed to initialize logging driver"):
        await shims.start(bundle.start(bundle.spec("true")))
    await wait_for(lambda: world.is_clean(bundle))


@engine
async def test_many_start_at_once(world, shims):
    bundles = [world.bundle() for _ in range(12)]
    started = await asyncio.gather(
        *(shims.start(b.start(b.spec("sh", "-c", f"exit {i}"))) for i, b in enumerate(bundles))
    )
    codes = [status.code for status in await asyncio.gather(*(end(shims, shim) for shim in started))]
    assert codes == list(range(12))
    assert all(world.is_clean(bundle) for bundle in bundles)


@engine
async def test_a_container_can_run_again_and_again(world, shims):
    bundle = world.bundle()
    for number in range(5):
        shim = await shims.start(bundle.start(bundle.spec("sh", "-c", f"echo run {number}")))
        # the exit is not forgotten in between, as after a daemon that was killed
        await shim.exited
        await shim.close()
    assert logged(bundle) == b"".join(b"run %d\n" % number for number in range(5))
    await shims.forget(bundle.id)


def newborn_of(shims):
    """The init that waits below the spare shim: in a pid namespace of its own already; 0 when there is none."""
    for shim in children(shims.spawner_pid):
        for pid in children(shim):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if len(re.search(r"NSpid:(.*)", status)[1].split()) > 1:
                    return pid
    return 0


@pytest.mark.skipif(not is_worthwhile(), reason="version 2: an init is born into its group")
@engine
async def test_the_next_init_is_born_before_it_is_asked_for(world, shims):
    """It has its namespaces when it is told what to run, and nothing of the host's file systems."""
    first = world.bundle()
    shim = await shims.start(first.start(first.spec("true")))
    await end(shims, shim)
    await wait_for(lambda: newborn_of(shims))
    newborn = newborn_of(shims)
    for kind in ("pid", "uts", "ipc", "net"):
        assert os.readlink(f"/proc/{newborn}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert os.readlink(f"/proc/{newborn}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    bundle = world.bundle()
    script = "echo $$ $(hostname); ls /proc/self/fd | wc -l; ip link show lo | grep -o LOWER_UP; sleep 60"
    # longer than a message of the handshake may be
    annotations = {"com.example.notes": "x" * 100_000}
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", script, annotations=annotations)))
    assert shim.pid == newborn
    assert os.readlink(f"/proc/{newborn}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert bundle.cgroup in Path(f"/proc/{newborn}/cgroup").read_text()
    await wait_for(lambda: logged(bundle).count(b"\n") == 3)
    assert logged(bundle).split() == [b"1", b"inside", b"4", b"LOWER_UP"]
    await shim.kill(9)
    await end(shims, shim)


@pytest.mark.skipif(not is_worthwhile(), reason="version 2: an init is born into its group")
@engine
async def test_memory_that_the_first_ones_wrote_to_is_copied_ahead_for_the_next(world, shims):
    async def settled():
        """What the newborn has of its own once it waits."""
        newborn = await wait_for(lambda: newborn_of(shims))
        sizes = [0]
        while len(sizes) < 6 or len(set(sizes[-5:])) > 1:
            await asyncio.sleep(0.02)
            sizes.append(private_kib(newborn))
        return sizes[-1]

    before = await settled()
    bundle = world.bundle()
    for _ in range(3):
        await end(shims, await shims.start(bundle.start(bundle.spec("true"))))
        await wait_for(lambda: newborn_of(shims))
    assert await settled() > before + 1500  # KiB


@pytest.mark.skipif(not is_worthwhile(), reason="version 2: an init is born into its group")
@engine
async def test_an_init_that_does_not_suit_is_sent_away(world, shims):
    """Who wants the host's pid namespace cannot use one that has been born into another; nor can who finds it dead."""
    first = world.bundle()
    shim = await shims.start(first.start(first.spec("true")))
    await end(shims, shim)
    await wait_for(lambda: newborn_of(shims))
    newborn = newborn_of(shims)
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "60", namespaces=("mount", "uts", "ipc", "network"))))
    assert shim.pid != newborn
    await wait_for(lambda: not is_alive(newborn))
    await shim.kill(9)
    await end(shims, shim)
    shim = await shims.start(first.start(first.spec("true")))
    await end(shims, shim)
    await wait_for(lambda: newborn_of(shims))
    newborn = newborn_of(shims)
    os.kill(newborn, signal.SIGKILL)
    await wait_for(lambda: not is_alive(newborn))
    shim = await shims.start(first.start(first.spec("sh", "-c", "exit 3")))
    assert (await end(shims, shim)).code == 3


@engine
async def test_a_start_that_is_given_up_ends_what_it_started(world, shims):
    bundle = world.bundle()
    starting = asyncio.ensure_future(shims.start(bundle.start(bundle.spec("sleep", "100"))))
    await wait_for(lambda: world.runtime_directory(bundle).exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await wait_for(lambda: world.is_clean(bundle))


# -- streams ----------------------------------------------------------------------------------------------------------


@engine
async def test_an_attached_client_gets_the_first_byte_and_the_last(world, shims):
    bundle, stream = world.bundle(), Stream()
    spec = bundle.spec("sh", "-c", "echo first; echo problem >&2; seq 1 20000; echo last")
    shim = await shims.start(bundle.start(spec, attach=[stream.request()]))
    found = await stream.frames()
    assert (await end(shims, shim)).code == 0
    assert found[2] == b"problem\n"
    assert found[1] == b"first\n" + b"".join(b"%d\n" % n for n in range(1, 20001)) + b"last\n"
    assert len(logged(bundle)) == len(found[1]) + len(found[2])
    stream.close()


@engine
async def test_input_reaches_the_program_and_its_end_too(world, shims):
    bundle, stream = world.bundle(), Stream()
    request = bundle.start(bundle.spec("cat"), stdin=True, stdin_once=True, attach=[stream.request(stdin=True)])
    shim = await shims.start(request)
    data = os.urandom(1 << 20)
    sending = asyncio.ensure_future(stream.send(data))
    got = bytearray()

    async def receive():
        from corten.dockerapi.frames import FrameDecoder

        decoder = FrameDecoder()
        while chunk := await stream.read():
            for _, payload in decoder.feed(chunk):
                got.extend(payload)

    receiving = asyncio.ensure_future(receive())
    await sending
    stream.end_input()
    await receiving
    assert bytes(got) == data
    assert (await end(shims, shim)).code == 0
    stream.close()


@engine
async def test_input_stays_open_for_the_next_client(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("cat"), stdin=True))
    for number in range(3):
        stream = await Stream().attach(shim, stdin=True)
        await stream.send(b"line %d\n" % number)
        assert await stream.until(b"\n") == b"\x01\0\0\0\0\0\0\x07line %d\n" % number
        # with Docker the end of a client's input is the end of its session, not of the program's input
        stream.end_input()
        assert await stream.all() == b""
        stream.close()
    assert is_alive(shim.pid)
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_several_clients_see_the_same(world, shims):
    bundle = world.bundle()
    streams = [Stream(), Stream(), Stream()]
    spec = bundle.spec("sh", "-c", "read go; seq 1 1000")
    shim = await shims.start(bundle.start(spec, stdin=True, attach=[s.request(stdin=True) for s in streams]))
    await streams[1].send(b"go\n")
    outputs = [await stream.frames() for stream in streams]
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0][1].endswith(b"\n1000\n")
    await end(shims, shim)
    for stream in streams:
        stream.close()


@engine
async def test_a_program_without_input_reads_the_end_at_once(world, shims):
    bundle, stream = world.bundle(), Stream()
    shim = await shims.start(bundle.start(bundle.spec("wc", "-c"), attach=[stream.request(stdin=True)]))
    assert (await stream.frames())[1].strip() == b"0"
    assert (await end(shims, shim)).code == 0
    stream.close()


@engine
async def test_a_program_that_closes_its_input_does_not_harm(world, shims):
    bundle, stream = world.bundle(), Stream()
    spec = bundle.spec("sh", "-c", "exec 0<&-; echo closed; sleep 0.2; echo done")
    shim = await shims.start(bundle.start(spec, stdin=True, attach=[stream.request(stdin=True)]))
    await stream.until(b"closed\n")
    await stream.send(b"x" * 200_000)
    assert (await stream.frames())[1] == b"done\n"
    assert (await end(shims, shim)).code == 0
    stream.close()


@engine
async def test_a_slow_client_loses_nothing_and_the_shim_stays_small(world, shims):
    bundle, stream = world.bundle(), Stream()
    size = 24 << 20
    spec = bundle.spec("sh", "-c", f"yes 0123456789abcde | head -c {size}; echo end >&2")
    shim = await shims.start(bundle.start(spec, driver="none", attach=[stream.request()]))
    pid = shim_pid(world, bundle)
    await asyncio.sleep(0.5)
    assert is_alive(shim.pid), "the program has not waited for its reader"
    assert private_kib(pid) < 8 * 1024
    found = await stream.frames()
    assert found[1] == b"0123456789abcde\n" * (size // 16)
    assert found[2] == b"end\n"
    assert (await end(shims, shim)).code == 0
    stream.close()


@engine
async def test_a_client_that_leaves_lets_the_program_go_on(world, shims):
    bundle, stream = world.bundle(), Stream()
    shim = await shims.start(
        bundle.start(bundle.spec("sh", "-c", "yes | head -c 4000000; echo end"), attach=[stream.request()])
    )
    await stream.read(1)
    stream.close()
    assert (await end(shims, shim)).code == 0
    assert logged(bundle).endswith(b"y\nend\n")


@engine
async def test_with_a_non_blocking_log_a_slow_client_is_dropped(world, shims):
    bundle, stream = world.bundle(), Stream()
    options = {"mode": "non-blocking", "max-buffer-size": "64m"}
    shim = await shims.start(
        bundle.start(bundle.spec("sh", "-c", "yes | head -c 8000000"), options=options, attach=[stream.request()])
    )
    assert (await end(shims, shim)).code == 0
    assert len(logged(bundle)) == 8_000_000
    assert 0 < len(await stream.all()) < 8_000_000
    stream.close()


@engine
async def test_background_processes_do_not_hold_the_exit_up(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "sleep 100 & echo started")))
    began = time.monotonic()
    assert (await end(shims, shim)).code == 0
    assert time.monotonic() - began < 2
    assert logged(bundle) == b"started\n"


# -- terminal ---------------------------------------------------------------------------------------------------------


@engine
async def test_a_terminal_is_raw_and_has_a_size(world, shims):
    bundle, stream = world.bundle(), Stream()
    spec = bundle.spec("sh", "-c", "tty; read line; stty size; echo got $line; exit 4", terminal=True)
    shim = await shims.start(bundle.start(spec, stdin=True, attach=[stream.request(stdin=True)]))
    await stream.until(b"/dev/pts/0\r\n")
    await shim.resize(33, 101)
    await stream.send(b"hello\n")
    rest = await stream.all()
    assert b"33 101\r\n" in rest
    assert rest.endswith(b"got hello\r\n")
    assert (await end(shims, shim)).code == 4
    assert logged(bundle).endswith(b"got hello\r\n")
    stream.close()


@engine
async def test_detach_keys_let_go_of_the_terminal_only(world, shims):
    bundle, stream = world.bundle(), Stream()
    spec = bundle.spec("sh", "-c", "stty -echo; echo ready; read line; echo got $line; sleep 100", terminal=True)
    shim = await shims.start(bundle.start(spec, stdin=True, stdin_once=True, attach=[stream.request(stdin=True)]))
    await stream.until(b"ready\r\n")
    await stream.send(b"ab\x10")
    await stream.send(b"\x11")
    assert await stream.all() == b""
    assert is_alive(shim.pid)
    other = await Stream().attach(shim, stdin=True, keys=b"xyz")
    await other.send(b"xyc\n")
    await other.until(b"got abxyc\r\n")
    await other.send(b"1xy")
    await other.send(b"z2")
    assert await other.all() == b""
    await shim.kill(9)
    await end(shims, shim)
    stream.close()
    other.close()


@engine
async def test_detach_keys_mean_nothing_to_a_pipe(world, shims):
    bundle, stream = world.bundle(), Stream()
    request = bundle.start(bundle.spec("cat"), stdin=True, stdin_once=True, attach=[stream.request(stdin=True)])
    shim = await shims.start(request)
    await stream.send(b"a\x10\x11b")
    stream.end_input()
    assert (await stream.frames())[1] == b"a\x10\x11b"
    await end(shims, shim)
    stream.close()


@engine
async def test_the_last_words_of_a_terminal_arrive(world, shims):
    for _ in range(10):
        bundle, stream = world.bundle(), Stream()
        spec = bundle.spec("sh", "-c", "seq 1 3000", terminal=True)
        shim = await shims.start(bundle.start(spec, attach=[stream.request()]))
        assert (await stream.all()).endswith(b"\r\n3000\r\n")
        await end(shims, shim)
        stream.close()


# -- exec -------------------------------------------------------------------------------------------------------------


async def run_exec(shim, *command, stdin=b"", terminal=False, attach=True, **more):
    with contextlib.closing(Stream()) as stream:
        entry = await shim.exec(
            os.urandom(4).hex(),
            process(*command, terminal=terminal, **more),
            attach_stdin=bool(stdin),
            attach_stdout=True,
            attach_stderr=True,
            detach_keys=b"\x10\x11",
            stream=stream.theirs if attach else None,
        )
        stream.theirs.close()
        if stdin:
            await stream.send(stdin)
            stream.end_input()
        output = await stream.all() if terminal or not attach else await stream.frames()
        return await entry.exited, output


@pytest.mark.parametrize(
    "namespaces", [NAMESPACES, tuple(set(NAMESPACES) - {"pid"})], ids=["born inside", "cloned by a helper"]
)
@engine
async def test_exec(world, shims, namespaces):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100", namespaces=namespaces)))
    assert await run_exec(shim, "sh", "-c", "echo out; echo err >&2; exit 5") == (5, {1: b"out\n", 2: b"err\n"})
    assert await run_exec(shim, "cat", stdin=b"some input") == (0, {1: b"some input"})
    code, output = await run_exec(shim, "ps")
    assert b"sleep 100" in output[1]
    code, output = await run_exec(shim, "sh", "-c", "tty; exit 2", terminal=True)
    assert (code, output) == (2, b"/dev/pts/0\r\n")
    assert await run_exec(shim, "sh", "-c", "exit 9", attach=False) == (9, b"")
    # what an exec writes belongs to its client, not to the container's log
    assert logged(bundle) == b""
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_exec_errors_are_typed_and_harmless(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    with pytest.raises(CommandNotFound, match='exec: "nosuch": executable file not found'):
        await run_exec(shim, "nosuch")
    with pytest.raises(CommandNotExecutable):
        await run_exec(shim, "/etc/passwd")
    with pytest.raises(NotFound, match="No such exec instance"):
        await shim.resize(1, 1, "nosuch")
    assert await run_exec(shim, "true") == (0, {})
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_exec_with_a_huge_environment(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    environment = ["PATH=/bin"] + [f"V{number}={'x' * 1000}" for number in range(200)]
    code, output = await run_exec(shim, "sh", "-c", "echo ${#V199}", env=environment)
    assert (code, output) == (0, {1: b"1000\n"})
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_an_exec_is_the_shims_own_child_without_its_rights_or_files(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    with contextlib.closing(Stream()) as stream:
        entry = await shim.exec(
            "1", process("sleep", "60"), attach_stdin=False, attach_stdout=True, attach_stderr=True,
            detach_keys=b"", stream=stream.theirs,
        )  # fmt: skip
        status = Path(f"/proc/{entry.pid}/status").read_text()
        assert int(re.search(r"PPid:\t(\d+)", status)[1]) == shim_pid(world, bundle)
        assert len(re.search(r"NSpid:(.*)", status)[1].split()) == 2
        assert int(re.search(r"CapEff:\t(\w+)", status)[1], 16) != int(
            re.search(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())[1], 16
        )
        assert sorted(os.listdir(f"/proc/{entry.pid}/fd"), key=int) == ["0", "1", "2"]
        assert Path(f"/proc/{entry.pid}/oom_score_adj").read_text() == "0\n"
        for kind in ("mnt", "pid", "net", "uts", "ipc"):
            assert os.readlink(f"/proc/{entry.pid}/ns/{kind}") == os.readlink(f"/proc/{shim.pid}/ns/{kind}")
        assert bundle.cgroup in Path(f"/proc/{entry.pid}/cgroup").read_text()
        await entry.kill(9)
        assert await entry.exited == 137
    # the shim itself stays where it was, and so do its later helpers
    await shim.pause()
    await shim.resume()
    assert os.readlink(f"/proc/{shim_pid(world, bundle)}/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_execs_end_with_the_container(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    running = asyncio.ensure_future(run_exec(shim, "sh", "-c", "echo up; sleep 100"))
    await wait_for(lambda: b"sleep" in Path(f"/proc/{shim.pid}/cmdline").read_bytes())
    await asyncio.sleep(0.1)
    await shim.kill(9)
    assert (await shim.exited).code == 137
    assert await running == (137, {1: b"up\n"})
    with pytest.raises(Exception, match=r"ended|not running"):
        await run_exec(shim, "true")
    await end(shims, shim)


@engine
async def test_exec_kill_and_resize(world, shims):
    bundle, stream = world.bundle(), Stream()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    entry = await shim.exec(
        "e1",
        process("sh", "-c", "echo ready; read x; stty size; sleep 100", terminal=True),
        attach_stdin=True,
        attach_stdout=True,
        attach_stderr=True,
        detach_keys=b"",
        stream=stream.theirs,
    )
    stream.theirs.close()
    await stream.until(b"ready\r\n")
    await shim.resize(12, 34, "e1")
    await stream.send(b"\n")
    await stream.until(b"12 34\r\n")
    await entry.kill(signal.SIGKILL)
    assert await entry.exited == 137
    await entry.kill(signal.SIGKILL)
    assert is_alive(shim.pid)
    await shim.kill(9)
    await end(shims, shim)
    stream.close()


@engine
async def test_an_exec_that_leaves_something_running_ends(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    began = time.monotonic()
    assert await run_exec(shim, "sh", "-c", "sleep 50 & echo over") == (0, {1: b"over\n"})
    assert 1.5 < time.monotonic() - began < 4, "the pipe is held by the sleep: two seconds, as with dockerd"
    await shim.kill(9)
    await end(shims, shim)


# -- cgroup -----------------------------------------------------------------------------------------------------------


@engine
async def test_pause_and_resume(world, shims):
    bundle, stream = world.bundle(), Stream()
    spec = bundle.spec("sh", "-c", "while :; do echo tick; sleep 0.02; done")
    shim = await shims.start(bundle.start(spec, attach=[stream.request()]))
    await stream.until(b"tick\n")
    await shim.pause()
    await shim.log_flush()
    size = os.path.getsize(bundle.log_path)
    await asyncio.sleep(0.2)
    assert os.path.getsize(bundle.log_path) == size
    await shim.resume()
    await wait_for(lambda: os.path.getsize(bundle.log_path) > size)
    await shim.pause()
    await shim.kill(9)
    await shim.resume()
    assert (await end(shims, shim)).code == 137
    stream.close()


@engine
async def test_update_changes_limits(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    await shim.update({"pids": {"limit": 17}})
    limits = [path / "pids.max" for path in bundle.cgroups() if (path / "pids.max").exists()]
    assert [path.read_text().strip() for path in limits] == ["17"]
    with pytest.raises(SystemFailure, match="cannot update cgroup"):
        await shim.update({"cpu": {"cpus": "4000"}})
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_out_of_memory_is_told(world, shims):
    bundle = world.bundle()
    spec = bundle.spec("tail", "/dev/zero")
    spec["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    shim = await shims.start(bundle.start(spec))
    status = await end(shims, shim)
    assert (status.code, status.oom_killed) == (137, True)


@engine
async def test_stragglers_die_with_the_program_in_a_shared_pid_namespace(world, shims):
    bundle = world.bundle()
    spec = bundle.spec(
        "sh", "-c", "sleep 100 & echo $!; exit 0", namespaces=("mount", "uts", "ipc", "network", "cgroup")
    )
    shim = await shims.start(bundle.start(spec))
    assert (await end(shims, shim)).code == 0
    straggler = int(logged(bundle).split()[0])
    assert not is_alive(straggler)
    assert world.is_clean(bundle)


@engine
async def test_orphans_are_reaped(world, shims):
    bundle = world.bundle()
    spec = bundle.spec(
        "sh", "-c", "(sleep 0.05 & echo $!); sleep 100", namespaces=("mount", "uts", "ipc", "network", "cgroup")
    )
    shim = await shims.start(bundle.start(spec))
    await wait_for(lambda: logged(bundle).split())
    orphan = int(logged(bundle).split()[0])
    await wait_for(lambda: not Path(f"/proc/{orphan}").exists())
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_a_joined_namespace(world, shims):
    first, second = world.bundle(), world.bundle()
    one = await shims.start(first.start(first.spec("sleep", "100")))
    spec = second.spec("sh", "-c", "ps; hostname")
    spec["hostname"] = ""
    spec["linux"]["namespaces"] = [
        {"type": "mount"},
        {"type": "pid", "path": f"/proc/{one.pid}/ns/pid"},
        {"type": "uts", "path": f"/proc/{one.pid}/ns/uts"},
        {"type": "ipc"},
        {"type": "network", "path": f"/proc/{one.pid}/ns/net"},
    ]
    stream = Stream()
    two = await shims.start(second.start(spec, attach=[stream.request()]))
    output = (await stream.frames())[1]
    assert b"sleep 100" in output
    assert output.endswith(b"inside\n")
    assert (await end(shims, two)).code == 0
    await one.kill(9)
    await end(shims, one)
    stream.close()


# -- without the daemon -----------------------------------------------------------------------------------------------


@engine
async def test_a_running_container_is_found_again(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "read x; exit 3"), stdin=True))
    await shim.close()
    found = await shims.reconnect(bundle.id)
    assert isinstance(found, Shim)
    assert (found.pid, found.started_ns) == (shim.pid, shim.started_ns)
    stream = await Stream().attach(found, stdin=True)
    await stream.send(b"go\n")
    assert (await end(shims, found)).code == 3
    assert world.is_clean(bundle)
    stream.close()


@engine
async def test_two_daemons_may_listen(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    other = await shims.reconnect(bundle.id)
    assert isinstance(other, Shim)
    await other.kill(9)
    assert (await shim.exited) == (await other.exited)
    await other.close()
    await end(shims, shim)


@engine
async def test_an_exit_meanwhile_is_known_until_it_is_recorded(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "sleep 0.1; exit 42")))
    await shim.close()
    pid = shim_pid(world, bundle)
    await wait_for(lambda: not is_alive(pid))
    for _ in range(2):
        found = await shims.reconnect(bundle.id)
        assert isinstance(found, ExitStatus)
        assert found.code == 42
        assert abs(found.at_ns - time.time_ns()) < 10 * 10**9
    await shims.forget(bundle.id)
    assert await shims.reconnect(bundle.id) is None
    assert world.is_clean(bundle)


@engine
async def test_forget_leaves_a_running_container_alone(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    await shims.forget(bundle.id)
    found = await shims.reconnect(bundle.id)
    assert isinstance(found, Shim)
    await found.close()
    with pytest.raises(Conflict, match="is running already"):
        await shims.start(bundle.start(bundle.spec("true")))
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_a_killed_shim_takes_its_program_with_it(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "trap '' TERM; while :; do sleep 1; done")))
    os.kill(shim_pid(world, bundle), signal.SIGKILL)
    status = await shim.exited
    assert status.code == 137
    assert not is_alive(shim.pid)
    assert world.is_clean(bundle)
    await end(shims, shim)


@engine
async def test_a_shim_that_was_killed_meanwhile_is_cleaned_up(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    await shim.close()
    os.kill(shim_pid(world, bundle), signal.SIGKILL)
    found = await shims.reconnect(bundle.id)
    assert isinstance(found, ExitStatus)
    assert found.code == 137
    assert not is_alive(shim.pid)
    assert world.is_clean(bundle)


@engine
async def test_a_frozen_container_of_a_killed_shim_is_cleaned_up(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    await shim.pause()
    os.kill(shim_pid(world, bundle), signal.SIGKILL)
    assert (await shim.exited).code == 137
    assert world.is_clean(bundle)
    await end(shims, shim)


@engine
async def test_a_killed_spawner_is_replaced(world, shims):
    first = world.bundle()
    shim = await shims.start(first.start(first.spec("sleep", "100")))
    old = shims.spawner_pid
    os.kill(old, signal.SIGKILL)
    await wait_for(lambda: not is_alive(old))
    for code in (6, 7):  # the first may have found a shim that was in reserve
        bundle = world.bundle()
        other = await shims.start(bundle.start(bundle.spec("sh", "-c", f"exit {code}")))
        assert (await end(shims, other)).code == code
    assert shims.spawner_pid != old
    assert is_alive(shim.pid)
    await shim.kill(9)
    assert (await end(shims, shim)).code == 137


@engine
async def test_signals_to_the_shim_are_ignored(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1):
        os.kill(shim_pid(world, bundle), number)
    assert await run_exec(shim, "echo", "alive") == (0, {1: b"alive\n"})
    await shim.kill(9)
    await end(shims, shim)


def children(pid):
    """Of a process that may end meanwhile: an init that does not suit is sent away."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def sleeping_hook(name, seconds="30"):
    return {name: [{"path": "/bin/sleep", "args": ["sleep", seconds]}]}


@pytest.mark.parametrize("hook", ["createRuntime", "poststart"])
@pytest.mark.parametrize("victim", ["maker", "shim"])
@engine
async def test_killed_in_the_midst_of_a_start(world, shims, victim, hook):
    bundle = world.bundle()
    spec = bundle.spec("sh", "-c", "echo started; sleep 100", hooks=sleeping_hook(hook))
    starting = asyncio.ensure_future(shims.start(bundle.start(spec)))
    found = world.runtime_directory(bundle) / "shim.pid"
    await wait_for(lambda: found.exists() and found.read_text())
    shim = int(found.read_text())

    def hook_of():
        return [(pid, children(pid)) for pid in children(shim) if children(pid)]

    maker, (sleeper,) = (await wait_for(hook_of))[0]
    os.kill(maker if victim == "maker" else shim, signal.SIGKILL)
    with pytest.raises(SystemFailure, match="shim has been killed"):
        await starting
    await wait_for(lambda: world.is_clean(bundle))
    await wait_for(lambda: not is_alive(shim))
    os.kill(sleeper, signal.SIGKILL)


@engine
async def test_a_daemon_that_dies_during_a_start_finds_it_done(world, shims):
    bundle = world.bundle()
    spec = bundle.spec("sleep", "100", hooks=sleeping_hook("createRuntime", "0.5"))
    request = bundle.start(spec)
    starting = asyncio.ensure_future(shims._start(request, world.runtime_directory(bundle)))
    await wait_for(lambda: (world.runtime_directory(bundle) / "shim.sock").exists())
    starting.cancel()  # without the clean-up that an orderly cancellation brings
    found = await shims.reconnect(bundle.id)
    assert isinstance(found, Shim)
    assert is_alive(found.pid)
    await found.kill(9)
    await end(shims, found)


DAEMON = """
import asyncio, json, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import shim_support
from shim_support import World
from corten.engine.shims import Shims

shim_support.PARENT = {parent!r}

async def main():
    world = World.__new__(World)
    world.bundles = []
    world.directory, world.lower, world.exec_root = (Path(part) for part in {places!r})
    bundle = world.bundle()
    shims = await Shims.open(world.exec_root)
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "while :; do echo tick; sleep 0.01; done")))
    print(json.dumps([bundle.id, bundle.log_path, bundle.target, shim.pid, shims.spawner_pid]), flush=True)
    await asyncio.sleep(100)

asyncio.run(main())
"""


@engine
async def test_sigkill_of_the_daemon(world, shims):
    """What runs goes on, its log is whole, the spawner leaves, and the next daemon finds everything."""
    places = [str(world.directory), str(world.lower), str(world.exec_root)]
    code = DAEMON.format(paths=[str(Path(__file__).parent)], places=places, parent=PARENT)
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    line = await asyncio.to_thread(daemon.stdout.readline)
    container_id, log_path, target, pid, spawner = json.loads(line)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    await wait_for(lambda: not is_alive(spawner))
    size = os.path.getsize(log_path)
    await wait_for(lambda: os.path.getsize(log_path) > size + 1000)
    found = await shims.reconnect(container_id)
    assert isinstance(found, Shim)
    assert found.pid == pid
    await found.kill(9)
    assert (await end(shims, found)).code == 137
    assert all(json.loads(entry)["log"] == "tick\n" for entry in Path(log_path).read_text().splitlines())
    assert target not in Path("/proc/self/mountinfo").read_text()


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["json-file", "local"])
@engine
async def test_logs_of_a_fast_program_are_whole_across_rotations(world, shims, driver):
    bundle = world.bundle()
    options = {"max-size": "200k", "max-file": "100", "compress": "true"}
    shim = await shims.start(bundle.start(bundle.spec("seq", "1", "50000"), driver=driver, options=options))
    assert (await end(shims, shim)).code == 0
    assert logged(bundle, driver) == b"".join(b"%d\n" % number for number in range(1, 50001))
    assert len(list(bundle.directory.glob("log.*"))) > 3
    assert not list(bundle.directory.glob("*.tmp"))


@engine
async def test_log_flush_and_rotate(world, shims):
    bundle = world.bundle()
    spec = bundle.spec("sh", "-c", "echo one; read x; echo two; read x")
    shim = await shims.start(bundle.start(spec, stdin=True, options={"max-size": "1m", "max-file": "2"}))
    await wait_for(lambda: logged(bundle) == b"one\n")
    await shim.log_rotate()
    stream = await Stream().attach(shim, stdin=True)
    await stream.send(b"\n")
    await stream.until(b"two\n")
    await shim.log_flush()
    assert logged(bundle) == b"one\ntwo\n"
    assert Path(f"{bundle.log_path}.1").read_text().startswith('{"log":"one')
    await shim.kill(9)
    await end(shims, shim)
    stream.close()


@engine
async def test_hooks_run_in_their_order(world, shims):
    bundle = world.bundle()
    record = world.directory / "hooks"

    def hook(name):
        script = f'read -r state; echo "{name} $state" >> {record}'
        return [{"path": "/bin/sh", "args": ["sh", "-c", script]}]

    names = ("createRuntime", "poststart", "poststop")
    spec = bundle.spec("true", hooks={name: hook(name) for name in names})
    shim = await shims.start(bundle.start(spec))
    await end(shims, shim)
    found = [line.split(" ", 1) for line in record.read_text().splitlines()]
    assert [name for name, _ in found] == list(names)
    states = [json.loads(state) for _, state in found]
    assert [state["status"] for state in states] == ["creating", "running", "stopped"]
    assert {state["id"] for state in states} == {bundle.id}


# -- what a shim costs ------------------------------------------------------------------------------------------------


@engine
async def test_memory_of_an_idle_shim(world, shims, capsys):
    first, second = world.bundle(), world.bundle()
    quiet = await shims.start(first.start(first.spec("sleep", "100")))
    talker = await shims.start(second.start(second.spec("sh", "-c", "echo hello; sleep 100")))
    await asyncio.sleep(1.6)  # a shim gives memory back a second after its last work
    found = {
        name: private_kib(shim_pid(world, bundle)) for name, bundle in (("silent", first), ("with output", second))
    }
    assert await run_exec(quiet, "true") == (0, {})
    await asyncio.sleep(1.6)
    found["after an exec"] = private_kib(shim_pid(world, first))
    with capsys.disabled():
        print(f"\nprivate memory of an idle shim in KiB: {found}")
    assert found["silent"] <= 1536
    assert max(found.values()) <= 2304
    for shim in (quiet, talker):
        await shim.kill(9)
        await end(shims, shim)


@engine
async def test_an_idle_shim_sleeps(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sh", "-c", "echo hello; sleep 100")))
    pid = shim_pid(world, bundle)
    await asyncio.sleep(1.6)

    def switches():
        text = Path(f"/proc/{pid}/status").read_text()
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))

    before = switches()
    await asyncio.sleep(1.5)
    assert switches() == before
    await shim.kill(9)
    await end(shims, shim)


def descriptors(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


@engine
async def test_nothing_piles_up(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("cat"), stdin=True))
    pid = shim_pid(world, bundle)

    async def turn():
        for _ in range(5):
            await run_exec(shim, "echo", "x")
            with pytest.raises(CommandNotFound):
                await run_exec(shim, "nosuch")
            stream = await Stream().attach(shim, stdin=True)
            stream.close()
        other = await shims.reconnect(bundle.id)
        await other.close()

    await turn()
    await asyncio.sleep(1.3)
    before = descriptors(), descriptors(pid), private_kib(pid)
    for _ in range(4):
        await turn()
    await asyncio.sleep(1.3)
    assert (descriptors(), descriptors(pid)) == before[:2]
    assert private_kib(pid) < before[2] + 200
    spawner = descriptors(shims.spawner_pid)
    for _ in range(5):
        some = world.bundle()
        await end(shims, await shims.start(some.start(some.spec("true"))))
    assert descriptors(shims.spawner_pid) == spawner
    assert descriptors() == before[0]
    # ended shims are reaped; one waits for the next start
    await wait_for(lambda: len(children(shims.spawner_pid)) == 2)
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_the_interpreter_cannot_be_written_through_proc(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    for pid in (shims.spawner_pid, shim_pid(world, bundle)):
        # opening it for writing would fail anyway while somebody executes it: what counts is the mount it is seen
        # through
        descriptor = os.open(f"/proc/{pid}/exe", os.O_PATH)
        assert os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        assert os.path.samestat(os.fstat(descriptor), os.stat(interpreter()))
        os.close(descriptor)
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_a_kernel_that_refuses_the_shield(world, shims, monkeypatch, caplog):
    def refuse(path, **options):
        raise OSError(errno.EPERM, "open_tree: operation not permitted")

    monkeypatch.setattr("corten.linux.mount.clone_tree", refuse)
    others = await Shims.open(world.exec_root)
    assert "cannot be shielded" in caplog.text
    bundle = world.bundle()
    shim = await others.start(bundle.start(bundle.spec("true")))
    assert (await end(others, shim)).code == 0
    await others.close()


@engine
async def test_a_spawner_that_does_not_come_up_says_why(world, shims, monkeypatch):
    monkeypatch.setattr("corten.engine.spawner.interpreter", lambda: "/bin/false")
    with pytest.raises(SystemFailure, match="the spawner does not come up"):
        await Shims.open(world.exec_root)
    monkeypatch.setattr("corten.engine.spawner.interpreter", lambda: "/nonexistent/python")
    with pytest.raises(SystemFailure, match="cannot execute the spawner"):
        await Shims.open(world.exec_root)


@engine
async def test_a_slow_machine_is_no_reason_to_do_without_the_shield(world, shims, monkeypatch, caplog):
    monkeypatch.setattr("corten.engine.spawner._READY_S", 0.001)
    with pytest.raises(SystemFailure, match=r"the spawner does not come up: it is not ready after 0\.001 s"):
        await Shims.open(world.exec_root)
    assert "unprotected" not in caplog.text


@engine
async def test_strangers_are_not_listened_to(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    path = world.runtime_directory(bundle) / "shim.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o710
    # even for one who has got past the modes
    path.chmod(0o666)
    path.parent.chmod(0o711)
    code = (
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('shim.sock')\n"
        's.send(b\'{"op":"kill","signal":9}\\n\')\n'
        "sys.exit(0 if s.recv(100) == b'' else 1)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path.parent)], capture_output=True, check=False
    )
    assert done.returncode == 0 or b"ConnectionReset" in done.stderr or b"Broken pipe" in done.stderr
    assert is_alive(shim.pid)
    await shim.kill(9)
    await end(shims, shim)


@engine
async def test_rubbish_on_a_control_connection_harms_nobody(world, shims):
    bundle = world.bundle()
    shim = await shims.start(bundle.start(bundle.spec("sleep", "100")))
    for rubbish in (
        b"x",
        b"{}",
        b'{"op":"nosuch"}\n',
        b'{"op":"exec"}\n',
        b"\xff" * 60_000,
        b'{"op":"attach","large":true}\n',
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            descriptor = os.open(world.runtime_directory(bundle), os.O_PATH)
            sock.connect(f"/proc/self/fd/{descriptor}/shim.sock")
            os.close(descriptor)
            sock.send(rubbish)
            sock.settimeout(2)
            sock.recv(4096)
    assert await run_exec(shim, "echo", "alive") == (0, {1: b"alive\n"})
    await shim.kill(9)
    await end(shims, shim)
    with pytest.raises(NotModified, match="is not running"):
        await shim.kill(9)


@engine
async def test_a_deep_exec_root(world, shims, tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    bundle = world.bundle()
    others = await Shims.open(deep)
    shim = await others.start(bundle.start(bundle.spec("sleep", "100")))
    await shim.close()
    found = await others.reconnect(bundle.id)
    assert isinstance(found, Shim)
    await found.kill(9)
    await end(others, found)
    await others.close()
