"""``--security-opt``, ``--cap-add`` and ``--privileged`` of the docker client, as the container finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox")


def tried(daemon: Daemon, script: str, *flags: str) -> str:
    return daemon.docker("run", "--rm", *flags, "busybox", "sh", "-c", f"({script}) 2>&1", check=False).stdout


def test_a_profile_of_ones_own_takes_the_place_of_the_default(daemon: Daemon, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    given = ["--security-opt", f"seccomp={tmp_path}/profile.json"]
    assert "Permission denied" in tried(daemon, "mkdir /tmp/x", *given)
    assert tried(daemon, "mkdir /tmp/x && echo made") == "made\n"
    # kept over a restart and for what is executed later
    daemon.docker("run", "-d", "--name", "held", *given, "busybox", "sleep", "60")
    daemon.docker("restart", "-t", "0", "held")
    assert "Permission denied" in daemon.docker("exec", "held", "mkdir", "/x", check=False).stderr


def test_capabilities_unlock_their_system_calls(daemon: Daemon) -> None:
    mount = "mount -t tmpfs x /tmp && echo mounted"
    assert "mounted" not in tried(daemon, mount)
    assert tried(daemon, mount, "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined") == "mounted\n"
    assert "mounted" not in tried(daemon, mount, "--security-opt", "seccomp=unconfined")
    assert "denied" in tried(daemon, "chown 1 /tmp || echo denied", "--cap-drop", "CHOWN")


def test_masks_go_with_systempaths(daemon: Daemon) -> None:
    assert tried(daemon, "head -c 1 /proc/timer_list | wc -c").strip() == "0"
    unmasked = ["--security-opt", "systempaths=unconfined"]
    assert tried(daemon, "grep -c /proc/sys /proc/self/mountinfo", *unmasked).strip() == "0"


def test_control_groups_that_can_be_written(daemon: Daemon) -> None:
    look = "grep -m1 ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d ' ' -f 6"
    assert tried(daemon, look).startswith("ro,")
    assert tried(daemon, look, "--security-opt", "writable-cgroups=true").startswith("rw,")
    assert tried(daemon, look, "--security-opt", "writable-cgroups=false").startswith("ro,")


@pytest.mark.parametrize("option", ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"])
def test_no_new_privileges_in_all_spellings(daemon: Daemon, option: str) -> None:
    assert tried(daemon, "grep NoNewPrivs /proc/self/status", "--security-opt", option).split() == ["NoNewPrivs:", "1"]


def test_privileged_is_everything(daemon: Daemon) -> None:
    look = (
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; touch /proc/sys/kernel/core_pattern && echo rw;"
        "grep ' /sys ' /proc/self/mountinfo | cut -d ' ' -f 6"
    )
    out = tried(daemon, look, "--privileged")
    words = out.split()
    host = next(line for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
                if line.startswith("CapBnd"))  # fmt: skip
    assert words[1] == host.split()[1]
    assert words[3] == "0"
    assert words[4] == "rw"
    assert words[5].startswith("rw,")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("label=disable", ""),
        ("label=type:svirt_t", "SELinux is not enabled on this host"),
        ("nosuch=1", "invalid --security-opt"),
        ("no-new-privileges=maybe", "invalid --security-opt"),
        ("systempaths=confined", "invalid --security-opt"),
    ],
)
def test_what_cannot_be_enforced_is_refused(daemon: Daemon, option: str, text: str) -> None:
    if option.startswith("label=type") and Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("SELinux is enabled here")
    done = daemon.docker("run", "--rm", "--security-opt", option, "busybox", "true", check=False)
    assert (done.returncode == 0) == (text == "")
    assert text in done.stderr
