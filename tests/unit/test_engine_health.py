"""Health checks: the policy by its results, and the runner with a probe of our own."""

from __future__ import annotations

import asyncio

import pytest

from corten.dockerapi.container import ContainerConfig, HealthConfig
from corten.engine.container import HealthLogEntry, State, Status
from corten.engine.health import Health, HealthMonitor, Policy, shown_output
from corten.engine.tasks import Tasks
from corten.errors import Conflict
from records import record

SECOND = 10**9


def test_without_a_check():
    assert Policy.of(None, None) is None
    assert Policy.of(HealthConfig(), None) is None
    assert Policy.of(HealthConfig(test=["NONE"]), None) is None
    assert Policy.of(HealthConfig(test=["CMD"]), None) is None


def test_defaults_are_docker_s():
    policy = Policy.of(HealthConfig(test=["CMD", "true", "-x"]), ["/bin/bash", "-c"])
    assert policy == Policy(("true", "-x"))
    assert (policy.interval_ns, policy.timeout_ns) == (30 * SECOND, 30 * SECOND)
    assert (policy.start_period_ns, policy.start_interval_ns, policy.retries) == (0, 5 * SECOND, 3)


def test_a_string_is_run_by_the_containers_shell():
    config = HealthConfig(
        test=["CMD-SHELL", "exit 1"], interval=7, timeout=8, start_period=9, start_interval=10, retries=2
    )
    assert Policy.of(config, None) == Policy(("/bin/sh", "-c", "exit 1"), 7, 8, 9, 10, 2)
    assert Policy.of(config, ["/bin/bash", "-ec"]).command == ("/bin/bash", "-ec", "exit 1")


def entry(code, at_s=0.0, output=""):
    start = int(at_s * SECOND)
    return HealthLogEntry(start, start + 1, code, output)


def test_the_first_success_makes_it_healthy():
    health = Health(Policy(("x",)), 0)
    assert health.status == "starting"
    assert health.record(entry(0))
    assert health.status == "healthy"
    assert not health.record(entry(0))


def test_failures_in_a_row_make_it_unhealthy():
    health = Health(Policy(("x",), retries=2), 0)
    assert not health.record(entry(1))
    assert (health.status, health.failing_streak) == ("starting", 1)
    assert health.record(entry(-1))
    assert (health.status, health.failing_streak) == ("unhealthy", 2)
    assert not health.record(entry(1))
    assert health.failing_streak == 3
    assert health.record(entry(0))
    assert (health.status, health.failing_streak) == ("healthy", 0)
    # a success between failures starts the count again
    health.record(entry(1))
    health.record(entry(0))
    assert not health.record(entry(1))
    assert health.status == "healthy"


def test_failures_while_it_starts_do_not_count():
    health = Health(Policy(("x",), start_period_ns=10 * SECOND, start_interval_ns=SECOND, interval_ns=60 * SECOND), 0)
    assert health.pause_ns(9 * SECOND) == SECOND
    for second in (1, 5, 9.9):
        assert not health.record(entry(1, second))
    assert (health.status, health.failing_streak) == ("starting", 0)
    assert health.pause_ns(10 * SECOND) == 60 * SECOND
    health.record(entry(1, 10))
    assert health.failing_streak == 1


def test_the_first_success_ends_the_start_period():
    health = Health(Policy(("x",), start_period_ns=100 * SECOND, retries=1), 0)
    health.record(entry(0, 1))
    assert health.pause_ns(2 * SECOND) == 30 * SECOND
    assert health.record(entry(1, 2))
    assert health.status == "unhealthy"


def test_the_log_keeps_five():
    health = Health(Policy(("x",)), 0)
    assert health.document() == {"Status": "starting", "FailingStreak": 0, "Log": []}
    for number in range(7):
        health.record(entry(number % 2, number, str(number)))
    log = health.document()["Log"]
    assert [item["Output"] for item in log] == ["2", "3", "4", "5", "6"]
    assert log[0] == {
        "Start": "1970-01-01T00:00:02Z",
        "End": "1970-01-01T00:00:02.000000001Z",
        "ExitCode": 0,
        "Output": "2",
    }


