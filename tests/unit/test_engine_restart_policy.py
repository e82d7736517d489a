"""Which programs run again after their end, and when."""

from __future__ import annotations

import pytest

from corten.dockerapi.container import HostConfig, RestartPolicy
from corten.engine.container import Container, State
from corten.engine.restart_policy import next_backoff_s, wants_restart
from records import record


def ended(policy: str, most: int = 0, **state: object) -> Container:
    host = HostConfig(restart_policy=RestartPolicy(name=policy, maximum_retry_count=most))
    return record(host_config=host, state=State(**state))


@pytest.mark.parametrize(
    ("container", "now", "at_boot"),
    [
        (ended("no", exit_code=1), False, False),
        (ended("always", exit_code=0), True, True),
        (ended("always", stopped_by_user=True), False, True),
        (ended("unless-stopped", exit_code=0), True, True),
        (ended("unless-stopped", stopped_by_user=True), False, False),
        (ended("on-failure", exit_code=0), False, False),
        (ended("on-failure", exit_code=3), True, True),
        (ended("on-failure", exit_code=3, stopped_by_user=True), False, False),
        (ended("on-failure", 2, exit_code=3, restart_count=1), True, True),
        (ended("on-failure", 2, exit_code=3, restart_count=2), False, False),
    ],
)
def test_policies(container: Container, now: bool, at_boot: bool) -> None:
    assert wants_restart(container) == now
    assert wants_restart(container, at_boot=True) == at_boot


def test_waits_grow_and_start_over() -> None:
    waits = [0.0]
    for _ in range(12):
        waits.append(next_backoff_s(waits[-1], 0))
    assert waits[1:4] == [0.1, 0.2, 0.4]
    assert waits[-1] == 60
    assert next_backoff_s(60, 9 * 10**9) == 60
    assert next_backoff_s(60, 10 * 10**9) == 0.1
