"""Checkpoints that were made to get out: a restored container has no more than its config.json gives."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import Oci, make_spec

from machine import CGROUPS, CLIENTS

pytestmark = pytest.mark.needs("busybox", "criu")


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oci]:
    monkeypatch.setenv("PATH", f"{CLIENTS / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "volume").mkdir()
    (busybox_rootfs / "data").mkdir()
    spec = make_spec(busybox_rootfs, "sh", "-c", "while :; do date +%s%N > /data/now; sleep 0.05; done")
    spec["process"]["noNewPrivileges"] = True
    spec["mounts"].append(
        {"destination": "/data", "type": "bind", "source": str(tmp_path / "volume"), "options": ["rbind"]}
    )
    spec["linux"]["cgroupsPath"] = f"/corten-test-criu-{os.getpid()}"
    made = Oci(tmp_path, spec)
    yield made
    for line in made("list", "-q").stdout.split():
        made("delete", "-f", line)


def checkpoint(oci: Oci, spec: dict[str, Any]) -> Path:
    """Of a container with this config.json, which has run."""
    honest = oci.spec
    oci.write(spec)
    now = oci.bundle.parent / "volume/now"
    now.unlink(missing_ok=True)
    with open("/dev/null") as null:
        command = oci.command("run", "-d", "-b", str(oci.bundle), "c1")
        done = subprocess.run(command, stdin=null, stdout=null.fileno(), stderr=null.fileno(), timeout=60, check=False)
    assert done.returncode == 0
    deadline = time.monotonic() + 20
    while not now.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    images = oci.bundle / "images"
    oci("checkpoint", "--image-path", str(images), "c1")
    oci.write(honest)
    return images


def refused(oci: Oci, images: Path, text: str) -> None:
    """The restore fails, nothing has run meanwhile, and nothing is left."""
    now = oci.bundle.parent / "volume/now"
    before = now.read_bytes()
    done = oci("restore", "-d", "-b", str(oci.bundle), "--image-path", str(images), "c2", check=False)
    assert done.returncode == 1, "it was restored"
    assert text in done.stderr
    assert now.read_bytes() == before, "it ran before it was refused"
    assert oci("list", "-q").stdout == ""
    name = oci.spec["linux"]["cgroupsPath"][1:]
    assert not [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]


def _with_more_capabilities(spec: dict[str, Any]) -> None:
    for names in spec["process"]["capabilities"].values():
        names.append("CAP_SYS_ADMIN")


def _without_filter(spec: dict[str, Any]) -> None:
    del spec["linux"]["seccomp"]


def _that_may_gain(spec: dict[str, Any]) -> None:
    spec["process"]["noNewPrivileges"] = False


def _that_may_write_sysctls(spec: dict[str, Any]) -> None:
    spec["linux"]["readonlyPaths"].remove("/proc/sys")


def _that_sees_the_hosts_firmware(spec: dict[str, Any]) -> None:
    spec["linux"]["maskedPaths"].remove("/sys/firmware")


def _with_a_second_procfs(spec: dict[str, Any]) -> None:
    spec["mounts"].append({"destination": "/tmp/p", "type": "proc", "source": "proc"})


def _with_a_writable_sysfs(spec: dict[str, Any]) -> None:
    next(mount for mount in spec["mounts"] if mount["type"] == "sysfs")["options"].remove("ro")


def _on_the_hosts_network(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"] = [item for item in spec["linux"]["namespaces"] if item["type"] != "network"]
    spec["linux"].pop("sysctl", None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_with_more_capabilities, "has capabilities (Cap"),
        (_without_filter, "runs without the system call filter"),
        (_that_may_gain, "may gain new privileges"),
        (_that_may_write_sysctls, "may write to /proc/sys that config.json does not give"),
        (_that_sees_the_hosts_firmware, "sees /sys/firmware that config.json does not give"),
        (_with_a_second_procfs, "has a mount of type proc at /tmp/p that config.json does not give"),
        (_with_a_writable_sysfs, "may write to /sys that config.json does not give"),
        (_on_the_hosts_network, "network namespace that config.json does not give"),
    ],
)
def test_a_container_that_was_allowed_more(oci: Oci, change: Callable[[dict[str, Any]], None], text: str) -> None:
    spec = copy.deepcopy(oci.spec)
    change(spec)
    refused(oci, checkpoint(oci, spec), text)


def test_notes_that_lie(oci: Oci, tmp_path: Path) -> None:
    """Beside criu's images lies what they left outside: numbers and names, which are taken for nothing else."""
    images = checkpoint(oci, oci.spec)
    note = images / "corten.json"
    honest = json.loads(note.read_text())
    for key, value in (
        ("binds", [99]),
        ("binds", [-1]),
        ("binds", ["/etc"]),
        ("binds", [True]),
        ("nulls", 10**9),
        ("nulls", -1),
        ("groups", ["../../../etc"]),
        ("groups", [".."]),
        ("groups", ["nosuch"]),
        ("streams", [""] * 40),
        ("streams", [1, 2, 3]),
        ("network", "/proc/1/ns/net"),
        ("network", True),
        ("more", 1),
    ):
        note.write_text(json.dumps({**honest, key: value}))
        refused(oci, images, "checkpoint")
    for text in ("", "[]", "null", "{", "[" * 100_000, '{"binds": []}'):
        note.write_text(text)
        refused(oci, images, "holds no checkpoint")
    note.unlink()
    os.mkfifo(note)
    refused(oci, images, "holds no checkpoint")
    note.unlink()
    (tmp_path / "elsewhere").write_text(json.dumps(honest))
    note.symlink_to(tmp_path / "elsewhere")
    refused(oci, images, "holds no checkpoint")


def test_a_volume_that_is_another_now(oci: Oci, busybox_rootfs: Path, tmp_path: Path) -> None:
    """The keys of binds lead to config.json's sources, whatever the images say; what is not there is not mounted."""
    images = checkpoint(oci, oci.spec)
    without = copy.deepcopy(oci.spec)
    without["mounts"].pop()
    oci.write(without)
    refused(oci, images, "does not have: mounts[")


def test_damaged_images(oci: Oci) -> None:
    images = checkpoint(oci, oci.spec)
    kept = oci.bundle / "kept"
    images.rename(kept)
    chance = random.Random(6)
    for pattern in ("core-*.img", "mountpoints-*.img", "fs-*.img", "files.img", "pstree.img", "creds*.img"):
        for file in kept.glob(pattern):
            shutil.copytree(kept, images)
            data = bytearray((images / file.name).read_bytes())
            for _ in range(len(data) // 8 + 1):
                data[chance.randrange(len(data))] = chance.randrange(256)
            (images / file.name).write_bytes(data)
            refused(oci, images, "criu restore failed")
            shutil.rmtree(images)
