"""A directory that behaves as the kernel's resctrl file system, for machines without the hardware."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corten.runtime import resctrl

MOST_CLASSES = 4


class FakeResctrl:
    """What ``mkdir`` and ``rmdir`` do below ``root`` is the kernel's doing; files keep the last that was written."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        root.mkdir()
        self._fill(root)
        (root / "info").mkdir()
        (root / "info" / "last_cmd_status").write_text("ok\n")
        monkeypatch.setattr(os, "mkdir", self._below(self.make, self._mkdir))
        monkeypatch.setattr(os, "rmdir", self._below(self.remove, self._rmdir))
        monkeypatch.setattr(resctrl, "mount_point", lambda: str(root))

    def _below(self, ours: Callable[[Path], None], real: Callable[..., None]) -> Callable[..., None]:
        def called(path: Any, *args: Any, **named: Any) -> None:
            if str(path).startswith(f"{self.root}/"):
                ours(Path(path))
            else:
                real(path, *args, **named)

        return called

    @property
    def classes(self) -> set[str]:
        return {path.name for path in self.root.iterdir() if path.is_dir()} - {"info", "mon_groups"}

    def make(self, path: Path) -> None:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        if path.parent == self.root and len(self.classes) == MOST_CLASSES:
            (self.root / "info" / "last_cmd_status").write_text("out of CLOSIDs\n")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        self._mkdir(path)
        self._fill(path)

    def _fill(self, path: Path) -> None:
        (path / "tasks").touch()
        if path.parent.name != "mon_groups":
            (path / "schemata").write_text("    L3:0=7ff;1=7ff\n    MB:0=100;1= 70\n")
            self._mkdir(path / "mon_groups")

    def remove(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        for child in sorted(path.rglob("*"), reverse=True):
            if child.is_dir():
                self._rmdir(child)
            else:
                child.unlink()
        self._rmdir(path)
