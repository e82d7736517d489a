"""Checkpoints of containers, and containers that go on from them."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import CAPABILITIES, Oci, make_spec

from machine import CLIENTS
from waiting import until

pytestmark = pytest.mark.needs("busybox", "criu")

COUNT = "i=0; while :; do i=$((i+1)); echo $i > /data/count; sleep 0.05; done"


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oci]:
    monkeypatch.setenv("PATH", f"{CLIENTS / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "volume").mkdir()
    (busybox_rootfs / "data").mkdir()
    spec = make_spec(busybox_rootfs, "sh", "-c", COUNT)
    spec["mounts"].append(
        {"destination": "/data", "type": "bind", "source": str(tmp_path / "volume"), "options": ["rbind"]}
    )
    spec["linux"]["cgroupsPath"] = f"/corten-test-criu-{os.getpid()}"
    made = Oci(tmp_path, spec)
    yield made
    for line in made("list", "-q").stdout.split():
        made("delete", "-f", line)


def start(oci: Oci, name: str, *words: str) -> None:
    """Detached, with streams that are outside of the container."""
    with open("/dev/null") as null, open(oci.bundle / "output", "ab") as output:
        command = oci.command(*words, "-d", "-b", str(oci.bundle), name)
        done = subprocess.run(command, stdin=null, stdout=output, stderr=output, timeout=60, check=False)
    assert done.returncode == 0, (oci.bundle / "output").read_text()


def count(oci: Oci) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((oci.bundle.parent / "volume/count").read_text())
    return 0


def test_it_goes_on_where_it_was(oci: Oci) -> None:
    start(oci, "c1", "run")
    until(lambda: count(oci) > 3)
    images = oci.bundle / "images"
    oci("checkpoint", "--image-path", str(images), "c1")
    assert oci("list", "-q").stdout == ""
    stopped = count(oci)
    time.sleep(0.2)
    assert count(oci) == stopped

    start(oci, "c2", "restore", "--image-path", str(images))
    until(lambda: count(oci) > stopped)
    # it did not begin anew, and is whole: cgroup, namespaces, mounts, filter
    assert count(oci) < stopped + 1000
    assert oci("exec", "c2", "cat", "/proc/1/comm").stdout == "sh\n"
    assert oci("exec", "c2", "hostname").stdout == "inside\n"
    assert "Seccomp:\t2" in oci("exec", "c2", "cat", "/proc/1/status").stdout
    assert oci("exec", "c2", "cat", "/proc/keys").stdout == ""
    oci("pause", "c2")
    oci("resume", "c2")
    oci("kill", "c2", "KILL")
    until(lambda: '"stopped"' in oci("state", "c2").stdout)


def test_the_original_may_run_on(oci: Oci) -> None:
    start(oci, "c1", "run")
    until(lambda: count(oci) > 3)
    oci("checkpoint", "--leave-running", "--image-path", str(oci.bundle / "images"), "c1")
    before = count(oci)
    until(lambda: count(oci) > before)
    refused = oci("restore", "-d", "-b", str(oci.bundle), "--image-path", str(oci.bundle / "images"), "c2", check=False)
    assert "cgroup is not empty" in refused.stderr
    assert oci("list", "-q").stdout == "c1\n"


def test_a_link_in_the_root_moves_no_mount(oci: Oci, busybox_rootfs: Path, tmp_path: Path) -> None:
    """Where the volume is mounted is a matter of the container's root; what it is, of config.json alone."""
    canary = tmp_path / "canary"
    canary.mkdir()
    start(oci, "c1", "run")
    until(lambda: count(oci) > 3)
    images = oci.bundle / "images"
    oci("checkpoint", "--image-path", str(images), "c1")
    (busybox_rootfs / "data").rmdir()
    (busybox_rootfs / "data").symlink_to(canary)
    done = oci("restore", "-d", "-b", str(oci.bundle), "--image-path", str(images), "c2", check=False)
    assert done.returncode == 1
    assert "criu restore failed" in done.stderr
    assert list(canary.iterdir()) == []
    assert oci("list", "-q").stdout == ""


