"""What corten-oci keeps of containers, and what may be done with them in which state."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from corten.runtime.oci import gate
from corten.runtime.state import ALLOWED, ContainerState, StateDirectory, Status, document, require, start_ticks


def made(pid: int = 0, **fields: Any) -> ContainerState:
    values = {
        "id": "c1", "bundle": "/b", "rootfs": "/b/rootfs", "pid": pid, "start_ticks": start_ticks(pid) if pid else 0,
        "oci_version": "1.2.0", "cgroup_path": "/corten-test/c1", "created": "2026-01-01T00:00:00Z",
        "owner": "", "annotations": {}, **fields,
    }  # fmt: skip
    return ContainerState(**values)


@pytest.fixture
def states(tmp_path: Path) -> StateDirectory:
    return StateDirectory(str(tmp_path / "root"))


def test_what_is_saved_is_loaded(states: StateDirectory) -> None:
    states.make("c1")
    saved = made(owner="root", annotations={"a": "b"})
    states.save(saved, {"ociVersion": "1.2.0"})
    assert states.load("c1") == saved
    assert states.spec("c1") == {"ociVersion": "1.2.0"}
    assert states.ids() == ["c1"]
    states.remove("c1")
    assert states.ids() == []
    with pytest.raises(NotFound, match="container does not exist: c1"):
        states.load("c1")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "a\0", "x" * 1025, "../x"])
def test_ids_are_one_component(states: StateDirectory, name: str) -> None:
    for operation in (states.make, states.load, states.remove):
        with pytest.raises(InvalidParameter, match="invalid container id format"):
            operation(name)


def test_ids_are_unique(states: StateDirectory) -> None:
    states.make("c1")
    with pytest.raises(Conflict, match="container with id exists: c1"):
        states.make("c1")


def test_half_made_containers_are_not_listed(states: StateDirectory) -> None:
    states.make("c1")
    assert states.ids() == []
    states.remove("c1")
    states.make("c1")


def test_status_follows_the_process(states: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = False
    monkeypatch.setattr(Cgroup, "is_frozen", lambda cgroup: frozen)
    directory = states.make("c1")
    ours = made(os.getpid())
    entrance = gate.make(directory)
    assert states.status(ours) == Status.CREATED
    gate.remove(directory)
    entrance.close()
    assert states.status(ours) == Status.RUNNING
    frozen = True
    assert states.status(ours) == Status.PAUSED
    assert states.status(made()) == Status.STOPPED
    reused = made(os.getpid(), start_ticks=start_ticks(os.getpid()) - 1)
    assert states.status(reused) == Status.STOPPED


def test_a_zombie_has_stopped() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(pid) == 0
    os.waitpid(pid, 0)
    assert start_ticks(os.getpid()) > 0


def test_the_gate_works_below_long_paths_and_tells_when_nobody_is_there(tmp_path: Path) -> None:
    states = StateDirectory(str(tmp_path / ("d" * 100) / ("e" * 100)))
    directory = states.make("c1")
    entrance = gate.make(directory)
    channel = gate.reach(directory)
    accepted, _ = entrance.accept()
    channel.close()
    assert accepted.recv(1) == b""
    accepted.close()
    entrance.close()
    with pytest.raises(SystemFailure, match="container init ended before it was started"):
        gate.reach(directory)


def test_gate_is_a_socket_of_packets(states: StateDirectory) -> None:
    with gate.make(states.make("c1")) as entrance:
        assert entrance.type == socket.SOCK_SEQPACKET
        assert not entrance.get_inheritable()


@pytest.mark.parametrize("operation", ALLOWED)
def test_operations_are_bound_to_states(operation: str) -> None:
    for status in Status:
        if status in ALLOWED[operation]:
            require(operation, status)
        else:
            with pytest.raises(Conflict, match=f"cannot {operation} a container in the {status} state"):
                require(operation, status)


def test_a_container_is_started_once() -> None:
    assert ALLOWED["start"] == {Status.CREATED}
    assert Status.RUNNING not in ALLOWED["delete"]


def test_document() -> None:
    assert document(made(7), Status.RUNNING)["pid"] == 7
    stopped = document(made(7), Status.STOPPED)
    assert (stopped["pid"], stopped["status"], stopped["rootfs"]) == (0, "stopped", "/b/rootfs")
