"""Limits of writable layers: what others may find while an image is made or removed.  Nothing is mounted here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from corten.snapshot import disk_limits
from corten.snapshot.disk_limits import DiskLimits


class World:
    """One layer's directory, what was mounted there, and where others see the layer meanwhile."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = root / "layer"
        self.directory.mkdir()
        self.limits = DiskLimits(root)
        self.mounted: list[str] = []
        self.seen: list[Path] = []
        monkeypatch.setattr(disk_limits.projects, "is_xfs", lambda path: False)
        monkeypatch.setattr(disk_limits.shutil, "which", lambda name, path: name)
        monkeypatch.setattr(disk_limits.subprocess, "run", self._format)
        monkeypatch.setattr(disk_limits.loop, "mount_image", self._mount)
        monkeypatch.setattr(disk_limits.mounting, "umount2", self._unmount)
        monkeypatch.setattr(disk_limits.os.path, "ismount", lambda path: str(path) in self.mounted)

    def look(self) -> None:
        self.seen.append(self.limits.place("layer"))

    def _format(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert Path(command[-1]).is_file()
        self.look()
        return subprocess.CompletedProcess(command, 0, "", "")

    def _mount(self, image: str, target: str, kind: str) -> None:
        assert (Path(image).is_file(), kind) == (True, "ext4")
        (Path(target) / "lost+found").mkdir()
        self.mounted.append(target)

    def _unmount(self, target: str, flags: int) -> None:
        self.mounted.remove(target)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_half_made_images_are_not_mounted(world: World) -> None:
    world.limits.prepare("layer", 16 << 20)
    world.look()
    assert world.seen == [world.directory, world.directory / "disk"]
    assert world.mounted == [str(world.directory / "disk")]


def test_what_is_being_removed_is_not_mounted_again(world: World) -> None:
    world.limits.prepare("layer", 16 << 20)
    world.limits.release("layer")
    world.look()
    assert world.mounted == []


def test_after_a_reboot_it_is_mounted_once(world: World) -> None:
    world.limits.prepare("layer", 16 << 20)
    world.mounted.clear()
    world.look()
    world.look()
    assert world.mounted == [str(world.directory / "disk")]
