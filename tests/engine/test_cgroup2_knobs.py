"""Version 2 control groups of a real kernel: what is set is in the files, and it bites."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.cgroup import stats
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure
from corten.runtime import groups

pytestmark = pytest.mark.needs("cgroup2")

PARENT = f"/corten-test-knobs-{os.getpid()}"
ROOT = Path("/sys/fs/cgroup")
HOG = "b = bytearray(1 << {size}); b[::4096] = bytes(len(b[::4096])) ; print('held', flush=True); input()"


class Place:
    """Groups below one parent, and programs in them."""

    def __init__(self) -> None:
        self.cgroups: list[Cgroup] = []
        self.programs: list[subprocess.Popen[str]] = []

    def group(self, resources: dict[str, Any], name: str = "box") -> Cgroup:
        made = groups.make(f"{PARENT}/{name}", resources)
        self.cgroups.append(made)
        return made

    def file(self, name: str, group: str = "box") -> str:
        return (ROOT / PARENT[1:] / group / name).read_text().strip()

    def python(self, cgroup: Cgroup, code: str) -> subprocess.Popen[str]:
        """A program that is in the group from its first instruction on."""
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=cgroup.join_self,
        )
        self.programs.append(child)
        return child

    def end(self) -> None:
        for cgroup in self.cgroups:
            cgroup.kill()
        for child in self.programs:
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream:
                    stream.close()
        for cgroup in self.cgroups:
            cgroup.delete()
        with contextlib.suppress(FileNotFoundError):
            (ROOT / PARENT[1:]).rmdir()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.end()


# -- what is set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"memory": {"limit": 64 << 20, "swap": 96 << 20}}, {"memory.max": 64 << 20, "memory.swap.max": 32 << 20}),
        ({"memory": {"limit": 64 << 20, "swap": -1}}, {"memory.max": 64 << 20, "memory.swap.max": "max"}),
        ({"memory": {"limit": 64 << 20, "swap": 64 << 20}}, {"memory.swap.max": 0}),
        ({"memory": {"reservation": 32 << 20}}, {"memory.low": 32 << 20, "memory.max": "max"}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": 39}),
        ({"cpu": {"shares": 2}}, {"cpu.weight": 1}),
        ({"cpu": {"shares": 262144}}, {"cpu.weight": 10000}),
        ({"cpu": {"shares": 2048, "idle": 1}}, {"cpu.idle": 1}),
        ({"cpu": {"quota": 50000, "period": 100000}}, {"cpu.max": "50000 100000"}),
        ({"cpu": {"quota": -1, "period": 50000}}, {"cpu.max": "max 50000"}),
        ({"cpu": {"quota": 50000, "burst": 20000}}, {"cpu.max": "50000 100000", "cpu.max.burst": 20000}),
        ({"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": 0, "cpuset.mems": 0, "cpuset.cpus.effective": 0}),
        ({"pids": {"limit": 7}}, {"pids.max": 7}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"unified": {"memory.high": "33554432"}}, {"memory.high": 32 << 20}),
    ],
)  # fmt: skip
def test_a_value_is_in_its_file(place: Place, resources: dict[str, Any], expected: dict[str, Any]) -> None:
    cgroup = place.group(resources)
    assert cgroup.warnings == []
    assert {name: place.file(name) for name in expected} == {name: str(value) for name, value in expected.items()}


def test_limits_of_a_disk(place: Place) -> None:
    disk = next(iter(sorted(Path("/sys/block").glob("vd*"))), None)
    if disk is None:
        pytest.skip("this machine lacks: a disk")
    major, minor = map(int, (disk / "dev").read_text().split(":"))
    number = {"major": major, "minor": minor}
    cgroup = place.group(
        {"blockIO": {"throttleReadBpsDevice": [{**number, "rate": 1 << 20}],
                     "throttleWriteIOPSDevice": [{**number, "rate": 30}], "weight": 500}}
    )  # fmt: skip
    assert place.file("io.max") == f"{major}:{minor} rbps=1048576 wbps=max riops=max wiops=30"
    if not cgroup.warnings:
        assert place.file("io.weight").startswith("default 4950")
    groups.update(cgroup, {"blockIO": {"throttleReadBpsDevice": [{**number, "rate": 0}]}})
    assert place.file("io.max") == f"{major}:{minor} rbps=max wbps=max riops=max wiops=30"


def test_updates_in_either_direction(place: Place) -> None:
    cgroup = place.group({"memory": {"limit": 64 << 20, "swap": 128 << 20}, "cpu": {"quota": 80000, "burst": 50000}})
    for limit, swap in ((32, 40), (256, 512), (48, 48)):
        groups.update(cgroup, {"memory": {"limit": limit << 20, "swap": swap << 20}})
        found = [int(place.file(name)) >> 20 for name in ("memory.max", "memory.swap.max")]
        assert found == [limit, swap - limit]
    # memory and swap together, of what memory has now
    groups.update(cgroup, {"memory": {"swap": 60 << 20}})
    assert int(place.file("memory.swap.max")) == 12 << 20
    for quota, burst in ((20000, 10000), (90000, 60000)):
        groups.update(cgroup, {"cpu": {"quota": quota, "burst": burst}})
        assert (place.file("cpu.max"), place.file("cpu.max.burst")) == (f"{quota} 100000", str(burst))
    # what is not given stays
    groups.update(cgroup, {"cpu": {"quota": 0, "period": 0}, "memory": {"limit": 0}})
    assert (place.file("cpu.max"), place.file("memory.max")) == ("90000 100000", str(48 << 20))


def test_what_version_2_does_not_have_is_said(place: Place) -> None:
    cgroup = place.group({"memory": {"limit": 64 << 20, "swappiness": 10, "disableOOMKiller": True}})
    assert len(cgroup.warnings) == 2
    with pytest.raises(InvalidParameter, match=r"network.classID is not supported"):
        place.group({"network": {"classID": 5}}, "other")
    assert not (ROOT / PARENT[1:] / "other").exists()


# -- it bites ---------------------------------------------------------------------------------------------------------


def test_memory_without_swap_ends_a_hog(place: Place) -> None:
    cgroup = place.group({"memory": {"limit": 32 << 20, "swap": 32 << 20}})
    hog = place.python(cgroup, HOG.format(size=26))
    assert hog.wait(60) == -9
    assert cgroup.oom_kills() == 1


@pytest.mark.needs("swap")
def test_swap_takes_what_memory_does_not(place: Place) -> None:
    cgroup = place.group({"memory": {"limit": 32 << 20, "swap": 128 << 20}})
    hog = place.python(cgroup, HOG.format(size=26))
    assert hog.stdout.readline() == "held\n"
    assert cgroup.oom_kills() == 0
    used, swapped = (int(place.file(name)) for name in ("memory.current", "memory.swap.current"))
    assert used <= 32 << 20
    assert swapped >= 30 << 20
    # and no more of it than is allowed
    groups.update(cgroup, {"memory": {"limit": 32 << 20, "swap": 40 << 20}})
    assert place.file("memory.swap.max") == str(8 << 20)


def test_a_quota_throttles(place: Place) -> None:
    cgroup = place.group({"cpu": {"quota": 20000, "period": 100000}})
    place.python(cgroup, "while True: pass")
    begin, before = time.monotonic(), stats.read(cgroup)["cpu"]
    time.sleep(2)  # what is measured is a share of time
    passed, after = time.monotonic() - begin, stats.read(cgroup)["cpu"]
    assert after["throttled_periods"] > before["throttled_periods"]
    assert after["throttled_time"] > before["throttled_time"]
    assert (after["total"] - before["total"]) / 1e9 / passed < 0.3


def test_weights_share_one_processor(place: Place) -> None:
    """Eight times the shares are about eight times the time; another machine's load takes from both."""
    ours = [place.group({"cpu": {"shares": shares, "cpus": "0"}}, str(shares)) for shares in (8192, 1024)]
    for cgroup in ours:
        place.python(cgroup, "while True: pass")
    time.sleep(1)  # both have started
    before = [stats.read(cgroup)["cpu"]["total"] for cgroup in ours]
    time.sleep(3)
    used = [stats.read(cgroup)["cpu"]["total"] - start for cgroup, start in zip(ours, before, strict=True)]
    assert used[0] > 3 * used[1] > 0


