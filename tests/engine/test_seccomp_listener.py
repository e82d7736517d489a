"""System calls that a profile hands over are decided by a program outside the container."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import Oci, make_spec

pytestmark = pytest.mark.needs("busybox")

RECEIVE, SEND = 0xC0502100, 0xC0182101  # ioctls of seccomp_unotify(2)
NOTIFICATION, RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
ENOTSUP = 95


class Agent:
    """Refuses every call with ENOTSUP, and remembers who made it."""

    def __init__(self, path: Path) -> None:
        self.states: list[dict[str, Any]] = []
        self.callers: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                data, ancillary, _, _ = peer.recvmsg(65536, socket.CMSG_SPACE(4))
            numbers = array.array("i")
            numbers.frombytes(ancillary[0][2])
            self.states.append(json.loads(data))
            threading.Thread(target=self._answer, args=(numbers[0],), daemon=True).start()

    def _answer(self, descriptor: int) -> None:
        try:
            while True:
                buffer = bytearray(NOTIFICATION.size)
                fcntl.ioctl(descriptor, RECEIVE, buffer)
                identifier, pid, *_ = NOTIFICATION.unpack(buffer)
                self.callers.append(pid)
                fcntl.ioctl(descriptor, SEND, RESPONSE.pack(identifier, 0, -ENOTSUP, 0))
        except OSError:
            os.close(descriptor)  # ENOENT: nobody is under the filter any more


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "agent.sock")
    yield made
    made.close()


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Oci]:
    spec = make_spec(busybox_rootfs, "sleep", "60")
    spec["linux"]["cgroupsPath"] = f"/corten-test-notify-{os.getpid()}"
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": str(tmp_path / "agent.sock"),
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    made = Oci(tmp_path, spec)
    yield made
    for line in made("list", "-q").stdout.split():
        made("delete", "-f", line)


@pytest.mark.parametrize("sealed", [False, True], ids=["filter first", "filter last"])
def test_the_agent_decides(oci: Oci, agent: Agent, sealed: bool) -> None:
    process = {**oci.spec["process"], "args": ["sh", "-c", "mkdir /tmp/x"], "noNewPrivileges": sealed}
    oci.write({**oci.spec, "process": process})
    done = oci("run", "-b", str(oci.bundle), "c1", check=False)
    assert done.returncode == 1
    assert "not supported" in done.stderr
    (told,) = agent.states
    assert (told["fds"], told["metadata"], told["state"]["id"]) == (["seccompFd"], "for the agent", "c1")
    assert told["ociVersion"] == told["state"]["ociVersion"] == oci.spec["ociVersion"]
    assert agent.callers
    assert told["pid"] > 1


def test_an_exec_has_a_filter_of_its_own(oci: Oci, agent: Agent) -> None:
    oci.create("c1")
    oci("start", "c1")
    done = oci("exec", "c1", "mkdir", "/tmp/x", check=False)
    assert (done.returncode, "not supported" in done.stderr) == (1, True)
    first, second = agent.states
    assert first["pid"] == json.loads(oci("state", "c1").stdout)["pid"] != second["pid"]
    assert second["state"]["status"] == "running"
    assert set(agent.callers) == {second["pid"]}


def test_nobody_listens(oci: Oci) -> None:
    done = oci("run", "-b", str(oci.bundle), "c1", check=False)
    assert done.returncode == 1
    assert "nobody listens for the seccomp filter at" in done.stderr
    assert oci("list", "-q").stdout == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"listenerPath": ""}, "needs somebody who listens"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be the default"),
        ({"syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]}, "sendmsg cannot be handed over"),
        ({"syscalls": [], "listenerPath": ""}, "listenerMetadata: there is no listenerPath"),
    ],
)
def test_what_does_not_go_together(oci: Oci, change: dict[str, Any], text: str) -> None:
    linux = {**oci.spec["linux"], "seccomp": {**oci.spec["linux"]["seccomp"], **change}}
    oci.write({**oci.spec, "linux": linux})
    done = oci("run", "-b", str(oci.bundle), "c1", check=False)
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr
