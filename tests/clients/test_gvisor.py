"""gVisor's runsc as the runtime of a container: a kernel of its own, and everything else as usual."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon

RUNSC = shutil.which("runsc")
pytestmark = [pytest.mark.needs("docker", "busybox")]


@pytest.fixture
def gvisor(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    if RUNSC is None:
        pytest.skip("this machine lacks: runsc")
    # Debian's takes newer kernels' network namespaces for the machine's own: it gets none
    settings = {"runtimes": {"runsc": {"path": RUNSC, "runtimeArgs": ["--network=none"]}}}
    (tmp_path / "daemon.json").write_text(json.dumps(settings))
    made = Daemon(tmp_path / "d", "--bridge", "none", "--config-file", str(tmp_path / "daemon.json"))
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


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


@pytest.mark.skipif(RUNSC is not None, reason="runsc is installed")
def test_where_it_is_not_installed(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--runtime", "runsc", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "unknown or invalid runtime name: runsc (it is not installed on this host)" in done.stderr
