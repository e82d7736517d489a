"""Limits as text in files: what depends on what a group has already."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from corten.cgroup import manager
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.limits import set_limits
from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure

FILES = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.low": "0",
    "cpu.max": "max 100000",
    "cpu.max.burst": "0",
    "cpu.weight": "100",
    "cpu.idle": "0",
    "io.weight": "default 100",
    "io.max": "",
    "pids.max": "max",
}


@pytest.fixture
def group(tmp_path: Path) -> Cgroup:
    (tmp_path / "box").mkdir()
    for name, text in FILES.items():
        (tmp_path / "box" / name).write_text(text)
    return Cgroup("/box", Hierarchies(unified=str(tmp_path)))


def text_of(group: Cgroup, name: str) -> str:
    """A regular file keeps what a longer text before left behind the new one."""
    return (Path(group.hierarchies.unified) / "box" / name).read_text()


def clear(group: Cgroup, *names: str) -> None:
    for name in names:
        (Path(group.hierarchies.unified) / "box" / name).write_text("")


@pytest.mark.parametrize(
    ("memory", "maximum", "swap"),
    [
        ({"limit": 64, "swap": 96}, "64", "32"),
        ({"limit": 64, "swap": 64}, "64", "0"),
        ({"limit": 64, "swap": -1}, "64", "max"),
        ({"limit": 64, "swap": 0}, "64", ""),
        ({"limit": 64}, "64", ""),
        ({"limit": -1, "swap": -1}, "max", "max"),
    ],
)
def test_swap_alone_is_what_version_2_limits(group, memory, maximum, swap):
    clear(group, "memory.max", "memory.swap.max")
    set_limits(group, {"memory": memory})
    assert (text_of(group, "memory.max"), text_of(group, "memory.swap.max")) == (maximum, swap)


def test_a_swap_limit_alone_counts_from_the_present_memory_limit(group):
    clear(group, "memory.max", "memory.swap.max")
    set_limits(group, {"memory": {"limit": 64}})
    set_limits(group, {"memory": {"swap": 100}})
    assert (text_of(group, "memory.max"), text_of(group, "memory.swap.max")) == ("64", "36")


@pytest.mark.parametrize("memory", [{"swap": 100}, {"limit": -1, "swap": 100}, {"limit": 100, "swap": 64}])
def test_swap_that_means_nothing_is_refused(group, memory):
    with pytest.raises(InvalidParameter):
        set_limits(group, {"memory": memory})


def test_without_swap_accounting_only_a_limit_that_says_something_is_worth_a_word(group):
    (Path(group.hierarchies.unified) / "box/memory.swap.max").unlink()
    set_limits(group, {"memory": {"limit": 64, "swap": 128}})
    assert group.warnings == []
    set_limits(group, {"memory": {"limit": 64, "swap": 96}})
    assert "swap limits are not supported" in group.warnings[0]


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"quota": 50000}, "50000 100000"),
        ({"period": 200000}, "max 200000"),
        ({"quota": 5000, "period": 10000}, "5000 10000"),
        ({"quota": -1}, "max 100000"),
    ],
)
def test_what_is_not_given_stays(group, cpu, expected):
    set_limits(group, {"cpu": cpu})
    assert text_of(group, "cpu.max")[: len(expected)] == expected


def test_an_idle_group_gets_no_weight(group):
    set_limits(group, {"cpu": {"shares": 2048, "idle": 1}})
    assert (text_of(group, "cpu.weight"), text_of(group, "cpu.idle")) == ("100", "1")


def test_weights_of_disks_go_to_who_does_the_work(group):
    set_limits(group, {"blockIO": {"weight": 500}})
    assert text_of(group, "io.weight").startswith("default 4950")
    (Path(group.hierarchies.unified) / "box/io.bfq.weight").write_text("")
    clear(group, "io.weight")
    set_limits(group, {"blockIO": {"weight": 500}})
    assert (text_of(group, "io.bfq.weight"), text_of(group, "io.weight")) == ("default 500", "")


def test_a_file_outside_the_group_is_refused(group):
    with pytest.raises(InvalidParameter, match="invalid cgroup file name"):
        set_limits(group, {"unified": {"../memory.max": "1"}})


def test_a_controller_that_cannot_be_enabled_is_named_when_it_is_missed(tmp_path, monkeypatch):
    """The kernel refuses with EBUSY while processes live in the parent; its files are then absent below."""
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("1\n")
    made = os.mkdir

    def mkdir(path, *arguments, **options):
        made(path, *arguments, **options)
        for name in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.procs"):
            Path(path, name).write_text("")

    def write_text(path, text):
        if path.endswith("/cgroup.subtree_control") and "memory" in text:
            raise OSError(16, "Device or resource busy")
        Path(path).write_text(text)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(manager, "write_text", write_text)
    monkeypatch.setattr(Cgroup, "delete", lambda self: None)
    with pytest.raises(SystemFailure, match=f"memory is not enabled: processes live in {tmp_path} itself"):
        Cgroup.create("/box", {"memory": {"limit": 1 << 20}}, Hierarchies(unified=str(tmp_path)))


def test_a_thaw_that_has_happened_needs_no_waiting(tmp_path):
    (tmp_path / "box").mkdir()
    (tmp_path / "box/cgroup.freeze").write_text("1")
    (tmp_path / "box/cgroup.events").write_text("populated 1\nfrozen 0\n")
    Cgroup("/box", Hierarchies(unified=str(tmp_path))).thaw()
    assert (tmp_path / "box/cgroup.freeze").read_text() == "0"


def test_what_does_not_come_to_rest_is_let_go_again(tmp_path, monkeypatch):
    class NeverWoken:
        def register(self, *_):
            pass

        def poll(self, _):
            return []

    monkeypatch.setattr(manager.select, "poll", NeverWoken)
    monkeypatch.setattr(manager, "_FREEZE_S", 0)
    (tmp_path / "box").mkdir()
    (tmp_path / "box/cgroup.freeze").write_text("0")
    (tmp_path / "box/cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(SystemFailure, match="does not come to rest"):
        Cgroup("/box", Hierarchies(unified=str(tmp_path))).freeze()
    assert (tmp_path / "box/cgroup.freeze").read_text() == "0"


def test_the_hierarchies_are_read_once(monkeypatch):
    first = Hierarchies.here()
    monkeypatch.setattr(Hierarchies, "read", classmethod(lambda cls: pytest.fail("read again")))
    seen: list[Hierarchies] = []
    thread = threading.Thread(target=lambda: seen.append(Cgroup(f"/x-{os.getpid()}").hierarchies))
    thread.start()
    thread.join()
    assert seen == [first]


@pytest.mark.parametrize(("options", "is_dynamic"), [("rw,nsdelegate", False), ("rw,favordynmods,nsdelegate", True)])
def test_whether_processes_are_moved_without_waiting(tmp_path, options, is_dynamic):
    table = tmp_path / "mountinfo"
    table.write_text(f"30 24 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 {options}\n")
    found = Hierarchies.read(str(table))
    assert (found.is_v2, found.dynamic) == (True, is_dynamic)
