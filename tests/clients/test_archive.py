"""``docker cp`` and the archive routes: what goes in and out, and dockerd beside it."""

from __future__ import annotations

import io
import tarfile

import pytest

from daemons import Daemon, Dockerd

pytestmark = [pytest.mark.needs("docker", "busybox")]


def names(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return set(tar.getnames())


@pytest.mark.needs("dockerd")
def test_the_whole_root_of_a_program_without_what_the_kernel_makes_up(daemon: Daemon, dockerd: Dockerd) -> None:
    seen = {}
    for engine in (daemon, dockerd):
        engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "100")
        status, archive = engine.request("GET", "/containers/box/archive?path=/")
        assert status == 200
        seen[engine] = names(archive)
        assert {name for name in seen[engine] if name.lstrip("/").startswith(("proc/", "sys/"))} == set()
        for path in ("/proc/version", "/sys/kernel", "/proc/1/status"):
            status, answer = engine.request("GET", f"/containers/box/archive?path={path}")
            assert (status, b"Could not find the file" in answer) == (404, True), path
            assert engine.request("HEAD", f"/containers/box/archive?path={path}")[0] == 404
        assert names(engine.request("GET", "/containers/box/archive?path=/proc")[1]) == {"proc"}
        engine.docker("rm", "-f", "box")
    assert {name for name in seen[daemon] ^ seen[dockerd] if not name.lstrip("/").startswith("dev")} == set()
