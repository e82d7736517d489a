"""Statistics: the document, and one sampler for all readers."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest

from corten.engine import stats as room
from corten.engine.container import State, Status
from corten.engine.stats import Sample, Statistics, document
from corten.engine.tasks import Tasks
from records import record

SECOND = 10**9


def numbers(cpu_ns=0):
    return {
        "memory": {"usage": 100, "max_usage": 0, "limit": 1 << 62, "failcnt": 2, "stats": {"cache": 5}},
        "cpu": {
            "total": cpu_ns, "percpu": [cpu_ns], "user": 1, "kernel": 2,
            "periods": 3, "throttled_periods": 4, "throttled_time": 5,
        },
        "pids": {"current": 7, "limit": 0},
        "blkio": {"bytes": [{"major": 8, "minor": 0, "op": "read", "value": 9}], "operations": []},
    }  # fmt: skip


def container(status=Status.RUNNING):
    return record(name="web", state=State(status=status, started_ns=1))


def test_the_document():
    sample = Sample(2 * SECOND, numbers(50), 1000)
    before = Sample(SECOND, numbers(20), 900)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    throttling = {"periods": 3, "throttled_periods": 4, "throttled_time": 5}
    assert document(container(), sample, before) == {
        "name": "/web",
        "id": "a" * 64,
        "os_type": "linux",
        "read": "1970-01-01T00:00:02Z",
        "preread": "1970-01-01T00:00:01Z",
        "pids_stats": {"current": 7},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"major": 8, "minor": 0, "op": "read", "value": 9}],
            "io_serviced_recursive": [],
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": {
            "cpu_usage": {"total_usage": 50, "percpu_usage": [50], "usage_in_kernelmode": 2, "usage_in_usermode": 1},
            "system_cpu_usage": 1000,
            "online_cpus": os.cpu_count(),
            "throttling_data": throttling,
        },
        "precpu_stats": {
            "cpu_usage": {"total_usage": 20, "percpu_usage": [20], "usage_in_kernelmode": 2, "usage_in_usermode": 1},
            "system_cpu_usage": 900,
            "online_cpus": os.cpu_count(),
            "throttling_data": throttling,
        },
        "memory_stats": {"usage": 100, "stats": {"cache": 5}, "limit": total, "failcnt": 2},
        "networks": {},
    }


def test_the_document_of_what_does_not_run():
    found = document(container(), None, None)
    assert found["read"] == found["preread"] == "0001-01-01T00:00:00Z"
    assert found["memory_stats"] == found["pids_stats"] == {}
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert "networks" not in found


class Source:
    """Samples that count up; times are now, so that they are fresh."""

    def __init__(self):
        self.taken = 0
        self.gone = False
        self.broken = False

    def __call__(self, path):
        assert path == "/corten/x"
        if self.broken:
            raise OSError("no such device")
        if self.gone:
            return None
        self.taken += 1
        return Sample(room.time.time_ns(), numbers(self.taken), self.taken * 100)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(room, "INTERVAL_S", 0.01)
    monkeypatch.setattr(room, "_FIRST_PAIR_S", 0.001)


def statistics(source, tasks):
    return Statistics(lambda container: "/corten/x", tasks, source)


def live_of(subject):
    return SimpleNamespace(container=subject)


def cpu(found):
    return found["precpu_stats"]["cpu_usage"]["total_usage"], found["cpu_stats"]["cpu_usage"]["total_usage"]


def test_a_single_answer_carries_the_sample_before_it(quick):
    async def scenario():
        source, subject = Source(), container()
        made = statistics(source, Tasks())

        async def single(one_shot=False):
            return await anext(made.samples(live_of(subject), stream=False, one_shot=one_shot))

        assert cpu(await single()) == (1, 2)
        assert cpu(await single()) == (2, 3)  # no second sample: the last one was kept
        assert cpu(await single(one_shot=True)) == (0, 4)
        # another run of the container starts from nothing
        subject.state.started_ns = 2
        assert cpu(await single()) == (5, 6)

    asyncio.run(scenario())


def test_what_does_not_run_is_answered_at_once(quick):
    async def scenario():
        source = Source()
        made = statistics(source, Tasks())
        found = await anext(made.samples(live_of(container(Status.EXITED)), stream=False, one_shot=False))
        assert found["read"] == "0001-01-01T00:00:00Z"
        source.gone = True
        found = await anext(made.samples(live_of(container()), stream=False, one_shot=False))
        assert found["read"] == "0001-01-01T00:00:00Z"
        assert source.taken == 0

    asyncio.run(scenario())


def test_readers_share_one_sampler(quick):
    async def scenario():
        source, subject, tasks = Source(), container(), Tasks()
        made = statistics(source, tasks)
        live = live_of(subject)
        streams = [made.samples(live, stream=True, one_shot=False) for _ in range(20)]
        for _ in range(3):
            found = await asyncio.gather(*(anext(stream) for stream in streams))
            assert len({item["read"] for item in found}) == 1
        assert source.taken <= 4
        assert len(tasks._tasks) == 1
        for stream in streams:
            await stream.aclose()
        # nobody listens: the sampler ends by itself
        await asyncio.wait_for(asyncio.gather(*tasks._tasks), 5)

    asyncio.run(scenario())


def test_a_stream_goes_on_over_a_stop_and_a_failure(quick, caplog):
    async def scenario():
        source, subject, tasks = Source(), container(), Tasks()
        stream = statistics(source, tasks).samples(live_of(subject), stream=True, one_shot=False)
        assert (await anext(stream))["read"] != "0001-01-01T00:00:00Z"
        subject.state.status = Status.EXITED
        while (await anext(stream))["read"] != "0001-01-01T00:00:00Z":
            pass
        subject.state.status = Status.RUNNING
        while (await anext(stream))["read"] == "0001-01-01T00:00:00Z":
            pass
        source.broken = True
        while (await anext(stream))["read"] != "0001-01-01T00:00:00Z":
            pass
        source.broken = False
        while (await anext(stream))["read"] == "0001-01-01T00:00:00Z":
            pass
        await stream.aclose()
        await tasks.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert "no such device" in caplog.text


def test_a_stream_ends_with_its_container(quick):
    async def scenario():
        subject, tasks = container(), Tasks()
        made = statistics(Source(), tasks)
        stream = made.samples(live_of(subject), stream=True, one_shot=False)
        await anext(stream)
        made.forget(subject.id)
        assert [item async for item in stream] == []
        await tasks.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))
