"""gVisor's runsc as the runtime of a container: a kernel of its own, and everything else as usual."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon, OwnHost

RUNSC = shutil.which("runsc")
pytestmark = [pytest.mark.needs("docker", "busybox", "nf_tables")]


@pytest.fixture
def gvisor(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    if RUNSC is None:
        pytest.skip("this machine lacks: runsc")
    host = OwnHost(tmp_path / "host")
    made = Daemon(tmp_path / "d", host=host)
    try:
        made.start()
        made.import_busybox(busybox_tar)
        yield made
        made.remove_containers()
        made.stop()
    finally:
        host.close()


def test_a_kernel_of_its_own(gvisor: Daemon) -> None:
    done = gvisor.docker(
        "run", "--rm", "--runtime", "runsc", "busybox", "sh", "-c", "cat /proc/version; exit 3", check=False
    )
    assert (done.returncode, Path("/proc/version").read_text() in done.stdout) == (3, False)
    gvisor.docker("run", "-d", "--name", "strong", "--runtime", "runsc", "busybox", "sh", "-c", "echo up; sleep 100")
    assert "sleep 100" in gvisor.docker("exec", "strong", "ps").stdout
    assert gvisor.docker("logs", "strong").stdout == "up\n"
    gvisor.docker("pause", "strong")
    gvisor.docker("unpause", "strong")
    gvisor.docker("restart", "-t", "0", "strong")
    assert gvisor.inspect("strong")["State"]["Running"]
    gvisor.docker("stop", "-t", "0", "strong")
    # its init has no handlers: which of the two signals ends it depends on what comes first
    assert gvisor.inspect("strong")["State"]["ExitCode"] in (137, 143)


def test_its_networks_are_those_of_others(gvisor: Daemon) -> None:
    """Also under Linux 6.11 and later, where Debian's runsc takes each network namespace for the machine's."""
    gvisor.docker("network", "create", "net")
    gvisor.docker("run", "-d", "--name", "plain", "--network", "net", "busybox", "httpd", "-f", "-h", "/etc")
    strong = ["run", "--rm", "--runtime", "runsc"]
    address = gvisor.inspect("plain")["NetworkSettings"]["Networks"]["net"]["IPAddress"]
    done = gvisor.docker(*strong, "--network", "net", "busybox", "wget", "-qO-", f"http://{address}/hostname")
    assert done.stdout.strip() == gvisor.inspect("plain")["Id"][:12]
    shown = gvisor.docker(*strong, "--network", "none", "busybox", "ip", "-4", "addr").stdout
    assert [line.split()[1] for line in shown.splitlines() if "inet" in line] == ["127.0.0.1/8"]
    gvisor.docker("rm", "-f", "plain")
    gvisor.docker("network", "rm", "net")


def test_a_refusal_is_told_and_leaves_nothing(gvisor: Daemon) -> None:
    """The machine's own network is what runsc refuses."""
    done = gvisor.docker(
        "run", "--name", "no", "--runtime", "runsc", "--network", "host", "busybox", "true", check=False
    )
    assert done.returncode == 125
    assert "cannot run with network enabled in root network namespace" in done.stderr
    assert gvisor.inspect("no")["State"]["Status"] == "created"


@pytest.mark.skipif(RUNSC is not None, reason="runsc is installed")
def test_where_it_is_not_installed(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--runtime", "runsc", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "unknown or invalid runtime name: runsc (it is not installed on this host)" in done.stderr
