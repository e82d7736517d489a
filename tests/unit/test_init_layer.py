"""The init layer has what an image lacks; of the image's directories only those in which something is missing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from corten.snapshot import init_layer


@pytest.fixture
def target(tmp_path):
    made = tmp_path / "init"
    made.mkdir()
    return made


def layer(tmp_path, *directories, files=()):
    made = tmp_path / "layer"
    made.mkdir()
    for name in directories:
        (made / name).mkdir()
    for name in files:
        (made / name).touch()
    return made


def entries(target):
    return sorted(str(path.relative_to(target)) for path in target.rglob("*"))


def test_an_empty_image_gets_everything(target):
    init_layer.make(target, [])
    assert entries(target) == [
        ".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc", "etc/hostname", "etc/hosts", "etc/mtab",
        "etc/resolv.conf", "proc", "sys",
    ]  # fmt: skip
    assert os.readlink(target / "etc/mtab") == "/proc/mounts"


def test_directories_of_the_image_are_not_made_again_unless_something_goes_inside(target, tmp_path):
    image = layer(tmp_path, "proc", "sys", "etc", "dev", "dev/pts", "dev/shm", files=("dev/console",))
    (image / "etc").chmod(0o711)
    init_layer.make(target, [image])
    assert entries(target) == [".dockerenv", "etc", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"]
    assert stat.S_IMODE((target / "etc").stat().st_mode) == 0o711


def test_nothing_is_made_behind_a_link_of_the_image(target, tmp_path):
    image = layer(tmp_path, "dev")
    (image / "etc").symlink_to("/elsewhere")
    init_layer.make(target, [image])
    assert entries(target) == [".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "proc", "sys"]


def test_the_topmost_layer_decides(target, tmp_path):
    """A file of an upper layer in place of a lower one's directory."""
    lower = layer(tmp_path, "dev", "etc")
    upper = tmp_path / "upper"
    upper.mkdir()
    Path(upper, "dev").touch()
    init_layer.make(target, [upper, lower])
    assert not (target / "dev").exists()
    assert (target / "etc/hosts").exists()
