"""What xray reads of the kernel, on files that look like it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from corten.cgroup.hierarchy import Hierarchies
from corten.cli.commands import xray
from corten.engine.xray import groups, host, networks, processes


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "corten/c1"
    place.mkdir(parents=True)
    for name, text in {
        "memory.max": "67108864", "memory.current": "1048576", "memory.high": "max", "memory.swap.max": "0",
        "memory.swap.current": "0", "cpu.max": "50000 100000", "cpu.stat": "usage_usec 42\nnr_throttled 3",
        "pids.max": "4096", "pids.current": "7", "memory.pressure": "some avg10=1.00\nfull avg10=0.00",
        "cgroup.procs": "1\n2",
    }.items():  # fmt: skip
        (place / name).write_text(f"{text}\n")
    monkeypatch.setattr(Hierarchies, "here", classmethod(lambda cls: Hierarchies({}, str(tmp_path))))
    return place


def test_limits_stand_beside_their_use(version_2: Path) -> None:
    document = groups.groups("/corten/c1")
    # what a file that counts several things says stands in the table by its name
    assert "usage_usec 42" in next(line for line in xray._groups({"Groups": document}) if "cpu.max" in line)
    rows = {row["File"]: (row["Limit"], row["Use"]) for row in document["Limits"]}
    assert rows == {
        "memory.max": (67108864, 1048576),
        "memory.high": ("max", 1048576),
        "memory.swap.max": (0, 0),
        "cpu.max": ("50000 100000", "42"),
        "pids.max": (4096, 7),
    }
    assert document["Version"] == 2
    assert document["Pressure"] == {"memory": "some avg10=1.00"}
    assert "cgroup.procs" not in document["Files"][str(version_2)]


def test_version_1_says_no_limit_with_a_large_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for controller in ("memory", "cpu"):
        (tmp_path / controller / "c").mkdir(parents=True)
    (tmp_path / "memory/c/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory/c/memory.usage_in_bytes").write_text("4096\n")
    (tmp_path / "cpu/c/cpu.cfs_quota_us").write_text("-1\n")
    here = Hierarchies({name: str(tmp_path / name) for name in ("memory", "cpu")}, "")
    monkeypatch.setattr(Hierarchies, "here", classmethod(lambda cls: here))
    rows = {row["File"]: row["Limit"] for row in groups.groups("/c")["Limits"]}
    assert rows == {"memory.limit_in_bytes": "max", "cpu.cfs_quota_us": "max"}


def test_processes_namespaces_and_privileges_of_this_process() -> None:
    (row,) = processes.processes([os.getpid(), 2**22 + 1])
    assert (row["Pid"], row["User"]) == (os.getpid(), os.geteuid())
    assert all(space["Shared"] for space in processes.namespaces(os.getpid()))
    held = processes.privileges(os.getpid())
    assert held["Uid"] == os.geteuid()
    assert held["UidMap"][0].keys() == {"Inside", "Outside", "Count"}
    with pytest.raises(FileNotFoundError):
        processes.namespaces(2**22 + 1)


def test_names_of_capabilities() -> None:
    assert processes.capability_names("0000000000000401") == ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]
    assert len(processes.capability_names("00000000a80425fb")) == 14


def test_addresses_as_proc_writes_them() -> None:
    word = int.from_bytes(bytes((172, 17, 0, 1)), sys.byteorder)
    assert networks._plain(f"{word:08X}") == "172.17.0.1"
    assert networks._plain("0" * 32) == "::"


def test_the_host_tells_what_each_thing_is_for(tmp_path: Path) -> None:
    document = host.xray_host(tmp_path, "corten")
    assert document["Kernel"] == os.uname().release
    assert all(row["Purpose"] for row in document["Features"])
    assert all(bool(row["Found"]) == row["Present"] for row in document["Features"])
    assert all(row["Missing"] for row in document["Features"] if not row["Present"])
    assert document["Missing"] == sum(not row["Present"] for row in document["Features"])
