"""The machine's root as a layer in a user namespace, on kernels of today and on those before Linux 6.15."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("userns")

# runs as root of a user namespace of its own, with a mount namespace that ends with it
PROGRAM = '''
import errno, os, sys
from corten.linux import mount, overlay

def old(kind, source, settings=(), attributes=0):
    """A kernel that takes no layer that is mounted nowhere."""
    if kind == "overlay" and any("/proc/self/fd/" in setting for setting in settings):
        raise OSError(errno.EINVAL, "fsconfig")
    return new(kind, source, settings, attributes)

place = sys.argv[1]
new = mount.new_filesystem
if sys.argv[2] == "old":
    mount.new_filesystem = old
mount.mount("places", place, "tmpfs", 0, "")
for name in ("layer", "upper", "work", "target"):
    os.mkdir(f"{place}/{name}")
places = ([f"{place}/layer", "/"], f"{place}/upper", f"{place}/work", [])
root = overlay.overlay_fd(*places)
with open("etc/mine", "x", opener=lambda path, flags: os.open(path, flags, dir_fd=root)) as file:
    file.write("x")
assert os.path.exists(f"{place}/upper/etc/mine")
os.close(root)
overlay.overlay_mount(f"{place}/target", *places)
assert open(f"{place}/target/etc/mine").read() == "x"
assert open(f"{place}/target/etc/passwd").read() == open("/etc/passwd").read()
points = [line.split()[4] for line in open("/proc/self/mountinfo")]
assert not [point for point in points if "/.corten-" in point], points
'''


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_the_machines_root_in_a_user_namespace(tmp_path: Path, kernel: str) -> None:
    words = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", PROGRAM, str(tmp_path), kernel]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(Path("/tmp").glob(".corten-skeleton-*")) + list(Path("/tmp").glob(".corten-root-*"))
