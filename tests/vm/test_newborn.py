"""On version 2 an init is made ahead where moving it to its control group does not wait for the whole machine."""

from __future__ import annotations

import pytest
from guest import Guest, lacking

pytestmark = pytest.mark.timeout(900)

TESTS = [
    f"tests/engine/test_shims.py::{name}"
    for name in (
        "test_the_next_init_is_born_before_it_is_asked_for",
        "test_an_init_that_does_not_suit_is_sent_away",
        "test_a_container_can_run_again_and_again",
    )
]


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_mount_of_the_control_groups_decides(tmp_path_factory: pytest.TempPathFactory, dynamic: bool) -> None:
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    with Guest(tmp_path_factory.mktemp("newborn")) as guest:
        if dynamic:
            guest.sh("mount -o remount,nosuid,nodev,noexec,favordynmods cgroup2 /sys/fs/cgroup")
        found = {}
        guest.pytest(TESTS, timeout=600, report=lambda told: found.update({told.get("node"): told["outcome"]}))
    ahead = "passed" if dynamic else "skipped"
    assert [found[name] for name in TESTS] == [ahead, ahead, "passed"]