def test_what_cannot_be_checkpointed_or_restored(oci: Oci, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start(oci, "c1", "run")
    missing = oci("restore", "-b", str(oci.bundle), "--image-path", str(tmp_path / "none"), "c2", check=False)
    assert "cgroup is not empty" in missing.stderr
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    done = oci("checkpoint", "--image-path", str(tmp_path / "images"), "c1", check=False)
    assert "checkpoints need the program criu, which is not installed" in done.stderr
    oci("delete", "-f", "c1")
    done = oci("restore", "-b", str(oci.bundle), "--image-path", str(tmp_path / "none"), "c2", check=False)
    assert (done.returncode, "criu" in done.stderr or "no checkpoint" in done.stderr) == (1, True)
    oci.write({**oci.spec, "process": {**oci.spec["process"], "terminal": True}})
    done = oci("restore", "-b", str(oci.bundle), "--image-path", str(tmp_path / "none"), "c2", check=False)
    assert "a container with a terminal cannot be checkpointed" in done.stderr


# each line is tried by the process itself ("cd" is no program) or by one that it starts, and what is said is kept
TRIES = {
    "filter, itself": "cd /tmp",
    "filter, a child": "unshare -U true",
    "capabilities": "chown 5 /tmp/mine",
    "new privileges": "su bob -c '/suid/su -c true' < /dev/null",
}
TRY = "touch /tmp/mine; while :; do {{ {tries}\n}} > /data/new 2>&1; mv /data/new /data/said; sleep 0.05; done".format(
    tries="; ".join(f'echo "# {name}"; {words}; echo "is $?"' for name, words in TRIES.items())
)


def confined(spec: dict[str, Any]) -> dict[str, Any]:
    """With a filter that answers one plain call in its own way, and without one capability."""
    changed = copy.deepcopy(spec)
    filtered = changed["linux"]["seccomp"]
    for rule in filtered["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != "chdir"]
    filtered["syscalls"].append({"names": ["chdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPROTO})
    kept = [name for name in CAPABILITIES if name != "CAP_CHOWN"]
    changed["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), kept)
    changed["process"]["noNewPrivileges"] = True
    return changed


def said(oci: Oci) -> dict[str, str]:
    """By name of the try, the newest."""
    file = oci.bundle.parent / "volume/said"
    file.unlink(missing_ok=True)
    until(file.exists, 60)  # a try of su alone waits for seconds
    parts = file.read_text().split("# ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


def test_what_came_back_is_confined_as_before(oci: Oci, busybox_rootfs: Path) -> None:
    """Not only by what /proc tells: calls are refused, by the process that was restored and by those it starts."""
    (busybox_rootfs / "suid").mkdir()
    shutil.copy(busybox_rootfs / "bin/busybox", busybox_rootfs / "suid/su")
    (busybox_rootfs / "suid/su").chmod(0o4755)
    oci.spec["process"]["args"][-1] = TRY

    honest, free = copy.deepcopy(oci.spec), copy.deepcopy(oci.spec)
    del free["linux"]["seccomp"]
    oci.write(free)
    start(oci, "free", "run")
    unconfined = said(oci)
    oci("delete", "-f", "free")
    for name in ("filter, itself", "filter, a child", "capabilities"):
        assert unconfined[name] == "is 0\n", "the try is a real one"
    assert "Password" in unconfined["new privileges"]

    oci.write(confined(honest))
    start(oci, "c1", "run")
    before = said(oci)
    images = oci.bundle / "images"
    oci("checkpoint", "--image-path", str(images), "c1")
    start(oci, "c2", "restore", "--image-path", str(images))
    after = said(oci)
    assert after == before
    assert "Protocol error" in after["filter, itself"]
    assert "Operation not permitted" in after["filter, a child"]
    assert "Operation not permitted" in after["capabilities"]
    assert "must be suid" in after["new privileges"]
    assert not any(text.endswith("is 0\n") for text in after.values())
