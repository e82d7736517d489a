#!/usr/bin/env python3
"""How long each step of a container's start takes inside the runtime; medians in milliseconds.

usage: runtime_steps.py [ROUNDS]       as root; needs busybox (Debian package busybox-static)
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from corten.cgroup.hierarchy import Hierarchies
from corten.runtime import execution, lifecycle, seccomp_profile
from corten.runtime.defaults import default_spec

CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
        "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
]  # fmt: skip
GROUP = f"corten-bench-{os.getpid()}"


def make_rootfs(directory: Path) -> None:
    (directory / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for name in ("true", "sleep", "sh"):
        (directory / "bin" / name).symlink_to("busybox")
    for name in ("dev", "proc", "sys", "etc", "tmp"):
        (directory / name).mkdir()
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")


def make_spec(rootfs: Path, number: int, *command: str) -> dict:
    """As the engine makes it for a plain ``docker run``."""
    spec = default_spec()
    spec["root"] = {"path": str(rootfs)}
    spec["process"] |= {
        "terminal": False,
        "args": list(command),
        "user": {"uid": 0, "gid": 0, "username": "0"},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "noNewPrivileges": False,
        "rlimits": [],
    }
    spec["linux"]["cgroupsPath"] = f"/{GROUP}/{number}"
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["seccomp"] = seccomp_profile.resolve_profile(seccomp_profile.default_profile(), CAPABILITIES)
    return spec


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        rootfs = Path(scratch, "rootfs")
        make_rootfs(rootfs)
        results: dict[str, list[float]] = {}

        def note(name: str, seconds: float) -> None:
            results.setdefault(name, []).append(seconds * 1000)

        for number in range(rounds):
            # as it comes: a document of its own
            spec = json.loads(json.dumps(make_spec(rootfs, number, "true")))
            began = time.perf_counter()
            init = lifecycle.create(
                spec, container_id="bench", bundle=scratch, seccomp_cache=f"{scratch}/cache", timed=True
            )
            created = time.perf_counter()
            init.start()
            started = time.perf_counter()
            os.waitpid(init.pid, 0)
            os.close(init.pidfd)
            init.cgroup.delete()
            for name, duration in init.times:
                note(f"  {name}", duration / 1e9)
            note("create", created - began)
            note("start", started - created)
            note("create and start", started - began)
        spec = make_spec(rootfs, rounds, "sleep", "60")
        init = lifecycle.create(spec, container_id="bench", bundle=scratch, seccomp_cache=f"{scratch}/cache")
        init.start()
        process = {**spec["process"], "args": ["true"]}
        for _ in range(rounds):
            began = time.perf_counter()
            made = execution.exec_process(
                init.pid, spec, process, cgroup=init.cgroup, stdio=None, seccomp_cache=f"{scratch}/cache"
            )
            note("exec", time.perf_counter() - began)
            os.waitpid(made.pid, 0)
            os.close(made.pidfd)
        init.abandon()
        for directory in Hierarchies.read().directories(f"/{GROUP}"):
            os.rmdir(directory)
    for name, values in results.items():
        print(f"{name:<28} {statistics.median(values):8.3f}   least {min(values):8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