def test_processes_and_threads_are_counted(place: Place) -> None:
    cgroup = place.group({"pids": {"limit": 6}})
    code = (
        "import _thread, time\n"
        "started = 0\n"
        "try:\n"
        "    while started < 50: _thread.start_new_thread(time.sleep, (60,)); started += 1\n"
        "except RuntimeError: pass\n"
        "print(started, flush=True); input()\n"
    )
    assert place.python(cgroup, code).stdout.readline() == "5\n"
    assert stats.read(cgroup)["pids"] == {"current": 6, "limit": 6}


def test_statistics_mean_what_version_1_s_mean(place: Place) -> None:
    cgroup = place.group({"memory": {"limit": 128 << 20}, "pids": {"limit": 9}})
    busy = place.python(cgroup, f"{HOG.format(size=25)}\nwhile True: pass")
    assert busy.stdout.readline() == "held\n"
    found = stats.read(cgroup)
    memory = found["memory"]
    assert memory["limit"] == 128 << 20
    assert 32 << 20 <= memory["usage"] <= memory["max_usage"] <= memory["limit"]
    assert memory["stats"]["anon"] >= 32 << 20
    assert found["pids"] == {"current": 1, "limit": 9}
    cpu = found["cpu"]
    assert cpu["total"] > 10**6
    assert abs(cpu["user"] + cpu["kernel"] - cpu["total"]) <= cpu["total"] // 100 + 10**6


