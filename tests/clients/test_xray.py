"""``corten xray`` and ``corten info --security`` tell what the kernel tells."""

from __future__ import annotations

import json
import os

import pytest

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox")


def test_a_container_is_what_the_kernel_says(networked: Daemon) -> None:
    script = "echo x > /new; httpd -p 80; sleep 100 & sleep 200"
    networked.docker("run", "-d", "--name", "seen", "-m", "64m", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script)
    document = json.loads(networked.corten("xray", "--json", "seen").stdout)
    inspected = networked.inspect("seen")
    pid = inspected["State"]["Pid"]
    assert document["Pid"] == pid
    assert {row["ContainerPid"] for row in document["Processes"] if row["Pid"] == pid} == {1}
    spaces = {row["Kind"]: row for row in document["Namespaces"]}
    assert f"net:[{spaces['net']['Inode']}]" == os.readlink(f"/proc/{pid}/ns/net")
    assert (spaces["pid"]["Shared"], spaces["user"]["Shared"]) == (False, True)
    assert document["Privileges"]["Seccomp"] == "filter"
    assert len(document["Privileges"]["Capabilities"]["Effective"]) == 14
    limits = {row["Meaning"]: row["Limit"] for row in document["Groups"]["Limits"]}
    assert limits["memory: beyond it the kernel kills"] == 64 << 20
    assert limits["processes and threads"] == 4096
    assert document["Layers"]["Layers"][0]["SizeBytes"] == 2
    assert "A /new" in document["Layers"]["Changes"]["Paths"]
    assert {row["Target"] for row in document["Mounts"]} >= {"/", "/proc", "/sys", "/dev/shm"}
    (endpoint,) = document["Network"]["Endpoints"]
    assert endpoint["IPAddress"] == inspected["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert endpoint["Published"][0]["Port"] == "80/tcp"
    assert any(row["Address"].endswith(":80") for row in document["Network"]["Listening"])
    text = networked.corten("xray", "seen").stdout
    for part in ("Processes", "Namespaces", "Privileges", "Control groups", "Layers", "Mounts", "Network", "64MiB"):
        assert part in text
    assert "\x1b" not in text  # no colours in a pipe


def test_one_that_does_not_run_has_layers_and_no_processes(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "still", "busybox", "true")
    document = json.loads(daemon.corten("xray", "still", "--json").stdout)
    assert (document["Pid"], document["Processes"], document["Groups"]) == (0, [], None)
    assert document["Layers"]["Layers"]
    assert "it does not run" in daemon.corten("xray", "still").stdout
    done = daemon.corten("xray", "nobody", check=False)
    assert (done.returncode, "No such container: nobody" in done.stderr) == (1, True)


def test_the_host_and_the_self_check(daemon: Daemon) -> None:
    assert os.uname().release in daemon.corten("xray", "host").stdout
    assert json.loads(daemon.corten("xray", "host", "--json").stdout)["Kernel"] == os.uname().release
    assert daemon.corten("info", "--security").returncode == 0
    daemon.docker("run", "-d", "--name", "mighty", "--privileged", "busybox", "sleep", "60")
    done = daemon.corten("info", "--security", "--json", check=False)
    rows = {row["Check"]: row for row in json.loads(done.stdout)["Checks"]}
    assert done.returncode == 1
    assert rows["none is privileged"]["Result"] == "warn"
    assert "mighty" in rows["none is privileged"]["Why"]
    assert rows["the data root is closed to others"]["Result"] == "pass"
