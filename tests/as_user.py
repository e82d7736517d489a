"""A program for tests: become an ordinary user whom only this mount namespace knows, and run a command.

Usage: as_user.py ACCOUNT COMMAND…, as root.  ACCOUNT is JSON: name, uid, home, subids ([first, count] or null), visible
(directories that the user must be able to reach), group (a control group to be in, or "").  Nothing on the machine is
changed: the files that name users are covered by copies, closed directories above the interpreter by empty ones, and
/dev/net/tun and /dev/fuse are as most machines have them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from corten.linux import mount, process

_NAMES = ("passwd", "group", "subuid", "subgid")


def main() -> None:
    account, command = json.loads(sys.argv[1]), sys.argv[2:]
    if account["group"]:
        Path(account["group"], "cgroup.procs").write_text(str(os.getpid()))
    process.unshare(process.CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
    introduce(account)
    for closed, directories in closed_above(account["visible"]).items():
        show_only(closed, directories)
    if Path("/dev/net").is_dir():
        mount.mount("tmpfs", "/dev/net", "tmpfs")
        os.mknod("/dev/net/tun", 0o20666, os.makedev(10, 200))
        os.chmod("/dev/net/tun", 0o666)
    if Path("/dev/fuse").exists():
        node = Path(account["home"], ".fuse")
        if not node.exists():
            os.mknod(node, 0o20666, os.makedev(10, 229))
            os.chmod(node, 0o666)
        mount.mount(str(node), "/dev/fuse", "", mount.MS_BIND)
    os.setgroups([])
    os.setresgid(account["uid"], account["uid"], account["uid"])
    os.setresuid(account["uid"], account["uid"], account["uid"])
    os.chdir(account["home"])
    os.execvpe(command[0], command, os.environ)


def introduce(account: dict[str, Any]) -> None:
    name, uid = account["name"], account["uid"]
    lines = {"passwd": f"{name}:x:{uid}:{uid}::{account['home']}:/bin/sh\n", "group": f"{name}:x:{uid}:\n"}
    if account["subids"]:
        granted = f"{name}:{account['subids'][0]}:{account['subids'][1]}\n"
        lines |= {"subuid": granted, "subgid": granted}
    with tempfile.TemporaryDirectory() as scratch:
        for file in _NAMES:
            real = Path("/etc", file)
            if not real.exists():
                continue
            copy = Path(scratch, file)
            # others' lines for the subordinate ids do not matter, and may be for the same
            copy.write_text((real.read_text() if file in ("passwd", "group") else "") + lines.get(file, ""))
            copy.chmod(0o644)
            mount.mount(str(copy), str(real), "", mount.MS_BIND)


def closed_above(directories: list[str]) -> dict[str, list[str]]:
    """Ancestors that are closed to others -> the directories below them, outermost first."""
    found: dict[str, list[str]] = {}
    for directory in sorted({os.path.realpath(item) for item in directories}):
        for parent in reversed(Path(directory).parents):
            if not parent.stat().st_mode & 0o001:
                found.setdefault(str(parent), []).append(directory)
                break
    return found


def show_only(closed: str, directories: list[str]) -> None:
    trees = [(directory, mount.clone_tree(directory)) for directory in directories]
    mount.mount("tmpfs", closed, "tmpfs", 0, "mode=755")
    for directory, tree in trees:
        os.makedirs(directory, exist_ok=True)
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        mount.move_mount(tree, place)
        os.close(place)


if __name__ == "__main__":
    main()