def test_frozen_programs_stand_still_and_die(place: Place) -> None:
    cgroup = place.group({})
    busy = place.python(cgroup, "print('up', flush=True)\nwhile True: pass")
    assert busy.stdout.readline() == "up\n"
    cgroup.freeze()
    assert place.file("cgroup.events").splitlines()[1] == "frozen 1"
    used = stats.read(cgroup)["cpu"]["total"]
    time.sleep(0.3)
    assert stats.read(cgroup)["cpu"]["total"] == used
    with pytest.raises(Exception, match=r"frozen|not empty"):
        groups.make(cgroup.path, {})
    cgroup.kill()
    assert busy.wait(10) == -9


def test_everything_below_dies_with_it(place: Place) -> None:
    cgroup = place.group({})
    code = "import os\nfor _ in range(5): os.fork()\nprint('up', flush=True)\nimport time; time.sleep(60)"
    first = place.python(cgroup, code)
    for _ in range(32):
        assert first.stdout.readline() == "up\n"
    assert len(cgroup.pids()) == 32
    cgroup.kill()
    first.wait(10)
    deadline = time.monotonic() + 10
    while cgroup.pids() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cgroup.pids() == []


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_controllers_are_enabled_from_the_root_down(place: Place) -> None:
    place.group({"memory": {"limit": 1 << 26}}, "a/b/c")
    for level in (ROOT, ROOT / PARENT[1:], ROOT / PARENT[1:] / "a", ROOT / PARENT[1:] / "a/b"):
        assert {"cpuset", "cpu", "io", "memory", "pids"} <= set((level / "cgroup.subtree_control").read_text().split())
    assert place.file("cgroup.subtree_control", "a/b/c") == ""
    for name in ("a/b", "a"):
        place.cgroups.append(Cgroup(f"{PARENT}/{name}"))


def test_processes_in_the_parent_are_named_as_the_reason(place: Place) -> None:
    """cgroup-v2.rst, "No Internal Process Constraint"."""
    parent = ROOT / PARENT[1:] / "crowded"
    place.group({}, "crowded")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (parent / "cgroup.procs").write_text(str(sleeper.pid))
        with pytest.raises(SystemFailure, match=f"memory is not enabled: processes live in {parent} itself"):
            groups.make(f"{PARENT}/crowded/box", {"memory": {"limit": 1 << 26}})
        assert not (parent / "box").exists()
        assert (parent / "cgroup.type").read_text() == "domain\n"
        # without limits it is only a group
        inner = groups.make(f"{PARENT}/crowded/box", {})
        place.python(inner, "print('in', flush=True)").wait(30)
        inner.delete()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_former_parent_takes_processes_again(place: Place) -> None:
    place.group({"pids": {"limit": 5}}, "box/inner").delete()
    assert place.file("cgroup.subtree_control")
    cgroup = place.group({"pids": {"limit": 5}})
    assert place.file("cgroup.subtree_control") == ""
    program = place.python(cgroup, "print('in', flush=True)")
    assert program.stdout.readline() == "in\n"


def test_this_machine_is_what_it_seems() -> None:
    assert Hierarchies.here().is_v2
    assert Hierarchies.here().unified == str(ROOT)
