"""The files of the kernel that a default container can read or write: not one more than under dockerd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attacker import Target

from daemons import Daemon, Dockerd

pytestmark = pytest.mark.needs("docker", "dockerd", "busybox", "openat2")

_LOOK = """
import json, os
found = {'readable': [], 'writable': []}
for top in ('/proc', '/sys', '/dev'):
    for directory, directories, files in os.walk(top):
        if directory == '/proc':
            # those of processes are the container's own
            own = ('self', 'thread-self')
            directories[:] = [name for name in directories if not name.isdigit() and name not in own]
        for name in files:
            path = f'{directory}/{name}'
            for mode, kind in ((os.O_RDONLY, 'readable'), (os.O_WRONLY, 'writable')):
                try:
                    opened = os.open(path, mode | os.O_NONBLOCK)
                except OSError:
                    continue
                if kind == 'writable' or top == '/dev' or os.fstat(opened).st_rdev == 0:
                    found[kind].append(path)
                os.close(opened)
print(json.dumps(found))
"""


def look(engine: Daemon | Dockerd, directory: Path, busybox: Path) -> dict[str, set[str]]:
    own = Target(engine, directory, busybox)
    # the names of groups and of processors are the machine's, those of the container's own group are not
    identity = json.loads(own.python(_LOOK, "--name", "looks", "--hostname", "looks"))
    return {kind: {path for path in paths if "/sys/fs/cgroup/" not in path} for kind, paths in identity.items()}


def test_no_file_more_than_under_dockerd(daemon: Daemon, dockerd: Dockerd, tmp_path: Path, busybox_tar: Path) -> None:
    ours = look(daemon, tmp_path / "ours", busybox_tar)
    theirs = look(dockerd, tmp_path / "theirs", busybox_tar)
    assert len(theirs["readable"]) > 500
    for kind in ("readable", "writable"):
        assert ours[kind] - theirs[kind] == set(), kind
