"""Statistics and processes of a real cgroup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from types import SimpleNamespace

import pytest

from corten.cgroup.manager import Cgroup
from corten.engine import stats, top
from corten.engine.container import State, Status
from corten.engine.tasks import Tasks
from records import record

PATH = f"/corten-test-stats/{os.getpid()}"
LIMIT = 64 << 20
# memory is charged to the group that a program is in when it touches it
PROGRAM = "read go; x=$(head -c 3000000 /dev/zero | tr '\\0' x); echo ready; while :; do :; done"


@pytest.fixture
def busy():
    """A cgroup with limits, in which a program keeps one processor busy."""
    cgroup = Cgroup.create(PATH, {"memory": {"limit": LIMIT}, "pids": {"limit": 20}})
    child = subprocess.Popen(
        ["/bin/sh", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    cgroup.apply(child.pid)
    child.stdin.write(b"go\n")
    child.stdin.close()
    assert child.stdout.readline() == b"ready\n"
    yield SimpleNamespace(cgroup=cgroup, pid=child.pid, child=child)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    child.wait()
    child.stdout.close()
    cgroup.delete()
    for directory in cgroup.hierarchies.directories("/corten-test-stats"):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def test_a_group_goes_with_those_below_it():
    """What a container has made in its own group stays when its program ends."""
    cgroup = Cgroup.create(PATH, {})
    places = cgroup.hierarchies.directories(PATH)
    for place in places:
        os.makedirs(f"{place}/inner/most")
    cgroup.delete()
    assert not any(map(os.path.exists, places))
    cgroup.delete()  # nothing there is no error
    for directory in cgroup.hierarchies.directories("/corten-test-stats"):
        os.rmdir(directory)


def live(status=Status.RUNNING):
    return SimpleNamespace(container=record(name="busy", state=State(status=status, started_ns=1)))


def statistics(tasks):
    return stats.Statistics(lambda container: PATH, tasks)


def load(document) -> float:
    """The share of one processor, as ``docker stats`` works it out."""
    now, before = document["cpu_stats"], document["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now["system_cpu_usage"] - before["system_cpu_usage"]
    return used / passed * now["online_cpus"] if passed else 0.0


def test_a_single_answer_has_meaning_at_once(busy):
    async def scenario():
        made = statistics(Tasks())
        start = time.monotonic()
        found = await anext(made.samples(live(), stream=False, one_shot=False))
        return found, time.monotonic() - start

    found, took_s = asyncio.run(scenario())
    assert took_s < 0.7
    assert load(found) > 0.2
    assert found["memory_stats"]["limit"] == LIMIT
    assert 0 < found["memory_stats"]["usage"] < LIMIT
    assert found["pids_stats"] == {"current": 1, "limit": 20}
    assert found["preread"] < found["read"]


def test_a_stream_tells_every_second(busy):
    async def scenario():
        tasks = Tasks()
        async with contextlib.aclosing(statistics(tasks).samples(live(), stream=True, one_shot=False)) as samples:
            found = [await anext(samples) for _ in range(3)]
        await tasks.close()
        return found

    start = time.monotonic()
    found = asyncio.run(scenario())
    assert 1.8 < time.monotonic() - start < 4
    totals = [document["cpu_stats"]["cpu_usage"]["total_usage"] for document in found]
    assert totals == sorted(totals)
    assert totals[0] < totals[2]
    assert all(load(document) > 0.2 for document in found[1:])
    assert found[1]["precpu_stats"] == found[0]["cpu_stats"]


def test_a_cgroup_that_is_gone_is_an_empty_answer():
    async def scenario():
        return await anext(statistics(Tasks()).samples(live(), stream=False, one_shot=False))

    found = asyncio.run(scenario())
    assert found["read"] == "0001-01-01T00:00:00Z"
    assert found["memory_stats"] == {}


def test_the_processes_of_a_cgroup(busy):
    document = top.processes(stats.cgroup_of(PATH).pids(), "-o pid,args")
    assert document == {"Titles": ["PID", "COMMAND"], "Processes": [[str(busy.pid), f"/bin/sh -c {PROGRAM}"]]}