def test_output_is_cut_at_4096_bytes():
    assert shown_output(b"x" * 4096) == "x" * 4096
    assert shown_output(b"x" * 4097) == "x" * 4096 + "..."
    assert shown_output(b"\xff") == "\ufffd"


# -- the runner -------------------------------------------------------------------------------------------------------

MILLISECOND = SECOND // 1000


def container(**config):
    check = {"test": ["CMD", "probe"], "interval": MILLISECOND, "timeout": 5 * MILLISECOND, "retries": 2, **config}
    return record(
        name="web",
        config=ContainerConfig(healthcheck=HealthConfig(**check)),
        state=State(status=Status.RUNNING, started_ns=0),
    )


class Script:
    """A probe that answers with what it was given, then waits for ever."""

    def __init__(self, *results):
        self.results = list(results)
        self.calls = []
        self.done = asyncio.Event()

    async def __call__(self, container_id, command, timeout_s):
        self.calls.append((container_id, command, timeout_s))
        if not self.results:
            self.done.set()
            await asyncio.Event().wait()
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


def run_checks(*results, subject=None):
    subject = subject or container()

    async def scenario():
        tasks, changes, probe = Tasks(), [], Script(*results)
        monitor = HealthMonitor(probe, lambda container_id, status: changes.append(status), tasks)
        monitor.started(subject)
        await asyncio.wait_for(probe.done.wait(), 5)
        document = monitor.document(subject.id)
        await tasks.close()
        return changes, document, probe.calls

    return asyncio.run(scenario())


def test_changes_are_told_once():
    changes, document, calls = run_checks((1, b"bad"), (1, b"bad"), (1, b""), (0, b"ok"), (0, b"ok"))
    assert changes == ["unhealthy", "healthy"]
    assert document["Status"] == "healthy"
    assert [item["Output"] for item in document["Log"]] == ["bad", "bad", "", "ok", "ok"]
    assert calls[0] == ("a" * 64, ["probe"], 0.005)


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (TimeoutError(), "Health check exceeded timeout (5ms)"),
        (Conflict("container is paused"), "container is paused"),
        (OSError("no descriptors"), "no descriptors"),
    ],
)
def test_whatever_goes_wrong_is_a_failed_check(error, output, caplog):
    changes, document, _ = run_checks(error, (0, b""))
    assert changes == ["healthy"]
    assert document["Log"][0]["ExitCode"] == -1
    assert document["Log"][0]["Output"] == output


def test_a_paused_program_is_not_asked():
    async def scenario():
        tasks, subject, probe = Tasks(), container(), Script((0, b""))
        subject.state.status = Status.PAUSED
        monitor = HealthMonitor(probe, lambda *_: None, tasks)
        monitor.started(subject)
        await asyncio.sleep(0.02)
        assert not probe.calls
        subject.state.status = Status.RUNNING
        await asyncio.wait_for(probe.done.wait(), 5)
        await tasks.close()

    asyncio.run(scenario())


def test_an_ended_program_is_unhealthy_and_not_asked():
    async def scenario():
        tasks, subject, probe = Tasks(), container(), Script((0, b""), (0, b""))
        monitor = HealthMonitor(probe, lambda *_: None, tasks)
        monitor.started(subject)
        await asyncio.wait_for(probe.done.wait(), 5)
        assert monitor.status(subject.id) == "healthy"
        monitor.stopped(subject.id)
        assert monitor.status(subject.id) == "unhealthy"
        # a new run begins anew, with the old log
        monitor.started(subject)
        assert monitor.status(subject.id) == "starting"
        assert len(monitor.document(subject.id)["Log"]) == 2
        monitor.forget(subject.id)
        assert monitor.status(subject.id) == ""
        assert monitor.document(subject.id) is None
        await tasks.close()

    asyncio.run(scenario())


def test_a_container_without_a_check_has_no_status():
    async def scenario():
        tasks = Tasks()
        monitor = HealthMonitor(Script(), lambda *_: None, tasks)
        monitor.started(container(test=["NONE"]))
        assert monitor.status("a" * 64) == ""
        assert not tasks._tasks

    asyncio.run(scenario())
