"""The table of mounts.  Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

from typing import NamedTuple


class MountEntry(NamedTuple):
    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: str
    kind: str
    source: str
    super_options: str


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def read(pid: str = "self") -> list[MountEntry]:
    """All mounts of a process's namespace, oldest first."""
    entries = []
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.rstrip("\n").partition(" - ")
            mount_id, parent_id, device, root, target, options = left.split(" ")[:6]
            kind, source, super_options = right.split(" ", 2)
            entries.append(
                MountEntry(
                    int(mount_id),
                    int(parent_id),
                    device,
                    _plain(root),
                    _plain(target),
                    options,
                    kind,
                    _plain(source),
                    super_options,
                )
            )
    return entries
