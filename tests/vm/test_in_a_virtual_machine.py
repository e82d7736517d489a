"""The tests of the other directories on a machine that has version 2 control groups only, with another kernel.

``CORTEN_VM_TESTS`` says which: ``small`` (the default), ``wide``, or paths.  See docs/development.md.
"""

from __future__ import annotations

import pytest
from guest import Guest, GuestFailure
from guest_results import Results

pytestmark = pytest.mark.timeout(900)


def test_the_machine_is_what_it_is_meant_to_be(guest: Guest) -> None:
    """Version 2 alone, with the controllers that limits need."""
    assert guest.sh("grep -c cgroup /proc/self/mountinfo").output.strip() == "1"
    controllers = guest.run("cat", "/sys/fs/cgroup/cgroup.controllers").output.split()
    assert {"cpuset", "cpu", "io", "memory", "pids"} <= set(controllers)
    assert guest.facts["init"] == "init"


def test_inside(results: Results, node: str) -> None:
    try:
        found = results.of(node)
    except GuestFailure as error:
        pytest.fail(str(error), pytrace=False)
    if found["outcome"] == "skipped":
        pytest.skip(found["text"])
    if found["outcome"] == "failed":
        pytest.fail(found["text"], pytrace=False)
